"""Clients that vanish, break the protocol or send what nobody expects: the server stays well, and no session is
stuck.
"""

import asyncio
import contextlib
import random
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from ntm_serve.app import run
from ntm_serve.frontends.completion_queue import CompletionQueueLoop
from ntm_serve.frontends.server import GrpcServer
from ntm_serve.testing import Gate, RunningSum, test_server
from ntm_serve.v1 import sessions_pb2, sessions_pb2_grpc

from .wire_client import Wire, request, values

WAIT_S = 20.0
ALONE = [("grpc.use_local_subchannel_pool", 1)]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"

# A client of 8 streams that never reads, for as long as it lives.
NEVER_READS = """
import sys, threading
import grpc
from ntm_serve.v1 import sessions_pb2, sessions_pb2_grpc
stub = sessions_pb2_grpc.SessionsStub(grpc.insecure_channel(sys.argv[1]))
message = bytes.fromhex(sys.argv[2])
def messages(name):
    one = sessions_pb2.StreamRequest.FromString(message)
    one.step.session_ids[0] = name
    while True:
        yield one
calls = [stub.Stream(messages(f"s{number}")) for number in range(8)]
print("streams", flush=True)
threading.Event().wait(60)
"""


@pytest.fixture(scope="module")
def target():
    with test_server([RunningSum()]) as server:
        yield server.target


@pytest.fixture
def wire(target):
    """Sessions s0 to s7, new; at the end the server is well and nothing is stuck."""
    it = Wire(target)
    it.target = target
    names = [f"s{number}" for number in range(8)]
    for name in names:
        it.open(name)
    yield it
    it.open("well")
    assert values(it.step("well", [[1]])) == [[1]]
    for name in ("well", *names):
        while it.get(name).steps_in_flight:
            pass
        it.step(name, [[1]])
        it.sessions.Close(sessions_pb2.CloseRequest(session_id=name))
    it.channel.close()


def code_of(call, *arguments, **more):
    """How a call ended."""
    try:
        call(*arguments, **more)
    except grpc.RpcError as ended:
        return ended.code()
    return grpc.StatusCode.OK


def address(wire):
    host, port = wire.target.rsplit(":", 1)
    return host, int(port)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_client_process_that_dies_or_stands_still_mid_stream_leaves_no_session_stuck(wire, number):
    step = sessions_pb2.StreamRequest(step=request("s0", [[1] * 50])).SerializeToString().hex()
    command = [sys.executable, "-c", NEVER_READS, wire.target, step]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        client.stdout.readline()
        while not all(wire.get(f"s{one}").next_step for one in range(8)):
            pass
        client.send_signal(number)
        wire.open("neighbour")
        assert values(wire.step("neighbour", [[1]])) == [[1]]
        wire.sessions.Close(sessions_pb2.CloseRequest(session_id="neighbour"))
        client.kill()


def test_connections_that_are_reset_at_any_point_do_no_harm(wire):
    dice = random.Random(1)
    for number in range(100):
        with socket.create_connection(address(wire)) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.sendall(PREFACE[: dice.randint(1, len(PREFACE))] if number % 2 else PREFACE)


def http_1(dice):
    return b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def random_bytes(dice):
    return dice.randbytes(dice.randint(1, 3000))


def random_frames(dice):
    frames = b""
    for _ in range(dice.randint(1, 5)):
        length = dice.randint(0, 60)
        head = struct.pack(">I", length)[1:] + bytes([dice.randrange(12), dice.randrange(256)])
        frames += head + struct.pack(">I", dice.choice([0, 1, 3])) + dice.randbytes(length)
    return PREFACE + frames


def tls_hello(dice):
    outgoing = ssl.MemoryBIO()
    context = ssl.create_default_context()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="x").do_handshake()
    return outgoing.read()


@pytest.mark.parametrize("garbage", [http_1, random_bytes, random_frames, tls_hello])
def test_garbage_on_the_port_does_no_harm(wire, garbage):
    dice = random.Random(2)
    for _ in range(20):
        with socket.create_connection(address(wire)) as connection, contextlib.suppress(OSError):
            connection.sendall(garbage(dice))
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(WAIT_S)
            while connection.recv(4096):
                pass


def test_metadata_of_any_size_is_taken_or_refused(wire):
    for size in (1_000, 20_000, 500_000):
        for call in (
            lambda metadata: wire.sessions.Step(request("s0", [[1]]), metadata=metadata, timeout=WAIT_S),
            lambda metadata: list(wire.sessions.Stream(iter([]), metadata=metadata, timeout=WAIT_S)),
        ):
            code = code_of(call, (("key", "v" * size), ("key-bin", bytes(range(256)))))
            assert code is (grpc.StatusCode.OK if size < 20_000 else grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_unknown_methods_are_refused_whatever_body_follows(wire):
    for body in ([], [b"x"], [b"x" * 10_000] * 100):
        with pytest.raises(grpc.RpcError) as refused:
            list(wire.channel.stream_stream("/nope.Nope/Nope")(iter(body), timeout=WAIT_S))
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_call_for_one_request_that_streams_is_answered_by_its_first(wire):
    step = request("s0", [[1]]).SerializeToString()
    call = wire.channel.stream_unary("/ntm_serve.v1.Sessions/Step")
    assert values(sessions_pb2.StepResponse.FromString(call(iter([step] * 50), timeout=WAIT_S))) == [[1]]
    with pytest.raises(grpc.RpcError) as refused:
        call(iter([]), timeout=WAIT_S)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_deadlines_and_cancellations_at_any_moment_leave_nothing_behind(wire):
    allowed = {grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}

    def run(number):
        dice = random.Random(number)
        for _ in range(25):
            message = request(f"s{number}", [[0] * dice.choice([1, 20, 200])])
            assert code_of(wire.sessions.Step, message, timeout=dice.choice([0.0005, 0.001, 0.003, 0.01])) in allowed
            left = wire.sessions.Step.future(message)
            stream = iter([sessions_pb2.StreamRequest(step=message)] * 5)
            replies = wire.sessions.Stream(stream, timeout=dice.choice([0.001, 0.003, 0.01, WAIT_S]))
            left.cancel()
            for _ in range(dice.randint(0, 4)):
                assert code_of(next, replies) in allowed
            replies.cancel()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(run, range(8)))


def test_many_streams_over_many_connections_are_all_answered(wire):
    connections, streams, messages = 25, 250, 4
    with contextlib.ExitStack() as stack:
        channels = [stack.enter_context(grpc.insecure_channel(wire.target, options=ALONE)) for _ in range(connections)]
        calls = []
        for number in range(streams):
            step = sessions_pb2.StreamRequest(step=request(f"s{number % 8}", [[1]]))
            stub = sessions_pb2_grpc.SessionsStub(channels[number % connections])
            calls.append(stub.Stream(iter([step] * messages), timeout=WAIT_S))
        assert [len(list(call)) for call in calls] == [messages] * streams
    assert sum(wire.get(f"s{number}").next_step for number in range(8)) == streams * messages


def held_resources():
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts what a process holds by way of /proc")
def test_servers_that_start_and_stop_with_calls_in_every_state_keep_no_thread_and_no_descriptor():
    before = None
    for number in range(5):
        gate, leave = Gate(), threading.Event()

        def messages(leave=leave):
            yield sessions_pb2.StreamRequest(step=request("a", [[1]]))
            leave.wait(WAIT_S)

        with test_server([RunningSum(before_run=gate)], compute_threads=1, drain_s=0.01) as server:
            wire = Wire(server.target)
            wire.open("a")
            # A stream that idles, one that is half closed, a connection that says nothing, a step that is held.
            gate.let_through(1)
            idle = wire.sessions.Stream(messages())
            assert next(idle).step.next_steps == [1]
            list(wire.sessions.Stream(iter([])))
            silent = socket.create_connection(address_of(server))
            gate.await_run()
            held = wire.sessions.Step.future(request("a", [[1]]))
            gate.await_run()
            # Stopping cancels what it does not wait for; what computes is let go when its call is over.
            held.add_done_callback(lambda _, gate=gate: gate.open())
        with pytest.raises(grpc.RpcError):
            held.result(WAIT_S)
        leave.set()
        silent.close()
        wire.channel.close()
        if number == 1:
            before = held_resources()
    assert before is not None
    more = [now - then for now, then in zip(held_resources(), before, strict=True)]
    assert max(more) <= 2, "of five servers nothing may be left; grpc's own threads come and go"


class Stuck:
    """A server of gRPC's that never stops."""

    destroyed = False

    def shutdown(self, queue, tag): ...

    def cancel_all_calls(self): ...

    def destroy(self):
        self.destroyed = True


def test_a_server_that_grpc_does_not_stop_is_given_up_and_not_waited_for_in_grpc(monkeypatch):
    """To destroy it would be to wait for ever, on the thread that would see it stop."""
    monkeypatch.setattr("ntm_serve.frontends.server.CANCEL_WAIT_S", 0.0)
    stuck, frontend = Stuck(), GrpcServer.__new__(GrpcServer)

    async def stop():
        frontend._loop, frontend._server = asyncio.get_running_loop(), stuck
        await frontend.stop(0.0)

    run(stop())
    assert not stuck.destroyed


def address_of(server):
    return server.running.host, server.running.port


def test_posts_from_many_threads_are_all_called_and_end_no_process_when_the_loop_closes():
    """gRPC's core ends a process that rings a queue which was shut down."""
    for _ in range(4):
        called = [0] * 4
        closing = threading.Event()

        def post(loop: CompletionQueueLoop, place: int, called=called, closing=closing) -> int:
            def call():
                called[place] += 1

            posted = 0
            with contextlib.suppress(RuntimeError):  # The loop is closed.
                while True:
                    if closing.is_set() or posted - called[place] < 50:
                        loop.post(call)
                        posted += 1
            return posted

        with ThreadPoolExecutor(4) as threads:
            with test_server([RunningSum()]) as server:
                posting = [threads.submit(post, server.running.loop, place) for place in range(4)]
                wire = Wire(server.target)
                wire.open("a")
                for _ in range(5):
                    wire.step("a", [[1]])
                wire.channel.close()
                while min(called) < 200:
                    pass
                closing.set()
            assert all(one.result(WAIT_S) >= 200 for one in posting)
