"""Limits over a real socket: what waits is bounded, whoever is refused learns when to come back, and whoever is only
held loses nothing.
"""

import contextlib

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

from ntm_serve.testing import Gate, RunningSum, test_server
from ntm_serve.v1 import sessions_pb2
from ntm_serve.wire import tensor_of

from .wire_client import Wire, reason_of, request, values

WAIT_S = 20.0


@contextlib.contextmanager
def held(**settings):
    """A wire, a gate that holds the runs, and the gate's model."""
    gate = Gate()
    model = RunningSum(before_run=gate, width=settings.pop("width", 1))
    with test_server([model], compute_threads=1, **settings) as server:
        wire = Wire(server.target)
        try:
            yield wire, gate, model
        finally:
            gate.open()
            wire.channel.close()


def retry_after_s(refused):
    """What a call's status says of a retry; None where it says nothing."""
    status = status_pb2.Status.FromString(dict(refused.trailing_metadata())["grpc-status-details-bin"])
    retry = error_details_pb2.RetryInfo()
    found = [detail for detail in status.details if detail.Unpack(retry)]
    return retry.retry_delay.ToMilliseconds() / 1000 if found else None


@pytest.mark.parametrize(
    ("setting", "whose"), [("steps_waiting_max", "model running-sum/1"), ("steps_waiting_total_max", "server")]
)
def test_whoever_finds_no_room_to_wait_is_told_at_once_when_to_come_back(setting, whose):
    with held(**{setting: 3}) as (wire, gate, _):
        for name in "ab":
            wire.open(name)
        first = wire.sessions.Step.future(request("a", [[1, 1]]))
        gate.await_run()
        with pytest.raises(grpc.RpcError) as refused:
            wire.step("b", [[1, 1]])
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert refused.value.details() == f"{whose}: expected at most 3 steps waiting, got 2 and 2 more"
        assert reason_of(refused.value)[0] == "LIMIT_REACHED"
        assert 0.05 <= retry_after_s(refused.value) <= 10
        gate.open()
        assert values(first.result(WAIT_S)) == [[1, 2]]
        assert values(wire.step("b", [[1, 1]])) == [[1, 2]]


def test_a_session_with_too_many_steps_waiting_is_refused_more_in_its_turn_and_harms_no_other():
    with held(session_steps_waiting_max=3) as (wire, gate, _):
        for name in "ab":
            wire.open(name)
        sent = [request("a", [[1, 1]], tag=1), request("a", [[5, 5]], tag=2), request("b", [[1, 1, 1]], tag=3)]
        replies = wire.sessions.Stream(sessions_pb2.StreamRequest(step=one) for one in sent)
        while wire.get("b").steps_in_flight < 3:
            pass
        gate.open()
        by_tag = {reply.step.tag: reply.step for reply in replies}
        assert (values(by_tag[1]), values(by_tag[3])) == ([[1, 2]], [[1, 2, 3]])
        (failure,) = by_tag[2].failures
        assert failure.error.message == "session a: expected at most 3 steps waiting, got 2 and 2 more"
        assert (failure.error.reason, failure.next_step) == ("LIMIT_REACHED", 2)
        assert failure.error.retry_after.ToMilliseconds() == 50
        assert list(by_tag) in ([1, 2, 3], [1, 3, 2], [3, 1, 2])


def test_a_message_that_no_room_is_large_enough_for_is_not_to_be_sent_again():
    with held(session_steps_waiting_max=3) as (wire, gate, _):
        gate.open()
        wire.open("a")
        with pytest.raises(grpc.RpcError) as refused:
            wire.step("a", [[1, 1, 1, 1]])
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert reason_of(refused.value) == (
            "TOO_LARGE", {"limit": "session_steps_waiting_max", "expected": "3", "actual": "4"}
        )  # fmt: skip
        assert retry_after_s(refused.value) is None
        assert values(wire.step("a", [[1, 1, 1]])) == [[1, 2, 3]]


def test_a_stream_is_read_no_further_while_its_unanswered_messages_are_too_large():
    width, messages = 1000, 30
    with held(width=width, stream_bytes_max=10_000) as (wire, gate, _):
        wire.open("a")
        # Given one step after another, each message larger than 4000 bytes
        x = tensor_of("x", np.ones((1, 1, width), np.float32))
        steps = [sessions_pb2.StepRequest(tag=tag, session_ids=["a"], inputs=[x]) for tag in range(messages)]
        replies = wire.sessions.Stream(sessions_pb2.StreamRequest(step=step) for step in steps)
        # Then no more are read than the first beyond the bytes, and each answer makes room for one
        for run in range(10):
            gate.await_run()
            while (view := wire.get("a")).steps_in_flight < 3:
                pass
            assert (view.next_step, view.steps_in_flight) == (run, 3)
            gate.let_through(1)
            assert next(replies).step.tag == run
        # And all are answered in the end
        gate.open()
        assert [reply.step.tag for reply in replies] == list(range(10, messages))


def test_a_message_larger_than_a_streams_bytes_is_taken_by_itself():
    with held(stream_bytes_max=1) as (wire, gate, _):
        gate.open()
        wire.open("a")
        replies = wire.stream([request("a", [[1]], tag=tag) for tag in range(5)])
        assert [reply.tag for reply in replies] == list(range(5))
        # Refusals and heartbeats count as messages do.
        beat = sessions_pb2.StreamRequest(heartbeat=sessions_pb2.Heartbeat(tag=9))
        bad = sessions_pb2.StreamRequest(step=request("nobody", [[1]]))
        empty = sessions_pb2.StreamRequest()
        assert len(list(wire.sessions.Stream(iter([beat, bad, empty, beat])))) == 4
