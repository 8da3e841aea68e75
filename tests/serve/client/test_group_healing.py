"""What a group decides when some of its sessions fail for a while: without sockets and without waiting."""

import random

import numpy as np
import pytest

from ntm_serve.client import RetryPolicy
from ntm_serve.client.dialogues import Calls, Opening, stepped
from ntm_serve.client.healing import RETRY_DEFAULT, Healing, Patience
from ntm_serve.client.roster import Roster
from ntm_serve.client.rounds import ByRow
from ntm_serve.errors import (
    LimitReached,
    OwnedElsewhere,
    ServerDraining,
    ServerUnreachable,
    SessionLost,
    SessionUnknown,
    StepAborted,
    StepAhead,
    StoreUnavailable,
)
from ntm_serve.spec import TensorSpec
from ntm_serve.testing import ManualClock
from ntm_serve.v1 import sessions_pb2
from ntm_serve.wire import tensor_of, wire_error, wire_spec

X = TensorSpec("x", "float32", (1,))


class Server:
    """Sessions that give their input; errors: what a session's steps meet before that, in turn."""

    def __init__(self, **errors):
        self.errors = errors
        self.steps = {}
        self.calls = []

    def open(self, request):
        session = sessions_pb2.Session(session_id=request.session_id, next_step=self.steps.get(request.session_id, 0))
        return sessions_pb2.OpenResponse(session=session, inputs=[wire_spec(X)], outputs=[wire_spec(X)])

    def step(self, request):
        self.calls.append(dict(zip(request.session_ids, request.first_steps, strict=True)))
        (x,) = request.inputs
        rows = np.frombuffer(x.data, np.float32).reshape(tuple(x.shape))
        response, good = sessions_pb2.StepResponse(tag=request.tag), []
        for place, one in enumerate(request.session_ids):
            if self.errors.get(one):
                error = wire_error(self.errors[one].pop(0))
                response.failures.append(sessions_pb2.StepFailure(session_id=one, error=error))
            else:
                response.session_ids.append(one)
                good.append(place)
        if good:
            response.outputs.append(tensor_of("x", rows[good]))
        return response


def carried_out(dialogue, server, clock):
    """The dialogue's result, and how long it waited."""
    outcomes, waited_s = None, 0.0
    try:
        while True:
            wanted = dialogue.send(outcomes)
            if isinstance(wanted, Calls):
                outcomes = [getattr(server, wanted.method.lower())(request) for request in wanted.requests]
            else:
                clock.advance(wanted.wait_s)
                waited_s += wanted.wait_s
                outcomes = []
    except StopIteration as end:
        return end.value, waited_s


def made(server, keys, *, policy=RETRY_DEFAULT, timeout_s=None):
    """What rows of these keys give, and how long was waited for it."""
    clock = ManualClock()
    healing = Healing(policy, clock=clock, chance=random.Random(0))
    healing.heard("a reply")
    form = ByRow(keys, np.arange(1, len(keys) + 1, dtype=np.float32).reshape(-1, 1))
    roster = Roster(next_steps={})
    patience = Patience(healing, timeout_s=timeout_s)
    answers, waited_s = carried_out(stepped(roster, Opening("m", "1", ""), form, patience), server, clock)
    return answers, waited_s, roster


@pytest.mark.parametrize("error", [OwnedElsewhere, StoreUnavailable, ServerDraining])
def test_a_session_that_fails_for_a_while_is_sent_the_same_step_again_and_the_others_go_on(error):
    server = Server(b=[error("")] * 3)
    answers, waited_s, _ = made(server, ["a", "b", "c"])
    assert (answers.errors, answers.steps.tolist()) == ({}, [0, 0, 0])
    assert answers.outputs["x"].ravel().tolist() == [1, 2, 3]
    assert server.calls == [{"a": 0, "b": 0, "c": 0}, {"b": 0}, {"b": 0}, {"b": 0}]
    assert waited_s > 0


def test_what_follows_a_step_that_is_tried_again_follows_it():
    server = Server(a=[StoreUnavailable(""), StepAborted(""), StoreUnavailable("")])
    answers, _, _ = made(server, ["a", "a", "a"])
    assert (answers.errors, answers.steps.tolist()) == ({}, [0, 1, 2])


def test_patience_with_a_session_ends_and_what_follows_it_is_not_run():
    server = Server(b=[OwnedElsewhere("of another")] * 1000)
    answers, waited_s, roster = made(server, ["a", "b", "b", "c"], policy=RetryPolicy(patience_s=7.0))
    assert [type(answers.errors[row]) for row in (1, 2)] == [OwnedElsewhere] * 2
    assert "of another; tried" in answers.errors[1].message
    assert waited_s == pytest.approx(7.0)
    assert roster.next_steps() == {"a": 1, "b": 0, "c": 1}


def test_the_time_of_a_round_is_that_of_all_its_tries():
    answers, waited_s, _ = made(Server(b=[StoreUnavailable("")] * 1000), ["a", "b"], timeout_s=2.0)
    assert "the 2 s of the call are over; tried" in answers.errors[1].message
    assert waited_s == pytest.approx(2.0)


def test_without_a_policy_a_session_that_fails_for_a_while_has_its_error():
    server = Server(b=[StoreUnavailable("")])
    answers, _, _ = made(server, ["a", "b"], policy=None)
    assert {row: type(error) for row, error in answers.errors.items()} == {1: StoreUnavailable}
    assert len(server.calls) == 1


def test_a_limit_is_waited_for_where_the_step_was_sent_before():
    limit = LimitReached("", retry_after_s=3.0)
    answers, waited_s, _ = made(Server(a=[limit], b=[StoreUnavailable(""), limit]), ["a", "b"])
    assert {row: type(error) for row, error in answers.errors.items()} == {0: LimitReached}
    assert waited_s >= 3.0


@pytest.mark.parametrize(
    "error", [SessionUnknown(""), StepAhead("", fields={"expected_step": "-1"})], ids=["unknown", "fallen back"]
)
def test_a_session_that_the_server_lost_is_lost_alone(error):
    answers, _, _ = made(Server(b=[error]), ["a", "b"])
    assert {row: type(error) for row, error in answers.errors.items()} == {1: SessionLost}


def test_messages_that_nobody_answered_are_sent_again_with_their_numbers():
    server, left = Server(), [2]

    def step(request):
        if left[0]:
            left[0] -= 1
            server.calls.append(dict(zip(request.session_ids, request.first_steps, strict=True)))
            return ServerUnreachable("gone")
        return Server.step(server, request)

    server.step = step
    answers, _, roster = made(server, ["a", "b", "a"])
    assert (answers.errors, answers.steps.tolist()) == ({}, [0, 0, 1])
    assert server.calls == [{"a": 0}, {"b": 0}] * 2
    assert roster.next_steps() == {"a": 2, "b": 1}
