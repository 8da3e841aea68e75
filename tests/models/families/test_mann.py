"""Least-recently-used access, against the equations of Santoro et al. 2016 written out slot by slot."""

import numpy as np
import pytest
import torch

from ntm_models.families.mann import MANN, MANNOptions

C, N, M, R = 9, 5, 4, 2


@pytest.fixture
def step():
    torch.manual_seed(1)
    return MANN(MANNOptions(inputs=3, outputs=C - 6, controller_size=7, slots=N, width=M, heads=R)).eval()


def some_state(step, rows):
    random = torch.Generator().manual_seed(2)
    state = {name: torch.randn(rows, *value.shape, generator=random) for name, value in step.initial_state().items()}
    state["usage"] = state["usage"].abs()
    state["read_weighting"] = torch.softmax(state["read_weighting"], dim=2)
    return state


def test_a_step_is_the_equations(step):
    state = some_state(step, 3)
    inputs = {"x": torch.rand(3, 3), "label": torch.tensor([0, 2, -1])}
    with torch.no_grad():
        outputs, following = step(inputs, state)
        for row in range(3):
            expect_equations(step, inputs, state, outputs, following, row)


def expect_equations(step, inputs, state, outputs, following, row):
    """One session, by hand; the controller and the linear maps are torch's."""
    label = np.eye(C - 6)[inputs["label"][row]] if inputs["label"][row] >= 0 else np.zeros(C - 6)
    read_before = state["read_vector"][row].flatten()
    seen = torch.cat([inputs["x"][row], torch.tensor(label, dtype=torch.float32), read_before])
    h, _ = step.controller(seen[None], {name: state[name][row : row + 1] for name in step.controller.state_shapes})
    keys, added, strengths, gates = (each[0].numpy() for each in step.heads(h).split(step.parts, dim=1))
    keys, added = np.tanh(keys).reshape(R, M), np.tanh(added).reshape(R, M)

    usage, memory = state["usage"][row].numpy(), state["memory"][row].numpy().copy()
    least = np.argsort(usage)[:R]
    memory[least] = 0  # Emptied before it is written to.
    writing = np.zeros((R, N))
    for head in range(R):
        gate = 1 / (1 + np.exp(-gates[head]))
        writing[head] = gate * state["read_weighting"][row, head].numpy()  # eq. 7
        writing[head, least[head]] += 1 - gate
        for slot in range(N):
            memory[slot] += writing[head, slot] * added[head]  # eq. 8
    reading = np.zeros((R, N))
    for head in range(R):
        norms = np.linalg.norm(memory, axis=1) * np.linalg.norm(keys[head])
        similar = (1 + np.log1p(np.exp(strengths[head]))) * (memory @ keys[head]) / (norms + 1e-6)
        reading[head] = np.exp(similar) / np.exp(similar).sum()  # eq. 2 and 3
    read = reading @ memory  # eq. 4
    told = torch.cat([h[0], torch.tensor(read.flatten(), dtype=torch.float32)])

    for name, wanted in {
        "memory": memory,
        "read_weighting": reading,
        "read_vector": read,
        "usage": 0.95 * usage + reading.sum(axis=0) + writing.sum(axis=0),  # eq. 5
    }.items():
        np.testing.assert_allclose(following[name][row], wanted, rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(outputs["y"][row], torch.softmax(step.output(told), dim=0), rtol=1e-4, atol=1e-5)


def test_slots_that_nobody_used_are_taken_one_after_another(step):
    state = {name: value.expand(1, *value.shape) for name, value in step.initial_state().items()}
    with torch.no_grad():
        step.heads.bias[-R:] = -50  # The gates: write to the least used slot alone.
        step.heads.weight[-R:] = 0
        for _ in range(2):
            _, state = step({"x": torch.rand(1, 3), "label": torch.tensor([1])}, state)
    written = state["memory"][0].abs().sum(dim=1) > 1e-3
    assert written.tolist() == [True, True, True, True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": 0}, "slots: expected at least 1, got 0"),
        ({"slots": 2, "heads": 3}, "heads: expected at most one for each slot, 2, got 3"),
        ({"usage_decay": 1.0}, "usage_decay: expected a number between 0 and 1, got 1.0"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        MANNOptions(inputs=3, outputs=3, **options)
