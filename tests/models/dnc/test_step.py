"""The step as a whole: against the formulas of Graves et al. 2016 written out slowly, and as a pure function."""

import numpy as np
import pytest
import torch
from models.rollout import initial_batch, rollout_logits
from torch import nn

from ntm_models.dnc import DNC, DNCOptions

KINDS = {
    "feed-forward": {"controller": "feed-forward", "layers": (6, 5)},
    "lstm": {"controller": "lstm", "layers": (5,)},
    "lstm-2": {"controller": "lstm", "layers": (5, 5), "read_heads": 3},
    "heads": {"controller": "feed-forward", "layers": (6,), "read_heads": 2},
}
PARTS = (
    "read keys", "read strengths", "write key", "write strength", "erase", "write vector", "free gates",
    "allocation gate", "write gate", "modes",
)  # fmt: skip
every_kind = pytest.mark.parametrize("kind", KINDS)


def dnc_of(kind: str, slots: int = 7) -> DNC:
    torch.manual_seed(7)
    dnc = DNC(DNCOptions(inputs=3, outputs=2, slots=slots, width=4, **KINDS[kind])).double()
    for parameter in dnc.parameters():  # Away from zero, so that no part of the step can hide.
        parameter.data *= 2
    # A memory that takes in hardly anything has slots that are used alike; the paper has no order for them.
    dnc.interface.bias.data.normal_()
    return dnc


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    powers = np.exp(x - x.max())
    return powers / powers.sum()


def literal_controller(dnc, seen, state):
    """What the controller emits and carries on, from its weights; an LSTM by torch's own cell."""
    if dnc.options.controller == "feed-forward":
        for layer in dnc.controller.layers:
            seen = np.maximum(layer.weight.numpy() @ seen + layer.bias.numpy(), 0)
        return seen, {}
    hs, cs = [], []
    for nth, gates in enumerate(dnc.controller.gates):
        size = dnc.options.layers[0]
        below = np.concatenate([seen, *hs[-1:]])
        order = torch.cat(
            [torch.arange(0, 2 * size), torch.arange(3 * size, 4 * size), torch.arange(2 * size, 3 * size)]
        )
        cell = nn.LSTMCell(len(below), size).double()
        cell.weight_ih.copy_(gates.weight[order, : len(below)])
        cell.weight_hh.copy_(gates.weight[order, len(below) :])
        cell.bias_ih.copy_(gates.bias[order])
        cell.bias_hh.zero_()
        before = [torch.from_numpy(state[name][nth])[None] for name in ("controller_h", "controller_c")]
        h, c = cell(torch.from_numpy(below)[None], tuple(before))
        hs.append(h[0].numpy())
        cs.append(c[0].numpy())
    return np.concatenate(hs), {"controller_h": np.stack(hs), "controller_c": np.stack(cs)}


def literal_step(dnc, x, state):
    """One step of one session, element by element; returns the outputs and the next state."""
    o = dnc.options
    heads, slots, width = o.read_heads, o.slots, o.width
    seen = np.concatenate([x, state["read_vector"].ravel()])
    h, carried = literal_controller(dnc, seen, state)
    sizes = [heads * width, heads, width, 1, width, width, heads, 1, 1, 3 * heads]
    interface = np.split(dnc.interface.weight.numpy() @ h + dnc.interface.bias.numpy(), np.cumsum(sizes)[:-1])
    read_keys, read_strengths, write_key, write_strength, erase, add, free, allocate, write, modes = interface

    def content(key, strength, memory):
        cosines = memory @ key / (np.linalg.norm(key) * np.linalg.norm(memory, axis=1))
        return softmax((1 + np.log1p(np.exp(strength))) * cosines)

    before, reading = state["write_weighting"][0], state["read_weighting"]
    retention = np.ones(slots)
    for head in range(heads):
        retention *= 1 - sigmoid(free[head]) * reading[head]
    usage = (state["usage"] + before - state["usage"] * before) * retention
    allocation, product = np.zeros(slots), 1.0
    for at in np.argsort(usage, kind="stable"):
        allocation[at] = (1 - usage[at]) * product
        product *= usage[at]
    found = content(write_key, write_strength, state["memory"])
    toward_free = sigmoid(allocate)
    writing = sigmoid(write) * (toward_free * allocation + (1 - toward_free) * found)
    memory = state["memory"] * (1 - np.outer(writing, sigmoid(erase))) + np.outer(writing, add)

    link = np.zeros((slots, slots))
    for i in range(slots):
        for j in range(slots):
            if i != j:
                kept = (1 - writing[i] - writing[j]) * state["link"][i, j]
                link[i, j] = kept + writing[i] * state["precedence"][j]
    following = np.zeros((heads, slots))
    for head in range(heads):
        shares = softmax(modes[3 * head : 3 * head + 3])
        by_content = content(read_keys[head * width : (head + 1) * width], read_strengths[head], memory)
        following[head] = (
            shares[0] * (link.T @ reading[head]) + shares[1] * by_content + shares[2] * link @ reading[head]
        )
    read_vector = following @ memory
    y = sigmoid(dnc.output.weight.numpy() @ h + dnc.read_output.weight.numpy() @ read_vector.ravel())
    return y, {
        "memory": memory,
        "usage": usage,
        "precedence": (1 - writing.sum()) * state["precedence"] + writing,
        "link": link,
        "write_weighting": writing[None],
        "read_weighting": following,
        "read_vector": read_vector,
        **carried,
    }


def batch_of(dnc: DNC, sessions: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """An input and a state as sessions have them in mid-life: after some steps of random inputs."""
    random = torch.Generator().manual_seed(11)
    state = {name: value.double() for name, value in initial_batch(dnc, sessions).items()}
    with torch.no_grad():
        for _ in range(5):
            x = torch.rand(sessions, dnc.options.inputs, generator=random, dtype=torch.float64)
            _, state = dnc({"x": x}, state)
    return x, state


@every_kind
@torch.no_grad()
def test_several_steps_give_what_the_formulas_of_the_paper_give(kind):
    dnc = dnc_of(kind)
    x, state = batch_of(dnc, sessions=2)
    wanted = [{name: value[at].numpy() for name, value in state.items()} for at in range(2)]
    for _ in range(4):
        outputs, state = dnc({"x": x}, state)
        for at in range(2):
            y, wanted[at] = literal_step(dnc, x[at].numpy(), wanted[at])
            np.testing.assert_allclose(outputs["y"][at], y, rtol=1e-6)
            assert state.keys() == wanted[at].keys()
            for name, value in wanted[at].items():
                np.testing.assert_allclose(state[name][at], value, rtol=1e-6, atol=1e-9, err_msg=name)


@every_kind
@torch.no_grad()
def test_a_session_gets_from_a_batch_what_it_gets_alone_and_nothing_that_was_given_is_written_to(kind):
    dnc = dnc_of(kind)
    x, state = batch_of(dnc, sessions=4)
    before = {name: value.clone() for name, value in state.items()}
    together, state_together = dnc({"x": x}, state)
    for at in range(4):
        row = slice(at, at + 1)
        alone, state_alone = dnc({"x": x[row]}, {name: value[row] for name, value in state.items()})
        torch.testing.assert_close(together["y"][row], alone["y"])
        for name, value in state_alone.items():
            torch.testing.assert_close(state_together[name][row], value)
    assert all(torch.equal(state[name], before[name]) for name in before)


@every_kind
def test_every_parameter_learns(kind):
    dnc = dnc_of(kind).float()
    x = torch.rand(2, 6, dnc.options.inputs, generator=torch.Generator().manual_seed(3))
    rollout_logits(dnc, x).square().sum().backward()
    for name, parameter in dnc.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@every_kind
def test_every_state_has_a_role_and_no_weight_knows_the_number_of_slots(kind):
    few, many = dnc_of(kind, slots=7), dnc_of(kind, slots=30)
    assert few.initial_state().keys() <= few.roles.keys()
    many.load_state_dict(few.state_dict())
    assert many.initial_state()["link"].shape == (30, 30)


def test_a_training_begins_with_a_memory_that_lets_go_of_nothing():
    dnc = DNC(DNCOptions(inputs=3, outputs=2, slots=5, width=4, layers=(6,), read_heads=2))
    biases = dict(zip(PARTS, dnc.interface.bias.split(dnc.parts), strict=True))
    assert biases.pop("free gates").tolist() == [-3, -3]
    assert biases.pop("write gate").tolist() == [-2]
    assert not any(one.any() for one in biases.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"controller": "gru"}, "controller: expected one of feed-forward, lstm, got 'gru'"),
        ({"layers": ()}, r"layers: expected one or more of at least 1, got \[\]"),
        ({"layers": (8, 0)}, r"layers: expected one or more of at least 1, got \[8, 0\]"),
        ({"controller": "lstm", "layers": (8, 9)}, r"layers: expected layers of one size for an LSTM, got \[8, 9\]"),
        ({"read_heads": 0}, "read_heads: expected at least 1, got 0"),
    ],
)
def test_sizes_that_make_no_dnc_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DNC(DNCOptions(inputs=1, outputs=1, **options))
