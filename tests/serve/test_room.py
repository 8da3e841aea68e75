"""Room to wait in: whose limit it is, when a retry makes sense, and when none ever does."""

import numpy as np
import pytest

from ntm_serve.errors import LimitReached, TooLarge
from ntm_serve.observer import NoObserver
from ntm_serve.room import RETRY_MIN_S, RETRY_UNKNOWN_S, Room, TotalRoom
from ntm_serve.sessions import Session
from ntm_serve.state import StateBlock
from ntm_serve.step_model import ModelKey
from ntm_serve.testing import RunningSum

from .tickets import admit

KEY = ModelKey("running-sum", "1")
UNKNOWN = float("inf")


def room(*, session=10, model=20, total=30, waiting=0, elsewhere=0, row_s=UNKNOWN):
    everywhere = TotalRoom(total)
    it = Room(KEY, session_max=session, waiting_max=model, total=everywhere, observer=NoObserver(), row_s=lambda: row_s)
    it.waiting, everywhere.waiting = waiting, waiting + elsewhere
    return it


def session_with(waiting):
    session = Session("a", KEY, StateBlock.of_one(RunningSum().initial_state), 0.0)
    if waiting:
        admit(session, (np.zeros((waiting, 1), np.float32),))
    return session


def refusal(it, session, steps):
    with pytest.raises((LimitReached, TooLarge)) as refused:
        it.expect(session, steps)
    return refused.value


@pytest.mark.parametrize(
    ("it", "mine", "fits", "says", "limit"),
    [
        (
            room(), 8, 2, "session a: expected at most 10 steps waiting, got 8 and 3 more",
            "session_steps_waiting_max",
        ),
        (
            room(waiting=19), 0, 1, "model running-sum/1: expected at most 20 steps waiting, got 19 and 2 more",
            "steps_waiting_max",
        ),
        (
            room(waiting=5, elsewhere=21), 0, 4, "server: expected at most 30 steps waiting, got 26 and 5 more",
            "steps_waiting_total_max",
        ),
    ],
)  # fmt: skip
def test_each_limit_refuses_beyond_it_and_names_whose_it_is(it, mine, fits, says, limit):
    session = session_with(mine)
    it.expect(session, fits)
    error = refusal(it, session, fits + 1)
    assert isinstance(error, LimitReached)
    assert error.message == says
    assert error.fields == {"limit": limit}


@pytest.mark.parametrize(
    ("limits", "limit", "most"),
    [
        ({"session": 4}, "session_steps_waiting_max", 4),
        ({"model": 5}, "steps_waiting_max", 5),
        ({"total": 6}, "steps_waiting_total_max", 6),
    ],
)
def test_more_than_may_ever_wait_is_the_callers_fault(limits, limit, most):
    error = refusal(room(**limits), session_with(0), most + 1)
    assert isinstance(error, TooLarge)
    assert f"at most T = {most} steps" in error.message
    assert error.fields == {"limit": limit, "expected": str(most), "actual": str(most + 1)}


@pytest.mark.parametrize(
    ("row_s", "retry_after_s"), [(UNKNOWN, RETRY_UNKNOWN_S), (0.01, 0.2), (1e-9, 0.05), (99.0, 10.0)]
)
@pytest.mark.parametrize("limits", [{"model": 20}, {"model": 40, "total": 20}])
def test_a_retry_makes_sense_when_what_waits_was_made(row_s, retry_after_s, limits):
    error = refusal(room(waiting=20, row_s=row_s, **limits), session_with(0), 1)
    assert error.retry_after_s == pytest.approx(retry_after_s)


def test_a_sessions_refusal_comes_after_what_waited_so_a_retry_makes_sense_at_once():
    assert refusal(room(row_s=1.0), session_with(10), 1).retry_after_s == RETRY_MIN_S
