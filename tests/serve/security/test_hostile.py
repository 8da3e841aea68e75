"""What others do to a server in the short: frames that are none, ten times what it takes, clients that do not read. The
long forms are `make fuzz-frames`, `make overload` and `make soak`.
"""

import re
import threading
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2

from benchmarks.fuzz import Bystander, attack, corpus
from benchmarks.overload import measured
from ntm_serve.client import Client
from ntm_serve.errors import LimitReached
from ntm_serve.frontends import server as grpc_server
from ntm_serve.frontends import watch as grpc_watch
from ntm_serve.frontends.server import UNASKED_CALLS_MAX
from ntm_serve.testing import RunningSum, test_server
from ntm_serve.v1 import sessions_pb2, sessions_pb2_grpc
from ntm_serve.wire import tensor_of

from .conftest import until

WIDTH = 4096


@pytest.mark.parametrize("seed", range(3))
def test_frames_that_no_client_would_send_harm_nobody_else(seed):
    expected = [np.float32([step + 1]).tobytes() for step in range(100_000)]
    with test_server([RunningSum()]) as server, Client(server.target) as client:
        with Bystander(client, "running-sum", lambda _: np.ones(1, np.float32), expected) as bystander:
            report = attack(server.target, 4_000, seed=seed, messages=corpus("running-sum", 1))
        assert report.frames >= 4_000
        # They got in: what was wrong with them was found in messages, and not only in their frames.
        text = urlopen(server.http + "/metrics", timeout=10).read().decode()
        received = re.findall(r"^grpc_server_msg_received_total\{.*Sessions.*\} (\S+)$", text, re.MULTILINE)
        assert sum(map(float, received)) > bystander.steps + 20
        assert 'grpc_code="INVALID_ARGUMENT"' in text
        assert 'grpc_code="INTERNAL"' not in text
        assert 'grpc_code="UNKNOWN"' not in text
        assert bystander.wrong == 0
        assert bystander.steps > 0
        assert client.session("running-sum").step([1]).tolist() == [1]


def test_ten_times_what_a_server_takes_costs_those_let_in_nothing_and_no_memory():
    once, tenfold = measured(sessions=16, seconds=3.0)
    assert tenfold.refused > 100
    for seen in (once, tenfold):
        assert (seen.admitted, seen.wrong, seen.lost) == (16, 0, 0)
        assert seen.messages > 16
    assert tenfold.peak_bytes <= 1.1 * once.peak_bytes
    print(f"p99 {once.p99_ms:.1f} ms, with ten times as many clients {tenfold.p99_ms:.1f} ms")


def test_clients_that_do_not_read_hold_what_is_theirs_and_no_more():
    """Each has megabytes of replies to take, and takes none: what is held for it is what its stream may hold."""
    model = RunningSum(width=WIDTH)
    x = tensor_of("x", np.ones((1, 16, WIDTH), np.float32))
    with (
        test_server([model], stream_bytes_max=1 << 20, messages_in_flight_max=8) as server,
        Client(server.target, timeout_s=60) as client,
    ):
        channels, calls, over = [], [], threading.Event()
        for number in range(8):
            # Windows as small as they may be, so that little lies on the way.
            options = [
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.http2.bdp_probe", 0),
                ("grpc.http2.lookahead_bytes", 0),
            ]
            channels.append(grpc.insecure_channel(server.target, options))
            client.session("running-sum", session_id=f"slow-{number}")
            message = sessions_pb2.StepRequest(session_ids=[f"slow-{number}"], inputs=[x], output_names=["y"])
            calls.append(sessions_pb2_grpc.SessionsStub(channels[-1]).Stream(_endless(message, over)))
        try:
            with client.session("running-sum") as session:
                ones = np.ones(WIDTH, np.float32)
                for count, y in enumerate(session.stream([ones] * 200), start=1):
                    assert y[0] == count
            held = [client.session_info(f"slow-{number}") for number in range(8)]
            # 256 KiB a message: what is in flight is bounded, and the sender was held and not refused.
            assert all(info.steps_in_flight <= 8 * 16 for info in held)
            assert all(info.next_step < 16 * 400 for info in held)
            assert all(call.is_active() for call in calls)
        finally:
            over.set()
            for call in calls:
                call.cancel()
            for channel in channels:
                channel.close()


def test_calls_that_never_end_and_that_anybody_may_make_keep_no_probe_out(callers):
    over, probe = threading.Event(), health_pb2.HealthCheckRequest().SerializeToString()
    with test_server([RunningSum()], **callers.settings) as server, grpc.insecure_channel(server.target) as channel:
        check = channel.stream_stream("/grpc.health.v1.Health/Check")
        # They begin, and never say what they ask.
        begun = [check(_nothing(over)) for _ in range(UNASKED_CALLS_MAX + 10)]
        try:
            assert begun[0].code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            with grpc.insecure_channel(server.target, [("grpc.use_local_subchannel_pool", 1)]) as other:
                for _ in range(20):
                    answer = other.unary_unary("/grpc.health.v1.Health/Check")(probe, timeout=20)
                    assert health_pb2.HealthCheckResponse.FromString(answer).status == 1
            assert sum(call.is_active() for call in begun) <= UNASKED_CALLS_MAX
        finally:
            over.set()
            for call in begun:
                call.cancel()


def _nothing(over):
    over.wait()
    yield from ()


def test_a_client_that_does_not_read_does_not_keep_a_stream_that_is_too_old(monkeypatch):
    monkeypatch.setattr(grpc_server, "LEAVING_MAX_S", 1.0)
    x = tensor_of("x", np.ones((1, 16, WIDTH), np.float32))
    with test_server([RunningSum(width=WIDTH)], stream_age_max_s=1.0) as server, Client(server.target) as client:
        over = threading.Event()
        client.session("running-sum", session_id="slow")
        message = sessions_pb2.StepRequest(session_ids=["slow"], inputs=[x])
        with grpc.insecure_channel(server.target) as channel:
            call = sessions_pb2_grpc.SessionsStub(channel).Stream(_endless(message, over))
            try:
                until(
                    lambda: b'grpc_server_handled_total{grpc_code="CANCELLED",grpc_method="Stream"' in scraped(server)
                )
            finally:
                over.set()
                call.cancel()


def test_a_client_that_does_not_read_does_not_keep_its_place_among_those_that_watch(monkeypatch):
    monkeypatch.setattr(grpc_watch, "TAKEN_MAX_S", 0.5)
    wide = np.ones((1, 1, WIDTH), np.float32)
    settings = {"watches_max": 1, "watch_frames_per_s_max": 1000}
    with test_server([RunningSum(width=WIDTH)], **settings) as server, Client(server.target, retry=None) as client:
        session = client.session("running-sum")
        request = sessions_pb2.WatchRequest(session_id=session.id, frames_per_s=1000, columns_max=WIDTH)
        # It would take megabytes, were the window to grow.
        with grpc.insecure_channel(server.target, [("grpc.http2.bdp_probe", 0)]) as channel:
            call = sessions_pb2_grpc.SessionsStub(channel).Watch(request)
            assert next(call).HasField("begun")

            def another_has_its_place():
                session.step(wide[0, 0])
                try:
                    next(client.watch(session.id, rows_max=1, columns_max=1))
                except LimitReached:
                    return False
                return True

            until(another_has_its_place)
            with pytest.raises(grpc.RpcError) as ended:
                for _ in call:
                    pass
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert ended.value.details() == "watch: its client took nothing for 0.5 s; watch again"


def scraped(server):
    return urlopen(server.http + "/metrics", timeout=10).read()


def _endless(message, over):
    while not over.is_set():
        yield sessions_pb2.StreamRequest(step=message)
