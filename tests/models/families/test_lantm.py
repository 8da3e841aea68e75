"""A Lie-access machine: heads that move, and a ring that keeps the newest."""

import numpy as np
import pytest
import torch

from ntm_models.families.lantm import LANTM, LANTMOptions, inverse_norm

N, M = 4, 3


@pytest.fixture
def step():
    torch.manual_seed(1)
    return LANTM(LANTMOptions(inputs=2, outputs=2, controller_size=5, entries=N, width=M)).eval()


def ran(step, steps, state=None):
    state = state or {name: value.expand(1, *value.shape) for name, value in step.initial_state().items()}
    states = [state]
    with torch.no_grad():
        for at in range(steps):
            _, state = step({"x": torch.tensor([[at % 2, 1.0]])}, state)
            states.append(state)
    return states


def test_entries_are_written_in_a_ring_and_the_oldest_makes_room(step):
    states = ran(step, 6)
    assert [state["write_pointer"].item() for state in states] == [0, 1, 2, 3, 0, 1, 2]
    assert states[-1]["write_pointer"].dtype == torch.int64
    for at in range(6):
        before, after = states[at], states[at + 1]
        same = [torch.equal(before["memory"][0, slot], after["memory"][0, slot]) for slot in range(N)]
        assert same == [slot != at % N for slot in range(N)]
        assert torch.equal(after["places"][0, at % N], after["write_place"][0])


def test_a_head_that_is_moved_and_moved_back_stands_where_it_stood(step):
    with torch.no_grad():
        step.heads.weight.zero_()
        step.heads.bias.zero_()
        step.heads.bias[8:10] = -50  # The gates: stay with the last place.
        step.heads.bias[:4] = torch.tensor([0.4, -0.2, 1.0, 0.1])
        states = ran(step, 3)
        step.heads.bias[:4] *= -1
        back = ran(step, 3, states[-1])
    for name, move in (("read_place", [0.4, -0.2]), ("write_place", [1.0, 0.1])):
        np.testing.assert_allclose(states[1][name][0], np.tanh(move), rtol=0, atol=1e-6)
        np.testing.assert_allclose(states[3][name][0], 3 * np.tanh(move), rtol=0, atol=1e-6)
        np.testing.assert_allclose(back[-1][name][0], [0, 0], rtol=0, atol=1e-6)


def test_values_are_read_by_strength_over_squared_distance():
    place, strengths = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5, 1.0, 0.0]])
    places = torch.tensor([[[1.0, 2.0], [1.0, 4.0], [1.0, 2.0]]])
    first, second = 0.5 / 0.01, 1 / (4 + 0.01)
    wanted = [[first / (first + second), second / (first + second), 0.0]]
    np.testing.assert_allclose(inverse_norm(place, places, strengths), wanted, rtol=1e-5, atol=0)


def test_nothing_is_read_where_nothing_was_written():
    assert inverse_norm(torch.zeros(1, 2), torch.zeros(1, N, 2), torch.zeros(1, N)).tolist() == [[0.0] * N]


def test_a_step_reads_what_its_state_and_its_place_say(step):
    before, after = ran(step, 3)[-2:]
    weighting = inverse_norm(after["read_place"], after["places"], after["strengths"])
    np.testing.assert_allclose(after["read_vector"][:, 0], (weighting.unsqueeze(1) @ after["memory"])[:, 0], atol=1e-6)
    assert not torch.equal(before["read_vector"], after["read_vector"])
