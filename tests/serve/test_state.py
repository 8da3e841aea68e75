"""Where states lie: gathering copies nothing for the same company, and dead rows do not keep memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntm_serve.state import StateBlock, StateRow, gather


class Keeper:
    """A holder of a state, as a session is."""

    def __init__(self, state):
        self.state = state


def block(*values):
    """States of two tensors, told apart by their value."""
    column = np.array(values, np.float32)[:, np.newaxis]
    return StateBlock([column.copy(), np.repeat(column, 3, axis=1)], len(values))


def held(*values):
    """A block of which every row is held."""
    it = block(*values)
    keepers = [Keeper(StateBlock.of_one((np.zeros(1, np.float32), np.zeros(3, np.float32)))) for _ in values]
    for row, keeper in enumerate(keepers):
        it.hold(row, keeper)
    return it, keepers


def value(state):
    first, second = state.arrays()
    assert second.tolist() == [first[0]] * 3
    return first[0]


def test_a_state_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        StateRow(block(1, 2), 1).arrays()[0][0] = 5


def test_the_same_company_is_gathered_without_a_copy():
    it = block(1, 2, 3, 4)
    batch = gather([StateRow(it, row) for row in range(3)], 4)
    assert batch is it.arrays


def test_neighbours_are_gathered_as_a_view():
    it = block(1, 2, 3, 4)
    batch = gather([StateRow(it, 1), StateRow(it, 2)], 2)
    assert all(
        array.base is not None and np.shares_memory(array, whole) for array, whole in zip(batch, it.arrays, strict=True)
    )
    assert batch[0].ravel().tolist() == [2, 3]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=9), st.integers(0, 3))
def test_any_company_is_gathered_in_its_order_and_filled_with_valid_rows(places, missing):
    blocks = [block(*(10 * number + row for row in range(4))) for number in range(3)]
    states = [StateRow(blocks[number], row) for number, row in places]
    batch = gather(states, len(states) + missing)
    wanted = [10.0 * number + row for number, row in places]
    assert batch[0].ravel().tolist()[: len(states)] == wanted
    assert batch[1][: len(states)].tolist() == [[one] * 3 for one in wanted]
    assert all(len(array) == len(states) + missing for array in batch)
    assert set(batch[0].ravel().tolist()) <= {10.0 * number + row for number in range(3) for row in range(4)}


def test_a_holder_that_gets_another_row_lets_its_first_go():
    _, (keeper, *_) = held(1, 2, 3)
    second = block(9)
    second.hold(0, keeper)
    assert value(keeper.state) == 9
    assert keeper.state.block is second


def test_a_block_of_which_half_is_dead_moves_its_living_rows_and_they_keep_their_values():
    it, keepers = held(1, 2, 3, 4)
    it.let_go(keepers[0].state.row, keepers[0])
    it.compact()
    assert all(keeper.state.block is it for keeper in keepers[1:])
    it.let_go(keepers[2].state.row, keepers[2])
    it.compact()
    moved = {keeper.state.block for keeper in (keepers[1], keepers[3])}
    assert it not in moved
    assert len(moved) == 1
    assert [value(keeper.state) for keeper in (keepers[1], keepers[3])] == [2, 4]
    assert moved.pop().rows == 2


def test_rows_that_nobody_ever_held_count_as_dead():
    it = block(1, 2, 3, 4)
    keeper = Keeper(StateBlock.of_one((np.zeros(1, np.float32), np.zeros(3, np.float32))))
    it.hold(3, keeper)
    it.compact()
    assert keeper.state.block.rows == 1
    assert value(keeper.state) == 4


def test_the_initial_state_is_shared_and_never_moved():
    initial = StateBlock.of_one((np.ones(1, np.float32), np.ones(3, np.float32)))
    keepers = [Keeper(initial) for _ in range(3)]
    block(5).hold(0, keepers[0])
    initial.block.let_go(0, keepers[1])
    assert value(keepers[1].state) == value(keepers[2].state) == 1


@given(st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=8, unique=True), max_size=30))
def test_whoever_rides_with_whom_states_are_those_of_the_last_ride_and_cost_at_most_twice(rides):
    initial = StateBlock.of_one((np.zeros(1, np.float32), np.zeros(3, np.float32)))
    keepers = [Keeper(initial) for _ in range(12)]
    wanted = [0.0] * 12
    for number, company in enumerate(rides, 1):
        filler = [-1.0] * (-len(company) % 4)
        it = block(*(number + one / 100 for one in company), *filler)
        left = {it}
        for row, one in enumerate(company):
            left.add(keepers[one].state.block)
            it.hold(row, keepers[one])
            wanted[one] = number + one / 100
        for block_left in left:
            block_left.compact()
    assert [value(keeper.state) for keeper in keepers] == [np.float32(one) for one in wanted]
    blocks = {
        id(keeper.state.block): keeper.state.block for keeper in keepers if keeper.state.block is not initial.block
    }
    living = sum(keeper.state.block is not initial.block for keeper in keepers)
    assert sum(one.rows for one in blocks.values()) <= 2 * living
