"""The step as a whole: against the formulas written out, and as a pure function of its state."""

import numpy as np
import pytest
import torch
from models.rollout import initial_batch, rollout_logits
from torch import nn

from models import literal
from ntm_models.ntm import NTM, Form, NTMOptions

CONTROLLERS = ("feed-forward", "lstm", "gru")
HEADS = ((1, 1), (2, 3))

every_kind = pytest.mark.parametrize("controller", CONTROLLERS)
every_number_of_heads = pytest.mark.parametrize("heads", HEADS, ids=str)


def ntm_of(controller="feed-forward", heads=(1, 1)) -> NTM:
    torch.manual_seed(7)
    reads, writes = heads
    sizes = {"inputs": 3, "outputs": 2, "controller_size": 6, "slots": 8, "width": 4}
    return NTM(NTMOptions(controller=controller, read_heads=reads, write_heads=writes, **sizes))


def batch_of(ntm: NTM, sessions: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """An input and a state as a session has them in mid-life: nothing zero, the weightings sum to one."""
    random = torch.Generator().manual_seed(11)
    x = torch.rand(sessions, ntm.options.inputs, generator=random)
    state = {
        name: torch.rand(sessions, *value.shape, generator=random) * 2 - 1
        for name, value in ntm.initial_state().items()
    }
    for name in ("read_weighting", "write_weighting"):
        state[name] = torch.softmax(3 * state[name], dim=2)
    return x, state


def literal_controller(ntm: NTM):
    """The same controller, written without ours: from its weights to a function of numpy arrays."""
    weights = {name: value.detach().numpy() for name, value in ntm.controller.state_dict().items()}
    if ntm.options.controller == "feed-forward":
        return lambda x, _: (np.maximum(weights["hidden.weight"] @ x + weights["hidden.bias"], 0), {})
    if ntm.options.controller == "gru":

        def gru(x, state):
            h = literal.gru(x, state["controller_h"], weights)
            return h, {"controller_h": h}

        return gru
    cell = lstm_cell(weights, inputs=ntm.controller.gates.in_features - ntm.options.controller_size)

    def lstm(x, state):
        with torch.no_grad():
            row = [torch.from_numpy(array)[None] for array in (x, state["controller_h"], state["controller_c"])]
            h, c = (value[0].numpy() for value in cell(row[0], (row[1], row[2])))
        return h, {"controller_h": h, "controller_c": c}

    return lstm


def lstm_cell(weights, inputs: int) -> nn.LSTMCell:
    """torch's cell with the weights of ours; its gates stand in the order input, forget, candidate, output."""
    input_gate, forget_gate, output_gate, candidate = np.split(weights["gates.weight"], 4)
    rows = np.concatenate([input_gate, forget_gate, candidate, output_gate])
    biases = np.split(weights["gates.bias"], 4)
    cell = nn.LSTMCell(inputs, len(input_gate)).double()
    cell.load_state_dict(
        {
            "weight_ih": torch.from_numpy(rows[:, :inputs]),
            "weight_hh": torch.from_numpy(rows[:, inputs:]),
            "bias_ih": torch.from_numpy(np.concatenate([biases[0], biases[1], biases[3], biases[2]])),
            "bias_hh": torch.zeros(len(rows), dtype=torch.float64),
        }
    )
    return cell


@every_kind
@every_number_of_heads
def test_several_steps_give_what_the_formulas_of_the_paper_give(controller, heads):
    ntm = ntm_of(controller, heads).double()
    for parameter in ntm.parameters():  # Away from zero, so that no part of the step can hide.
        parameter.data *= 2
    x, state = batch_of(ntm, sessions=2)
    x, state = x.double(), {name: value.double() for name, value in state.items()}
    wanted = [{name: value[at].numpy() for name, value in state.items()} for at in range(2)]
    weights = {name: value.numpy() for name, value in ntm.state_dict().items()}
    emit = literal_controller(ntm)

    for _ in range(4):
        with torch.no_grad():
            outputs, state = ntm({"x": x}, state)
        for at in range(2):
            y, wanted[at] = literal.step(weights, ntm.options, x[at].numpy(), wanted[at], emit)
            np.testing.assert_allclose(outputs["y"][at], y, rtol=1e-3, atol=1e-4)
            assert state.keys() == wanted[at].keys()
            for name, value in wanted[at].items():
                np.testing.assert_allclose(state[name][at], value, rtol=1e-3, atol=1e-4, err_msg=name)


@every_kind
@every_number_of_heads
def test_a_step_leaves_its_input_and_its_state_as_they_were(controller, heads):
    ntm = ntm_of(controller, heads)
    x, state = batch_of(ntm, sessions=3)
    x_before, state_before = x.clone(), {name: value.clone() for name, value in state.items()}
    with torch.no_grad():
        ntm({"x": x}, state)
    assert torch.equal(x, x_before)
    assert all(torch.equal(state[name], state_before[name]) for name in state_before)
    assert state.keys() == state_before.keys()


@every_kind
@every_number_of_heads
def test_the_same_step_twice_gives_the_same_bits(controller, heads):
    ntm = ntm_of(controller, heads)
    x, state = batch_of(ntm, sessions=3)
    with torch.no_grad():
        (once, state_once), (again, state_again) = ntm({"x": x}, state), ntm({"x": x}, state)
    assert torch.equal(once["y"], again["y"])
    assert all(torch.equal(state_once[name], state_again[name]) for name in state_once)


@every_kind
@every_number_of_heads
def test_a_session_gets_from_a_batch_what_it_gets_alone(controller, heads):
    ntm = ntm_of(controller, heads)
    x, state = batch_of(ntm, sessions=4)
    with torch.no_grad():
        together, state_together = ntm({"x": x}, state)
        for at in range(4):
            row = slice(at, at + 1)
            alone, state_alone = ntm({"x": x[row]}, {name: value[row] for name, value in state.items()})
            torch.testing.assert_close(together["y"][row], alone["y"], rtol=0, atol=1e-6)
            for name, value in state_alone.items():
                torch.testing.assert_close(state_together[name][row], value, rtol=0, atol=1e-6)


@every_kind
@every_number_of_heads
def test_every_parameter_learns(controller, heads):
    ntm = ntm_of(controller, heads)
    x = torch.rand(2, 4, ntm.options.inputs, generator=torch.Generator().manual_seed(3))
    rollout_logits(ntm, x).square().sum().backward()
    for name, parameter in ntm.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@every_kind
@every_number_of_heads
def test_the_next_state_has_the_names_shapes_and_roles_of_the_first(controller, heads):
    ntm = ntm_of(controller, heads)
    reads, writes = heads
    carried = {"feed-forward": [], "lstm": ["controller_h", "controller_c"], "gru": ["controller_h"]}[controller]
    wanted = {
        "memory": (8, 4), "read_weighting": (reads, 8), "write_weighting": (writes, 8), "read_vector": (reads, 4),
        **dict.fromkeys(carried, (6,)),
    }  # fmt: skip

    first = ntm.initial_state()
    outputs, following = ntm({"x": torch.zeros(5, 3)}, initial_batch(ntm, 5))

    assert {name: tuple(value.shape) for name, value in first.items()} == wanted
    assert {name: tuple(value.shape) for name, value in following.items()} == {n: (5, *s) for n, s in wanted.items()}
    assert list(first) == list(following)
    assert set(wanted) <= set(ntm.roles)
    assert outputs["y"].shape == (5, 2)
    assert {value.dtype for value in (*first.values(), *following.values(), outputs["y"])} == {torch.float32}


@every_kind
def test_weightings_sum_to_one_from_the_first_state_on(controller):
    ntm = ntm_of(controller, (2, 3))
    state = initial_batch(ntm, 2)
    with torch.no_grad():
        for _ in range(5):
            for name in ("read_weighting", "write_weighting"):
                torch.testing.assert_close(state[name].sum(dim=2), torch.ones(state[name].shape[:2]))
                assert (state[name] >= 0).all()
            _, state = ntm({"x": torch.ones(2, 3)}, state)


def test_the_step_is_the_logistic_function_of_its_logits():
    ntm = ntm_of()
    x, state = batch_of(ntm, sessions=2)
    with torch.no_grad():
        assert torch.equal(ntm({"x": x}, state)[0]["y"], torch.sigmoid(ntm.logits({"x": x}, state)[0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"controller": "transformer"}, "controller: expected one of feed-forward, lstm, gru, got 'transformer'"),
        ({"slots": 0}, "slots: expected at least 1, got 0"),
        ({"write_heads": 0}, "write_heads: expected at least 1, got 0"),
        (
            {"heads_begin": ("content",)},
            r"heads_begin: expected content or shift of each of 2 heads, got \['content'\]",
        ),
        ({"heads_begin": ("content", "jump")}, "heads_begin: expected content or shift of each of 2 heads"),
    ],
)
def test_sizes_that_make_no_memory_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NTMOptions(inputs=1, outputs=1, **options)


def test_a_learned_memory_is_a_weight_that_a_loss_changes():
    torch.manual_seed(5)
    sizes = {"inputs": 3, "outputs": 2, "controller_size": 6, "slots": 8, "width": 4}
    ntm = NTM(NTMOptions(**sizes, form=Form(memory="learned")))
    memory = ntm.initial_state()["memory"]
    assert memory.shape == (8, 4)
    assert len(memory.unique(dim=0)) == 8
    rollout_logits(ntm, torch.rand(2, 3, 3)).sum().backward()
    assert ntm.state_dict()["first_memory"].equal(memory)
    assert ntm.first_memory.grad.abs().min() > 0


def test_fresh_heads_that_begin_by_content_attend_to_what_is_like_their_key():
    sizes = {"inputs": 3, "outputs": 2, "controller_size": 6, "slots": 16, "width": 8, "form": Form(memory="learned")}
    largest = []
    for begin in ((), ("content", "content")):
        torch.manual_seed(5)
        ntm = NTM(NTMOptions(**sizes, heads_begin=begin))
        _, following = ntm({"x": torch.rand(4, 3)}, initial_batch(ntm, 4))
        largest.append(following["read_weighting"].max(dim=2).values.mean().item())
    assert largest[0] < 0.4 < 0.6 < largest[1]


def test_fresh_heads_that_begin_by_shift_move_on_by_one_slot_a_step():
    torch.manual_seed(5)
    ntm = NTM(NTMOptions(inputs=3, outputs=2, controller_size=6, slots=8, width=4, heads_begin=("content", "shift")))
    state = initial_batch(ntm, 4)
    state["write_weighting"] = torch.eye(8)[[2, 2, 7, 0]].unsqueeze(1)
    for moved in ([3, 3, 0, 1], [4, 4, 1, 2]):
        _, state = ntm({"x": torch.rand(4, 3)}, state)
        assert state["write_weighting"].argmax(dim=2).flatten().tolist() == moved
