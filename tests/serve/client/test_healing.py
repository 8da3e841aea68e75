"""What a client decides when something breaks: without sockets, without waiting, with seeded chance."""

import random

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

from ntm_serve.client import RetryPolicy
from ntm_serve.client.asking import Backoff, Call, asked, closed, opened, stepped
from ntm_serve.client.conversion import SessionFacts, error_of_call, steps_of
from ntm_serve.client.healing import FIRST_ANSWER_S, FIRST_TRIES, Healing, Patience
from ntm_serve.client.in_flight import InFlight
from ntm_serve.client.lines import Lines, Turn
from ntm_serve.errors import (
    CallerFault,
    DeadlinePassed,
    EngineFault,
    InvalidInput,
    LimitReached,
    NtmServeError,
    OwnedElsewhere,
    ServerDraining,
    ServerUnreachable,
    SessionClosed,
    SessionExists,
    SessionLost,
    SessionUnknown,
    StepAhead,
    StepCancelled,
    StepConflict,
    StepForgotten,
    StoreUnavailable,
    TooLarge,
)
from ntm_serve.spec import TensorSpec
from ntm_serve.testing import ManualClock
from ntm_serve.v1 import sessions_pb2
from ntm_serve.wire import DETAILS_KEY, tensor_of, wire_error, wire_spec

GONE = ServerUnreachable("gone")
X = TensorSpec("x", "float32", (1,))


def healing_of(policy, clock, *, seed=0):
    """Of a client that a server has answered."""
    healing = Healing(policy, clock=clock, chance=random.Random(seed))
    healing.heard("a reply")
    return healing


def facts_of(next_step=0):
    session = sessions_pb2.Session(session_id="a", model="m", version="1", next_step=next_step)
    return SessionFacts(sessions_pb2.OpenResponse(session=session, inputs=[wire_spec(X)], outputs=[wire_spec(X)]))


def reply_of(first_step, steps=1, *, tag=0):
    """To steps from that number on: the outputs are the numbers after them."""
    y = np.arange(first_step + 1, first_step + steps + 1, dtype=np.float32).reshape(1, steps, 1)
    return sessions_pb2.StepResponse(tag=tag, next_steps=[first_step + steps], outputs=[tensor_of("x", y)])


def standing_at(step):
    return sessions_pb2.GetResponse(session=sessions_pb2.Session(session_id="a", next_step=step))


def carried_out(asking, outcomes, clock=None):
    """The result, or the error raised, and the calls that were made."""
    calls, outcome, outcomes = [], None, list(outcomes)
    try:
        while True:
            wanted = asking.send(outcome)
            if isinstance(wanted, Backoff):
                if clock is not None:
                    clock.advance(wanted.wait_s)
                outcome = None
            else:
                calls.append(wanted)
                outcome = outcomes.pop(0)
    except StopIteration as end:
        return end.value, calls
    except NtmServeError as error:
        return error, calls


def wait_for_ever(patience, clock, error):
    while True:
        clock.advance(patience.wait_s(error))


def methods(calls):
    return [call.method.removeprefix("Sessions.") for call in calls]


@pytest.mark.parametrize("seed", range(20))
def test_waits_are_drawn_from_a_bound_that_grows_to_its_end(seed):
    policy = RetryPolicy(patience_s=1e6, first_backoff_s=0.1, backoff_max_s=3.0, multiplier=2.0)
    patience = Patience(healing_of(policy, ManualClock(), seed=seed))
    waits = [patience.wait_s(GONE) for _ in range(2000)]
    assert all(0 <= wait <= min(3.0, 0.1 * 2.0 ** min(number, 50)) for number, wait in enumerate(waits))
    late = np.array(waits[10:])
    assert late.max() > 2.9
    assert late.min() < 0.1
    assert 1.4 < late.mean() < 1.6


@pytest.mark.parametrize("error", [ServerUnreachable, ServerDraining, OwnedElsewhere, StoreUnavailable, StepCancelled])
def test_what_passes_by_itself_is_waited_for(error):
    assert Patience(healing_of(RetryPolicy(), ManualClock())).wait_s(error("")) >= 0


@pytest.mark.parametrize(
    "error", [EngineFault, InvalidInput, TooLarge, StepConflict, StepForgotten, SessionClosed, LimitReached]
)
def test_what_does_not_pass_is_raised_as_it_is(error):
    mine = error("mine")
    with pytest.raises(error) as raised:
        Patience(healing_of(RetryPolicy(), ManualClock())).wait_s(mine)
    assert raised.value is mine


def test_what_is_too_large_is_not_waited_for_where_a_limit_would_be():
    patience, large = Patience(healing_of(RetryPolicy(), ManualClock())), TooLarge("mine")
    assert patience.wait_s(LimitReached("theirs", retry_after_s=2.0), again=True) >= 2.0
    with pytest.raises(TooLarge) as raised:
        patience.wait_s(large, again=True)
    assert raised.value is large
    assert not patience.waits_after(large, again=True)


def test_without_a_policy_every_error_is_raised_as_it_is():
    with pytest.raises(ServerUnreachable) as raised:
        Patience(healing_of(None, ManualClock())).wait_s(GONE)
    assert raised.value is GONE


@pytest.mark.parametrize("seed", range(20))
def test_patience_ends_with_the_last_error_and_what_was_tried(seed):
    clock = ManualClock(100.0)
    patience = Patience(healing_of(RetryPolicy(patience_s=5.0), clock, seed=seed))
    error = OwnedElsewhere("b has it", fields={"owner": "b"})
    with pytest.raises(OwnedElsewhere, match=r"b has it; tried \d+ times in 5\.0 s without a new reply") as raised:
        wait_for_ever(patience, clock, error)
    assert raised.value.fields == {"owner": "b"}
    assert clock.now_s == pytest.approx(105.0), "the last try is made when patience ends"


def test_progress_begins_patience_anew():
    clock = ManualClock()
    patience = Patience(healing_of(RetryPolicy(patience_s=5.0), clock))
    for _ in range(10):
        patience.wait_s(GONE)
        clock.advance(4.0)
        patience.progress()
    patience.wait_s(GONE)
    assert clock.now_s == 40.0


def test_an_address_where_nobody_ever_answered_is_told_soon():
    clock = ManualClock()
    patience = Patience(Healing(RetryPolicy(), clock=clock, chance=random.Random(0)))
    with pytest.raises(ServerUnreachable):
        wait_for_ever(patience, clock, GONE)
    assert clock.now_s == pytest.approx(FIRST_ANSWER_S)


def test_first_connections_that_the_network_swallows_are_no_wrong_address_yet():
    clock = ManualClock()
    patience = Patience(Healing(RetryPolicy(), clock=clock, chance=random.Random(0)))
    for _ in range(FIRST_TRIES - 1):
        clock.advance(FIRST_ANSWER_S)
        clock.advance(patience.wait_s(GONE))
    clock.advance(FIRST_ANSWER_S)
    with pytest.raises(ServerUnreachable):
        patience.wait_s(GONE)


def test_a_server_that_refuses_is_one_that_answers():
    clock = ManualClock()
    healing = Healing(RetryPolicy(patience_s=20.0), clock=clock, chance=random.Random(0))
    patience = Patience(healing)
    clock.advance(patience.wait_s(ServerDraining("")))
    with pytest.raises(ServerUnreachable):
        wait_for_ever(patience, clock, GONE)
    assert clock.now_s == pytest.approx(20.0)


def test_a_limit_is_waited_for_as_long_as_it_says_once_something_broke():
    clock = ManualClock()
    patience = Patience(healing_of(RetryPolicy(first_backoff_s=0.1), clock))
    assert 7.0 <= patience.wait_s(LimitReached("", retry_after_s=7.0), again=True) <= 7.1
    with pytest.raises(LimitReached) as raised:
        patience.wait_s(LimitReached("", retry_after_s=31.0), again=True)
    assert raised.value.retry_after_s == 31.0


def test_the_time_of_a_call_is_that_of_all_its_tries():
    clock = ManualClock()
    patience = Patience(healing_of(RetryPolicy(), clock), timeout_s=2.0)
    assert patience.left_s() == 2.0
    assert patience.left_s(0.5) == 0.5
    with pytest.raises(DeadlinePassed, match=r"the 2 s of the call are over; tried \d+ times in .* last: gone"):
        wait_for_ever(patience, clock, GONE)
    assert clock.now_s == pytest.approx(2.0)
    assert patience.left_s() == 0.0


def test_a_deadline_that_passes_in_the_first_try_is_told_as_it_is():
    clock, late = ManualClock(), DeadlinePassed("late")
    patience = Patience(healing_of(RetryPolicy(), clock), timeout_s=2.0)
    clock.advance(2.0)
    with pytest.raises(DeadlinePassed) as raised:
        patience.wait_s(late)
    assert raised.value is late


@pytest.mark.parametrize(
    "wrong",
    [{"patience_s": 0}, {"patience_s": float("inf")}, {"first_backoff_s": -1}, {"multiplier": 0.5},
     {"backoff_max_s": float("nan")}, {"silence_max_s": 0}],
)  # fmt: skip
def test_a_policy_that_would_never_wait_or_never_end_is_refused(wrong):
    (name,) = wrong
    with pytest.raises(InvalidInput, match=f"{name}: expected"):
        RetryPolicy(**wrong)


@pytest.mark.parametrize(
    ("target", "lines"),
    [
        ("a:1", ("a:1", "a:1")),
        ("a:1,b:2, c:3", ("a:1", "b:2", "c:3")),
        ("ipv4:1.2.3.4:1,5.6.7.8:2", ("ipv4:1.2.3.4:1,5.6.7.8:2",) * 2),
        ("[::1]:1,b:2", ("[::1]:1", "b:2")),
    ],
)
def test_a_target_is_one_address_or_several(target, lines):
    assert Lines(target).addresses == lines


@pytest.mark.parametrize("target", ["", "a:1,", ",a:1"])
def test_a_list_of_addresses_with_a_gap_is_refused(target):
    with pytest.raises(InvalidInput, match="target: expected addresses"):
        Lines(target)


def test_sessions_are_spread_over_addresses_and_turn_to_each():
    lines, turn = Lines("a:1,b:2,c:3"), Turn()
    first = [lines.place(f"device-{number}", turn) for number in range(300)]
    assert min(first.count(line) for line in range(3)) > 60
    assert first == [lines.place(f"device-{number}", Turn()) for number in range(300)], "for every client alike"
    taken = []
    for _ in range(4):
        taken.append(lines.place("a", turn))
        turn.next()
    assert sorted(taken[:3]) == [0, 1, 2]
    assert taken[3] == taken[0]


def test_the_second_line_to_an_address_is_for_second_tries():
    lines, turn = Lines("a:1"), Turn()
    assert {lines.place(f"device-{number}", turn) for number in range(30)} == {0}
    turn.next()
    assert {lines.place(f"device-{number}", turn) for number in range(30)} == {1}


class Failed:
    """A call that failed."""

    def __init__(self, code, trailing=()):
        self.code, self.trailing_metadata = lambda: code, lambda: trailing

    def details(self):
        return "Stream removed"


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN])
def test_a_status_without_a_reason_comes_from_the_transport(code):
    assert isinstance(error_of_call(Failed(code)), ServerUnreachable)
    info = error_details_pb2.ErrorInfo(reason="ENGINE_FAULT")
    status = status_pb2.Status()
    status.details.add().Pack(info)
    ours = error_of_call(Failed(code, [(DETAILS_KEY, status.SerializeToString())]))
    assert isinstance(ours, EngineFault)


def test_a_step_is_sent_again_with_its_number_once_the_server_is_there():
    clock, facts = ManualClock(), facts_of(4)
    asking = stepped(healing_of(RetryPolicy(), clock), facts, steps_of([[1], [2]], [X]), 60.0)
    outcomes = [GONE, GONE, standing_at(4), ServerDraining(""), standing_at(6), reply_of(4, 2)]
    outputs, calls = carried_out(asking, outcomes, clock)
    assert methods(calls) == ["Step", "Get", "Get", "Step", "Get", "Step"]
    assert [list(call.request.first_steps) for call in calls if call.method == "Sessions.Step"] == [[4]] * 3
    assert outputs["x"].ravel().tolist() == [5, 6]
    assert facts.next_step == 6


@pytest.mark.parametrize("stands_at", [0, 3])
def test_a_session_that_stands_before_what_it_answered_is_lost(stands_at):
    asking = stepped(healing_of(RetryPolicy(), ManualClock()), facts_of(4), steps_of([1], [X]), None)
    lost, _ = carried_out(asking, [GONE, standing_at(stands_at)])
    assert isinstance(lost, SessionLost)
    assert f"steps below 4 were answered, and it stands at step {stands_at}" in lost.message
    assert lost.fields == {"answered_step": "4", "expected_step": str(stands_at)}


def test_a_server_that_fell_back_without_a_broken_call_is_found_out():
    asking = stepped(healing_of(RetryPolicy(), ManualClock()), facts_of(4), steps_of([1], [X]), None)
    lost, _ = carried_out(asking, [StepAhead("", fields={"expected_step": "2"})])
    assert isinstance(lost, SessionLost)
    assert lost.fields["expected_step"] == "2"


def test_a_session_that_nobody_knows_any_more_is_lost_with_what_to_do():
    for outcomes in ([SessionUnknown("")], [GONE, SessionUnknown("")], [GONE, standing_at(4), SessionUnknown("")]):
        asking = stepped(healing_of(RetryPolicy(), ManualClock()), facts_of(4), steps_of([1], [X]), None)
        lost, _ = carried_out(asking, outcomes)
        assert isinstance(lost, SessionLost)
        assert isinstance(lost, CallerFault)
        assert "session a: stood at step 4, and the server does not know it any more" in lost.message
        assert "durability 'memory'" in lost.message
        assert lost.fields == {"answered_step": "4"}


def test_a_session_that_another_client_stepped_is_a_conflict():
    asking = stepped(healing_of(RetryPolicy(), ManualClock()), facts_of(4), steps_of([1], [X]), None)
    conflict, _ = carried_out(asking, [GONE, standing_at(6)])
    assert isinstance(conflict, StepConflict)
    assert "stands at step 6, and this client sent only those below 5" in conflict.message


def test_a_step_whose_reply_is_forgotten_when_it_is_sent_again_says_so():
    asking = stepped(healing_of(RetryPolicy(), ManualClock()), facts_of(4), steps_of([1], [X]), None)
    forgotten, _ = carried_out(asking, [GONE, standing_at(5), StepForgotten("no longer in the window")])
    assert isinstance(forgotten, StepForgotten)


def test_a_limit_ends_a_first_try_and_not_a_later_one():
    clock, full = ManualClock(), LimitReached("full", retry_after_s=2.0)
    steps = steps_of([1], [X])
    refused, _ = carried_out(stepped(healing_of(RetryPolicy(), clock), facts_of(), steps, None), [full])
    assert refused is full
    outcomes = [GONE, standing_at(0), full, standing_at(0), reply_of(0)]
    outputs, _ = carried_out(stepped(healing_of(RetryPolicy(), clock), facts_of(), steps, None), outcomes, clock)
    assert outputs["x"].tolist() == [[1]]
    assert clock.now_s >= 2.0


def test_a_session_without_a_name_is_opened_again_under_the_name_of_the_first_try():
    healing = healing_of(RetryPolicy(), ManualClock())
    request = sessions_pb2.OpenRequest(model="m")
    _, calls = carried_out(opened(healing, request, None), [GONE, GONE, sessions_pb2.OpenResponse()])
    assert len({call.request.session_id for call in calls}) == 1
    assert len(calls[0].request.session_id) == 32
    assert [call.request.resume for call in calls] == [False, True, True]
    assert request == sessions_pb2.OpenRequest(model="m")


@pytest.mark.parametrize("resume", [False, True])
def test_a_session_with_a_name_is_resumed_only_where_that_was_asked_for(resume):
    healing = healing_of(RetryPolicy(), ManualClock())
    request = sessions_pb2.OpenRequest(model="m", session_id="a", resume=resume)
    _, calls = carried_out(opened(healing, request, None), [GONE, sessions_pb2.OpenResponse()])
    assert [call.request.resume for call in calls] == [resume, resume]


def test_a_name_that_a_lost_try_may_have_taken_is_told_with_what_to_do():
    healing = healing_of(RetryPolicy(), ManualClock())
    request = sessions_pb2.OpenRequest(model="m", session_id="a")
    taken, _ = carried_out(opened(healing, request, None), [GONE, SessionExists("session a: is open")])
    assert isinstance(taken, SessionExists)
    assert "an earlier try of this call" in taken.message
    taken, _ = carried_out(opened(healing, request, None), [SessionExists("session a: is open")])
    assert taken.message == "session a: is open"


@pytest.mark.parametrize("error", [SessionClosed, SessionUnknown])
def test_a_close_whose_answer_was_lost_has_closed(error):
    healing = healing_of(RetryPolicy(), ManualClock())
    known = sessions_pb2.Session(session_id="a", next_step=7)
    assert carried_out(closed(healing, known, None), [GONE, error("")])[0] == known
    assert isinstance(carried_out(closed(healing, known, None), [error("")])[0], error)


def test_what_may_be_asked_twice_is_asked_again():
    healing = healing_of(RetryPolicy(), ManualClock())
    reply, calls = carried_out(asked(healing, "Models.List", "request", 9.0), [GONE, "reply"])
    assert reply == "reply"
    assert calls == [Call("Models.List", "request", 9.0)] * 2


def sent_of(in_flight):
    """The messages that are to be sent now: tags and numbers."""
    messages = []
    while not in_flight.all_sent:
        step = in_flight.next().step
        messages.append((step.tag, step.first_steps[0]))
    return messages


def test_another_call_is_given_what_was_not_taken_with_the_numbers_it_had():
    in_flight = InFlight(facts_of(10))
    for count in (1, 2, 1):
        in_flight.add(steps_of(np.zeros((count, 1), np.float32), [X]))
    assert sent_of(in_flight) == [(1, 10), (2, 11), (3, 13)]
    assert in_flight.sent_step == 14
    in_flight.keep(sessions_pb2.StreamResponse(step=reply_of(10, tag=1)))
    assert [y.tolist() for y in in_flight.take()] == [[[11]]]
    gap = sessions_pb2.StepResponse(tag=3, error=wire_error(StepAhead("a step before it was cancelled")))
    in_flight.keep(sessions_pb2.StreamResponse(step=gap))
    in_flight.begin_again()
    in_flight.add(steps_of([0], [X]))
    assert sent_of(in_flight) == [(2, 11), (3, 13), (4, 14)]
    assert in_flight.again
    in_flight.keep(sessions_pb2.StreamResponse(step=reply_of(11, 2, tag=2)))
    list(in_flight.take())
    assert not in_flight.answered, "what the call that broke said of it is no longer so"


def test_a_reply_that_comes_twice_is_taken_once():
    in_flight = InFlight(facts_of())
    for _ in range(2):
        in_flight.add(steps_of([0], [X]))
    sent_of(in_flight)
    first = sessions_pb2.StreamResponse(step=reply_of(0, tag=1))
    in_flight.keep(first)
    in_flight.keep(first)
    list(in_flight.take())
    in_flight.keep(first)
    assert not in_flight.answered
    assert len(in_flight) == 1
    assert not in_flight._replies, "nor is it kept"


@pytest.mark.parametrize("error", [OwnedElsewhere(""), StepCancelled(""), EngineFault(""), LimitReached("")])
def test_an_error_in_a_reply_is_sent_again_or_taken(error):
    in_flight = InFlight(facts_of())
    in_flight.add(steps_of([0], [X]))
    sent_of(in_flight)
    refused = sessions_pb2.StreamResponse(step=sessions_pb2.StepResponse(tag=1, error=wire_error(error)))
    in_flight.keep(refused)
    assert (in_flight.passing is not None) == isinstance(error, OwnedElsewhere | StepCancelled)
    in_flight.begin_again()
    sent_of(in_flight)
    in_flight.keep(refused)
    assert (in_flight.passing is not None) == (not isinstance(error, EngineFault))
    with pytest.raises(type(error)):
        in_flight.take()


@pytest.mark.parametrize("seed", range(50))
def test_whatever_breaks_each_output_is_seen_once_and_in_order(seed):
    """A server that answers from its window, behind a connection that breaks anywhere."""
    chance, facts = random.Random(seed), facts_of()
    in_flight, made, seen, wire = InFlight(facts), 0, [], []
    while len(seen) < 60:
        event = chance.random()
        if event < 0.3 and len(in_flight) < 5 and in_flight.sent_step < 60:
            in_flight.add(steps_of([1], [X]))
        elif event < 0.6 and not in_flight.all_sent:
            step = in_flight.next().step
            assert step.first_steps[0] <= made, "a gap would be refused"
            made = max(made, step.first_steps[0] + 1)
            wire += [reply_of(step.first_steps[0], tag=step.tag)] * chance.choice([1, 1, 2])
        elif event < 0.95 and wire:
            in_flight.keep(sessions_pb2.StreamResponse(step=wire.pop(0)))
            while in_flight.answered:
                seen += [y.tolist() for y in in_flight.take()]
        elif event >= 0.95:
            wire.clear()
            in_flight.begin_again()
    assert seen == [[float(number)] for number in range(1, 61)]


def test_a_wait_is_a_number_that_threads_take_whatever_the_timeout_was():
    patience = Patience(Healing(RetryPolicy(), clock=lambda: 0.0), timeout_s=np.float32(0.25))
    assert all(type(patience.wait_s(ServerUnreachable("away"))) is float for _ in range(20))
    assert type(patience.left_s()) is float
