"""Rides: steps of one company in a row, ended early where somebody waits or a row must get off."""

import numpy as np
import pytest
from serve.tickets import admit

from ntm_serve.errors import EngineFault, NonFiniteState
from ntm_serve.ride import STEPS_MAX, run_ride
from ntm_serve.sessions import Limits, Sessions
from ntm_serve.state import StateBlock, StateRow
from ntm_serve.step_model import BatchIndependence
from ntm_serve.testing import RunningSum
from ntm_serve.testing.running_sum import FAILING_INPUT


def nobody_waits():
    return False


def company(model, *messages):
    """Sessions with a message each: its values are the inputs of its steps."""
    sessions, initial = Sessions(Limits()), StateBlock.of_one(model.initial_state)
    tickets = []
    for values in messages:
        session = sessions.open(model.card.key, initial, session_id=None, now_s=0.0)
        inputs = (np.array(values, np.float32).reshape(-1, 1),)
        tickets.append(admit(session, inputs).ticket)
    return tickets


def given(ride, row):
    return ride.outputs[0][:, row].ravel().tolist()


def test_a_company_rides_as_far_as_its_shortest_message():
    model = RunningSum()
    ride = run_ride(model, company(model, [1, 1, 1], [2, 2]), nobody_waits)
    assert (ride.steps, given(ride, 0), given(ride, 1)) == (2, [1, 2], [2, 4])
    assert model.batches == [2, 2]


def test_a_ride_ends_after_the_step_during_which_somebody_came():
    model = RunningSum()
    ride = run_ride(model, company(model, [1] * 9), lambda: len(model.batches) == 3)
    assert (ride.steps, given(ride, 0)) == (3, [1, 2, 3])


def test_a_ride_has_a_longest():
    model = RunningSum()
    assert run_ride(model, company(model, [1] * (STEPS_MAX + 5)), nobody_waits).steps == STEPS_MAX


def test_a_ride_goes_on_from_where_the_ticket_was():
    model = RunningSum()
    tickets = company(model, [1, 2, 3])
    (ticket,) = tickets
    first = run_ride(model, tickets, lambda: True)
    ticket.take(first.outputs, StateRow(first.block, 0), 0)
    rest = run_ride(model, tickets, nobody_waits)
    assert (first.steps, given(rest, 0)) == (1, [3, 6])


def test_missing_rows_are_filled_and_not_seen():
    model = RunningSum()
    model.batch_independence = BatchIndependence(holds=True, padding=4, rows_tested=64)
    ride = run_ride(model, company(model, [1], [2], [3], [4], [5]), nobody_waits)
    assert model.batches == [8]
    assert [given(ride, row) for row in range(5)] == [[1], [2], [3], [4], [5]]
    assert len(ride.errors) == 5


def test_a_row_whose_state_is_not_finite_ends_the_ride_and_fails_alone():
    model = RunningSum()
    ride = run_ride(model, company(model, [1, 3e38, 3e38, 1], [1, 1, 1, 1]), nobody_waits)
    assert ride.steps == 3
    assert isinstance(ride.errors[0], NonFiniteState)
    assert "step 2: expected a finite next state" in ride.errors[0].message
    assert ride.errors[1] is None
    assert given(ride, 1) == [1, 2, 3]


def test_an_engine_that_fails_on_the_way_ends_the_ride_before_that_step():
    model = RunningSum()
    ride = run_ride(model, company(model, [1, FAILING_INPUT], [1, 1]), nobody_waits)
    assert (ride.steps, ride.errors) == (1, [None, None])


def test_an_engine_that_fails_at_the_first_step_fails_only_the_row_at_fault():
    model = RunningSum()
    ride = run_ride(model, company(model, [FAILING_INPUT, 1], [5, 1]), nobody_waits)
    assert ride.steps == 1
    assert isinstance(ride.errors[0], EngineFault)
    assert (ride.errors[1], given(ride, 1)) == (None, [5])


def test_a_fault_of_ours_is_every_places_error():
    class Broken(RunningSum):
        def run(self, inputs, state):
            raise KeyError("not what the contract says")

    model = Broken()
    ride = run_ride(model, company(model, [1], [1]), nobody_waits)
    assert ride.steps == 0
    assert all(type(error) is EngineFault and "not what the contract" in error.detail for error in ride.errors)


@pytest.mark.parametrize("part", ["outputs", "state"])
def test_an_engine_that_gives_another_shape_than_its_spec_fails_every_row_by_name(part):
    class Odd(RunningSum):
        def run(self, inputs, state):
            outputs, following = super().run(inputs, state)
            wide = [np.repeat(following[0], 2, axis=1)]
            return (wide, following) if part == "outputs" else (outputs, wide)

    model = Odd()
    ride = run_ride(model, company(model, [1], [1]), nobody_waits)
    name = "y" if part == "outputs" else "total"
    assert all(isinstance(error, EngineFault) for error in ride.errors)
    assert f"{name}: expected float32[1, 1], got float32[1, 2]" in ride.errors[0].message
