"""The batch size: which is chosen of measured ones, and that measuring ends whatever the model."""

import pytest

from ntm_serve.batch_size import BUDGET_S, SIZES, best_size, is_past_best, measured_run_s, sizes_within
from ntm_serve.errors import EngineFault
from ntm_serve.testing import ManualClock


def run_s_of(**rates):
    """Steps a second by size, as the seconds of a run."""
    return {int(size.removeprefix("of_")): int(size.removeprefix("of_")) / rate for size, rate in rates.items()}


@pytest.mark.parametrize(
    ("run_s", "sizes", "best"),
    [
        (run_s_of(of_8=100, of_16=150, of_32=200), [8, 16, 32], 32),
        (run_s_of(of_8=100, of_16=200, of_32=150), [8, 16, 32], 16),
        (run_s_of(of_8=100, of_16=150, of_32=157), [8, 16, 32], 16),
        (run_s_of(of_8=100, of_16=150, of_32=158), [8, 16, 32], 32),
        # Three small gains are a large one.
        (run_s_of(of_8=100, of_16=104, of_32=108, of_64=112), [8, 16, 32, 64], 32),
        (run_s_of(of_1=100, of_2=101, of_4=99), [1, 2, 4], 1),
        (run_s_of(of_1=100), [1], 1),
    ],
)
def test_the_smallest_size_that_makes_nearly_the_most_steps_is_chosen(run_s, sizes, best):
    assert best_size(run_s, sizes) == best


@pytest.mark.parametrize(
    ("run_s", "sizes", "best"),
    [
        (run_s_of(of_1=100, of_2=190), SIZES, 64),
        # The last one was somebody else's turn of the core, as like as not.
        (run_s_of(of_1=100, of_2=190, of_4=1), SIZES, 64),
        (run_s_of(of_1=100, of_2=190), [1, 2, 4, 8], 8),
        (run_s_of(of_64=100, of_128=190), SIZES, 128),
    ],
)
def test_where_time_was_over_before_the_best_was_passed_it_is_what_suits_most(run_s, sizes, best):
    assert best_size(run_s, sizes) == best


def test_where_the_best_was_passed_nothing_is_supposed_of_larger_ones():
    assert best_size(run_s_of(of_1=100, of_2=190, of_4=100, of_8=100), SIZES) == 2


def test_two_sizes_far_below_the_best_end_the_search_and_one_does_not():
    assert not is_past_best(run_s_of(of_1=100))
    assert not is_past_best(run_s_of(of_1=100, of_2=10))
    assert not is_past_best(run_s_of(of_1=100, of_2=10, of_4=200))
    assert not is_past_best(run_s_of(of_1=100, of_2=79, of_4=81))
    assert is_past_best(run_s_of(of_1=100, of_2=79, of_4=79))


def test_sizes_end_where_no_cache_holds_their_rows():
    assert sizes_within(1) == list(SIZES)
    assert sizes_within(1 << 20) == [1, 2, 4, 8, 16, 32, 64]
    assert sizes_within(1 << 40) == [1]


class Machine:
    """Runs that take the seconds that `cost` says of a size, the number of a run so far and the time."""

    def __init__(self, cost):
        self.clock = ManualClock()
        self.runs = []
        self._cost = cost

    def prepared(self, rows):
        def run():
            self.runs.append(rows)
            self.clock.advance(self._cost(rows))

        return run

    def measured(self, sizes=SIZES):
        return measured_run_s(self.prepared, sizes, clock=self.clock)


def test_each_size_has_the_median_of_its_runs():
    slow = iter([9.0, 1.0, 1.2, 1.4, 0.0])

    def cost(rows):
        return 1e-3 * next(slow, 1.2)

    assert Machine(cost).measured([4]) == {4: pytest.approx(0.0012)}


def test_one_stall_of_the_machine_changes_nothing():
    usual = Machine(lambda rows: 1e-4 + rows * 1e-5)
    assert best_size(usual.measured(), SIZES) == 256

    def stalls(rows):
        return 1e-4 + rows * 1e-5 + (5.0 if len(machine.runs) == len(usual.runs) // 2 else 0.0)

    machine = Machine(stalls)
    assert best_size(machine.measured(), SIZES) == 256


@pytest.mark.parametrize("row_s", [1e-6, 1e-4, 1e-2])
def test_measuring_takes_the_budget_and_little_more(row_s):
    machine = Machine(lambda rows: 2 * row_s + rows * row_s)
    machine.measured()
    assert machine.clock() <= BUDGET_S * 1.01


def test_a_model_slower_than_the_budget_is_run_twice_and_no_more():
    machine = Machine(lambda rows: rows * 10.0)
    assert machine.measured() == {1: 10.0}
    assert machine.runs == [1, 1]


def test_sizes_far_beyond_the_best_are_not_run():
    machine = Machine(lambda rows: 1e-4 if rows <= 16 else 1e-5 * rows**1.5)
    assert list(machine.measured()) == [1, 2, 4, 8, 16, 32, 64]


def test_sizes_take_turns():
    machine = Machine(lambda rows: 1e-3)
    machine.measured([1, 2])
    assert machine.runs[8:16] == [1, 1, 2, 2, 1, 1, 2, 2]


def test_a_size_that_the_engine_cannot_run_ends_the_search():
    def cost(rows):
        if rows > 32:
            raise EngineFault("onnxruntime: bad allocation")
        return 1e-3

    machine = Machine(cost)
    assert list(machine.measured()) == [1, 2, 4, 8, 16, 32]
    with pytest.raises(EngineFault):
        machine.measured([64])
