"""What clients did is freed when it is over, without the garbage collector: on a server it looks seldom, and a call
that waits for it keeps what gRPC holds of it.
"""

import contextlib
import gc
import time
from collections import Counter

import grpc
import pytest
from grpc._cython import cygrpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ntm_serve.frontends.call import Call
from ntm_serve.frontends.infer_request import Request
from ntm_serve.frontends.sessions import _Stream
from ntm_serve.frontends.standard import Health
from ntm_serve.frontends.stream import MessageStream
from ntm_serve.message import Message
from ntm_serve.sessions import Session
from ntm_serve.state import StateBlock
from ntm_serve.submission import Submission
from ntm_serve.testing import Gate, RunningSum, test_server
from ntm_serve.ticket import Ticket
from ntm_serve.v1 import sessions_pb2, sessions_pb2_grpc

from .wire_client import Wire, request

KINDS = {Call, _Stream, MessageStream, Request, Message, Submission, Ticket, Session, StateBlock, cygrpc.Call}
TIMES = 20
WAIT_S = 20.0


def living():
    return Counter(type(one).__name__ for one in gc.get_objects() if type(one) in KINDS)


@contextlib.contextmanager
def nothing_left():
    """What lives after the block lived before it; a call's end may come a moment after its client knows."""
    gc.collect()
    gc.disable()
    try:
        before = living()
        yield
        end_s = time.monotonic() + WAIT_S
        while (more := living() - before) and time.monotonic() < end_s:
            pass
        assert not more
    finally:
        gc.enable()


def refused(call, *arguments):
    with pytest.raises(grpc.RpcError):
        call(*arguments)


def unary_calls(wire):
    wire.step("a", [[1, 2]])
    wire.get("a")
    wire.sessions.List(sessions_pb2.ListRequest())


def sessions_that_are_closed(wire):
    wire.open("c")
    wire.step(["a", "c"], [[1], [1]])
    wire.sessions.Close(sessions_pb2.CloseRequest(session_id="c"))
    refused(wire.step, "c", [[1]])


def streams(wire):
    wire.stream([request(["a", "b"], [[1, 1], [2, 2]])] * 3)
    wire.stream([request(["a", "b"], [[1], [2]], reply_mode=sessions_pb2.REPLY_MODE_AS_FINISHED)])


def cancelled_streams(wire):
    messages = [sessions_pb2.StreamRequest(step=request("a", [[1] * 30]))] * 4
    replies = wire.sessions.Stream(iter(messages))
    next(replies)
    replies.cancel()


def refused_messages(wire):
    beyond = request("a", [[1]], [10**9])
    bad = [
        request("a", [[float("nan")]]),
        request("nobody", [[1]]),
        beyond,
        request([], []),
        request(["a", "x"], [1, 1]),
    ]
    wire.stream(bad)
    for one in bad[:-1]:
        refused(wire.sessions.Step, one)
    wire.sessions.Step(bad[-1])


def failing_steps(wire):
    refused(wire.step, "a", [[3e38, 3e38]])
    refused(wire.step, "a", [[-666]])
    wire.stream([request(["a", "b"], [[-666], [1]]), request("a", [[1]])])


def bytes_that_are_no_message(wire):
    refused(list, wire.channel.stream_stream("/ntm_serve.v1.Sessions/Stream")(iter([b"\xff"])))
    refused(wire.channel.unary_unary("/ntm_serve.v1.Sessions/Step"), b"\xff")


def unknown_methods(wire):
    refused(wire.channel.unary_unary("/ntm_serve.v1.Sessions/Nope"), b"")
    refused(list, wire.channel.stream_stream("/nope.Nope/Nope")(iter([b"x"] * 5)))


def health_and_reflection(wire):
    health = health_pb2_grpc.HealthStub(wire.channel)
    health.Check(health_pb2.HealthCheckRequest())
    watched = health.Watch(health_pb2.HealthCheckRequest())
    next(watched)
    watched.cancel()
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")] * 2)
    list(reflection_pb2_grpc.ServerReflectionStub(wire.channel).ServerReflectionInfo(asked))


@pytest.fixture(scope="module")
def wire():
    with test_server([RunningSum()]) as server:
        it = Wire(server.target)
        it.target = server.target
        for name in "ab":
            it.open(name)
        # The first call is kept: by way of it the loop is woken. What two sessions step for the first time is kept too.
        it.step(["a", "b"], [[1], [1]])
        yield it
        it.channel.close()


@pytest.mark.parametrize(
    "act",
    [
        unary_calls, sessions_that_are_closed, streams, cancelled_streams, refused_messages, failing_steps,
        bytes_that_are_no_message, unknown_methods, health_and_reflection,
    ],
)  # fmt: skip
def test_nothing_of_a_call_is_left_when_it_is_over(wire, act):
    # Each session in a state of its own, as the calls leave them.
    wire.step("a", [[1]])
    wire.step("b", [[1]])
    with nothing_left():
        for _ in range(TIMES):
            act(wire)
        wire.step("a", [[1]])
        wire.step("b", [[1]])


def test_nothing_of_a_connection_is_left_when_it_is_closed(wire):
    with nothing_left():
        for _ in range(TIMES):
            alone = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(wire.target, options=alone) as channel:
                sessions_pb2_grpc.SessionsStub(channel).List(sessions_pb2.ListRequest())


def test_nothing_of_steps_is_left_that_waited_when_their_stream_was_left():
    gate = Gate()
    with test_server([RunningSum(before_run=gate)], compute_threads=1) as server, contextlib.ExitStack() as stack:
        stack.callback(gate.open)
        wire = Wire(server.target)
        stack.callback(wire.channel.close)
        for name in "ab":
            wire.open(name)
        held = wire.sessions.Step.future(request("b", [[1]]))
        gate.await_run()
        with nothing_left():
            for _ in range(TIMES):
                messages = [sessions_pb2.StreamRequest(step=request("a", [[1, 1]]))] * 5
                replies = wire.sessions.Stream(iter(messages))
                while wire.get("a").steps_in_flight < 10:
                    pass
                replies.cancel()
                while wire.get("a").steps_in_flight:
                    pass
        gate.open()
        assert held.result(WAIT_S).next_steps == [1]
        assert wire.get("a").next_step == 0


def test_a_name_that_nobody_watches_any_more_is_forgotten():
    health = Health()
    for number in range(10):
        health.Watch(call := AskedCall(health_pb2.HealthCheckRequest(service=f"made up {number}")))
        assert call.written
        call.on_over(True)
    assert not health._watching


class AskedCall:
    """A call with one request."""

    def __init__(self, request):
        self.request = request
        self.written = []

    def read(self, on_message):
        on_message(self.request.SerializeToString())

    def write(self, message, on_written):
        self.written.append(message)
