"""Replies of one session come in the order of its messages, also those that refuse."""

from ntm_serve.testing import Gate, RunningSum, test_server
from ntm_serve.v1 import sessions_pb2

from .wire_client import Wire, request, values


def test_a_refusal_comes_after_the_replies_to_the_steps_before_it():
    gate = Gate()
    with test_server([RunningSum(before_run=gate)]) as server:
        wire = Wire(server.target)
        wire.open("a")
        wire.open("b")

        def messages():
            yield request("a", [[1]], tag=1)
            yield request("a", [[2, 2]], tag=2)
            yield request("a", [[float("nan")]], tag=3)
            yield request("b", [[float("nan")]], tag=4)
            yield request("a", [[3]], [9], tag=5)

        replies = wire.sessions.Stream(sessions_pb2.StreamRequest(step=one) for one in messages())
        first = next(replies).step
        assert first.tag == 4, "another session's refusal waits for nobody"
        gate.open()
        rest = [reply.step for reply in replies]
        wire.channel.close()
    assert [reply.tag for reply in rest] == [1, 2, 3, 5]
    assert [values(reply) for reply in rest[:2]] == [[[1]], [[3, 5]]]
    assert [reply.failures[0].error.reason for reply in rest[2:]] == ["INVALID_INPUT", "STEP_AHEAD"]
    assert [reply.failures[0].next_step for reply in rest[2:]] == [3, 3]


def test_a_refusal_that_waits_keeps_no_step_alive_when_its_stream_is_left():
    gate = Gate()
    with test_server([RunningSum(before_run=gate)]) as server:
        wire = Wire(server.target)
        wire.open("a")
        requests = [request("a", [[1]]), request("a", [[float("nan")]]), request("b", [[1]], tag=9)]
        replies = wire.sessions.Stream(sessions_pb2.StreamRequest(step=one) for one in requests)
        assert next(replies).step.tag == 9  # All three were read.
        replies.cancel()
        while wire.get("a").steps_in_flight:
            pass
        gate.open()
        assert wire.get("a").next_step == 0
        wire.channel.close()
