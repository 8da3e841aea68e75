"""Step numbers, the reply window and the life of sessions: pure, with times given by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serve.tickets import admit

from ntm_serve.errors import (
    InvalidInput,
    LimitReached,
    SessionClosed,
    SessionExists,
    SessionUnknown,
    StepAborted,
    StepAhead,
    StepConflict,
    StepForgotten,
)
from ntm_serve.sessions import Limits, Sessions
from ntm_serve.state import StateBlock, StateRow
from ntm_serve.step_model import ModelKey
from ntm_serve.testing import RunningSum

MODEL = RunningSum()
KEY = ModelKey("running-sum", "1")
LIMITS = Limits()
INITIAL = StateBlock.of_one(MODEL.initial_state)


def steps(*values):
    """T steps of the running sum."""
    return (np.array(values, np.float32).reshape(-1, 1),)


def opened(limits=LIMITS):
    return Sessions(limits).open(KEY, INITIAL, session_id="s", now_s=0.0, step_bytes=MODEL.spec.step_bytes)


def work(session, ticket, limits=LIMITS):
    """What the scheduler does with a ticket, without one."""
    while ticket.steps_done < ticket.steps:
        state = session.state if ticket.state is None else ticket.state
        row = [array[ticket.steps_done][np.newaxis] for array in ticket.inputs]
        outputs, following = MODEL.run(row, [array[np.newaxis] for array in state.arrays()])
        ticket.take([array[np.newaxis] for array in outputs], StateRow(StateBlock(following, 1), 0), 0)
    session.commit(ticket, limits, 0.0)
    ticket.settle()
    return ticket.outputs[0].ravel().tolist()


def make(session, inputs, first_step=None, limits=LIMITS):
    return work(session, admit(session, inputs, first_step).ticket, limits)


def test_a_session_starts_at_step_0_with_the_initial_state():
    session = opened()
    assert session.next_step == 0
    assert session.state is INITIAL


def test_steps_are_numbered_and_change_the_state():
    session = opened()
    assert make(session, steps(1, 2), 0) == [1, 3]
    assert make(session, steps(3)) == [6]
    assert session.next_step == 3
    assert session.state.arrays()[0].tolist() == [6]


def test_the_state_is_read_only_and_a_value():
    session = opened()
    before = session.state.arrays()
    make(session, steps(1))
    assert before[0].tolist() == [0]
    with pytest.raises(ValueError, match="read-only"):
        session.state.arrays()[0][0] = 7


def test_a_number_that_is_too_high_is_refused_with_the_expected_one():
    session = opened()
    make(session, steps(1))
    with pytest.raises(StepAhead, match="session s: expected step 1, got 3") as refused:
        admit(session, steps(1), 3)
    assert refused.value.fields == {"expected_step": "1"}
    assert not session.in_flight


def test_a_retry_is_answered_bit_for_bit_and_never_run_again():
    session = opened()
    first = make(session, steps(1, 2), 0)
    make(session, steps(3), 2)
    again = admit(session, steps(1, 2), 0)
    assert not again.new
    assert again.ticket.settled
    assert again.ticket.outputs[0].ravel().tolist() == first
    assert session.next_step == 3
    assert session.state.arrays()[0].tolist() == [6]


def test_a_retry_may_be_cut_otherwise_than_the_first_time():
    session = opened()
    make(session, steps(1, 2, 3), 0)
    make(session, steps(4, 5), 3)
    again = admit(session, steps(2, 3, 4), 1)
    assert again.ticket.settled
    assert again.ticket.outputs[0].ravel().tolist() == [3, 6, 10]


def test_a_retry_that_goes_beyond_what_was_made_runs_only_the_rest():
    session = opened()
    make(session, steps(1, 2), 0)
    more = admit(session, steps(2, 3, 4), 1)
    assert more.new
    assert more.ticket.replayed == 1
    assert work(session, more.ticket) == [3, 6, 10]
    assert session.next_step == 4
    assert session.state.arrays()[0].tolist() == [10]
    assert admit(session, steps(1, 2, 3, 4), 0).ticket.outputs[0].ravel().tolist() == [1, 3, 6, 10]


def test_a_step_taken_with_other_inputs_is_a_conflict():
    session = opened()
    make(session, steps(1), 0)
    with pytest.raises(StepConflict, match="steps 0 to 0 were taken with other inputs"):
        admit(session, steps(2), 0)


def test_minus_zero_is_another_input_than_zero():
    session = opened()
    make(session, steps(0.0), 0)
    with pytest.raises(StepConflict):
        admit(session, steps(-0.0), 0)


def test_a_retry_of_steps_in_flight_joins_them():
    session = opened()
    ticket = admit(session, steps(1, 2), 0).ticket
    again = admit(session, steps(1, 2), 0)
    assert again.ticket is ticket
    assert not again.new
    assert session.in_flight == [ticket]


@pytest.mark.parametrize(("other", "at"), [(steps(1, 3), 0), (steps(1), 0), (steps(2), 1)])
def test_other_steps_at_a_number_in_flight_are_a_conflict(other, at):
    session = opened()
    admit(session, steps(1, 2), 0)
    with pytest.raises(StepConflict, match="is in flight"):
        admit(session, other, at)
    assert len(session.in_flight) == 1


def test_messages_may_follow_each_other_without_waiting():
    session = opened()
    tickets = [admit(session, steps(1), number).ticket for number in range(3)]
    assert session.promised_step == 3
    assert [work(session, ticket) for ticket in tickets] == [[1], [2], [3]]


def test_a_failed_message_leaves_no_trace_and_takes_those_after_it_along():
    session = opened()
    make(session, steps(1), 0)
    tickets = [admit(session, steps(1), number).ticket for number in (1, 2, 3)]
    session.fail(tickets[1], StepAborted("on purpose"))
    assert not tickets[0].settled
    assert tickets[1].error.message == "on purpose"
    assert isinstance(tickets[2].error, StepAborted)
    assert "step 3 was to follow step 2" in tickets[2].error.message
    assert session.promised_step == 2
    assert work(session, tickets[0]) == [2]
    assert make(session, steps(5), 2) == [7]


def test_the_window_keeps_so_many_messages():
    limits = Limits(window_messages=2)
    session = opened(limits)
    for number in range(5):
        make(session, steps(1), number, limits)
    assert session.oldest_step == 3
    assert admit(session, steps(1), 3).ticket.settled
    with pytest.raises(StepForgotten, match="expected step 3 or later, got 2") as refused:
        admit(session, steps(1), 2)
    assert refused.value.fields["oldest_step"] == "3"


def test_the_window_keeps_so_many_bytes_but_always_the_last_message():
    limits = Limits(window_bytes_max=20)
    session = opened(limits)
    for number in range(4):
        make(session, steps(1), number, limits)  # 8 bytes each: 4 of input, 4 of output.
    assert session.oldest_step == 2
    make(session, steps(*range(100)), 4, limits)
    assert session.oldest_step == 4


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(1, 5), st.booleans()), min_size=1, max_size=25).map(tuple))
def test_whatever_the_order_of_sends_and_retries_every_step_counts_once(sends):
    # Given a client whose step number n always carries the input n + 1
    session = opened()
    for first, count, numbered in sends:
        inputs = steps(*[(first if numbered else session.promised_step) + i + 1 for i in range(count)])
        try:
            admitted = admit(session, inputs, first if numbered else None)
        except (StepAhead, StepForgotten):
            assert first > session.next_step
            continue
        if admitted.new:
            work(session, admitted.ticket)
        # Then what comes back is the running sum at those numbers, made once
        at = admitted.ticket.first_step
        wanted = [float(sum(range(1, number + 2))) for number in range(at, at + count)]
        assert admitted.ticket.outputs[0].ravel().tolist() == wanted
    assert session.state.arrays()[0].tolist() == [sum(range(1, session.next_step + 1))]


def test_a_session_is_found_until_it_is_closed_and_then_said_to_be_closed():
    sessions = Sessions(LIMITS)
    session = sessions.open(KEY, INITIAL, session_id=None, now_s=0.0)
    assert sessions.find(session.id) is session
    sessions.end(session, SessionClosed("session: was closed"))
    with pytest.raises(SessionClosed, match="was closed"):
        sessions.find(session.id)
    with pytest.raises(SessionUnknown, match="was never seen"):
        sessions.find("nobody")
    assert len(sessions) == 0
    assert sessions.open_by_model[KEY] == 0


def test_closing_answers_what_is_in_flight():
    sessions = Sessions(LIMITS)
    session = sessions.open(KEY, INITIAL, session_id="s", now_s=0.0)
    ticket = admit(session, steps(1)).ticket
    sessions.end(session, SessionClosed("session s: was closed"))
    assert isinstance(ticket.error, SessionClosed)


def test_a_name_in_use_is_refused_and_a_closed_one_is_free_again():
    sessions = Sessions(LIMITS)
    session = sessions.open(KEY, INITIAL, session_id="s", now_s=0.0)
    with pytest.raises(SessionExists):
        sessions.open(KEY, INITIAL, session_id="s", now_s=0.0)
    sessions.end(session, SessionClosed("session s: was closed"))
    assert sessions.open(KEY, INITIAL, session_id="s", now_s=0.0).next_step == 0


@pytest.mark.parametrize("name", ["", " ", "a b", "x" * 129, "\n", "é", "../x"])
def test_a_name_of_other_characters_is_refused(name):
    with pytest.raises(InvalidInput, match="session id: expected 1 to 128 of"):
        Sessions(LIMITS).open(KEY, INITIAL, session_id=name, now_s=0.0)


def test_more_sessions_than_the_limit_are_refused_at_the_door():
    sessions = Sessions(Limits(sessions_max=1))
    sessions.open(KEY, INITIAL, session_id="a", now_s=0.0)
    with pytest.raises(LimitReached, match="at most 1 open"):
        sessions.open(KEY, INITIAL, session_id="b", now_s=0.0)


def test_sessions_idle_for_longer_than_their_life_are_named():
    sessions = Sessions(Limits(idle_life_s=10))
    idle = sessions.open(KEY, INITIAL, session_id="idle", now_s=0.0)
    busy = sessions.open(KEY, INITIAL, session_id="busy", now_s=0.0)
    admit(busy, steps(1))
    assert sessions.idle(10.0) == []
    assert sessions.idle(10.1) == [idle]


def test_without_an_idle_life_nothing_expires():
    sessions = Sessions(Limits(idle_life_s=None))
    sessions.open(KEY, INITIAL, session_id="s", now_s=0.0)
    assert sessions.idle(1e12) == []
