"""Metrics as Prometheus sees them: right names, right counts, and no series that a caller can make."""

import os
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from serve.exposition import scrape, value

from ntm_serve.client import Client
from ntm_serve.errors import LimitReached, ModelUnknown, NonFiniteState, NtmServeError, SessionUnknown
from ntm_serve.testing import Gate, RunningSum, test_server

MODEL = {"model": "running-sum", "version": "1"}
STEP = {"grpc_type": "unary", "grpc_service": "ntm_serve.v1.Sessions", "grpc_method": "Step"}
STREAM = {"grpc_type": "bidi_stream", "grpc_service": "ntm_serve.v1.Sessions", "grpc_method": "Stream"}

# Name to labels beside model and version.
CATALOGUE = {
    "ntm_serve_steps_total": {"outcome"},
    "ntm_serve_step_latency_seconds_count": set(),
    "ntm_serve_queue_wait_seconds_count": set(),
    "ntm_serve_compute_seconds_count": set(),
    "ntm_serve_batch_size_count": set(),
    "ntm_serve_steps_per_message_count": set(),
    "ntm_serve_sessions": {"tier"},
    "ntm_serve_sessions_opened_total": set(),
    "ntm_serve_sessions_closed_total": {"reason"},
    "ntm_serve_session_duration_seconds_count": set(),
    "ntm_serve_session_steps_count": set(),
    "ntm_serve_state_bytes": {"tier"},
    "ntm_serve_rejected_total": {"reason"},
    "ntm_serve_queue_depth": set(),
    "ntm_serve_inflight_steps": set(),
    "ntm_serve_model_load_seconds": set(),
    "ntm_serve_model_ready": set(),
    "ntm_serve_batch_independence": set(),
}


@pytest.fixture
def client(server):
    with Client(server.target) as client:
        yield client


def outcomes(server):
    series = scrape(server)
    words = ("ok", "error", "duplicate", "cancelled")
    return {word: value(series, "ntm_serve_steps_total", **MODEL, outcome=word) for word in words}


def test_every_series_of_a_model_is_there_before_its_first_event(server):
    found = {}
    for name, labels in scrape(server):
        found.setdefault(name, set()).update(dict(labels))
    for name, labels in CATALOGUE.items():
        assert found[name] == {"model", "version", *labels}, name
    assert found["ntm_serve_build_info"] == {"version", "onnxruntime", "grpcio"}


@pytest.mark.parametrize("store", ["", "sqlite"])
def test_promtool_has_nothing_against_them(tmp_path, store):
    promtool = shutil.which("promtool")
    if promtool is None:
        assert os.environ.get("CI") != "true", "promtool is missing (Debian package prometheus)"
        pytest.skip("promtool is missing (Debian package prometheus)")
    where = store and f"sqlite:{tmp_path}/sessions.db"
    with test_server([RunningSum()], store=where) as server, Client(server.target) as client:
        client.session("running-sum").step([1])
        with urlopen(f"{server.http}/metrics", timeout=10) as response:
            text = response.read()
    assert (b"ntm_serve_store_sessions" in text) == bool(store)
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=60, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_steps_are_counted_by_what_became_of_them(server, client):
    session = client.session("running-sum")
    session.step([[1], [2], [3]])
    session.step([3e38])
    with pytest.raises(NonFiniteState):
        session.step([[0], [3e38]])
    session.next_step = 0
    session.step([[1], [2], [3]])
    assert outcomes(server) == {"ok": 4, "error": 2, "duplicate": 3, "cancelled": 0}


@pytest.mark.parametrize("streamed", [False, True])
def test_steps_that_nobody_waits_for_any_more_are_counted_as_cancelled(streamed):
    gate = Gate()
    with test_server([RunningSum(before_run=gate)]) as server, Client(server.target, timeout_s=0.2) as client:
        session = client.session("running-sum")
        if streamed:
            gate.let_through(1)
            for _ in session.stream([[1]] * 4):
                while client.session_info(session.id).steps_in_flight < 3:
                    pass
                break
        else:
            with pytest.raises(NtmServeError):
                session.step([[1], [1], [1]])
        while client.session_info(session.id).steps_in_flight:
            pass
        assert outcomes(server) == {"ok": int(streamed), "error": 0, "duplicate": 0, "cancelled": 3}
        gate.open()


def test_batches_and_messages_are_counted_with_their_sizes():
    gate, model = Gate(), None
    model = RunningSum(before_run=gate)
    with test_server([model]) as server, Client(server.target) as client:
        sessions = [client.session("running-sum") for _ in range(3)]
        first = threading.Thread(target=sessions[0].step, args=([1],))
        first.start()
        gate.await_run()
        rest = [threading.Thread(target=one.step, args=([[1], [1]],)) for one in sessions[1:]]
        for thread in rest:
            thread.start()
        while value(scrape(server), "ntm_serve_inflight_steps", **MODEL) < 5:
            pass
        assert value(scrape(server), "ntm_serve_queue_depth", **MODEL) == 2
        gate.open()
        for thread in (first, *rest):
            thread.join()
        series = scrape(server)
    assert model.batches == [1, 2, 2]
    assert value(series, "ntm_serve_batch_size_count", **MODEL) == 3
    assert value(series, "ntm_serve_batch_size_sum", **MODEL) == 5
    assert value(series, "ntm_serve_batch_size_bucket", **MODEL, le="1.0") == 1
    assert value(series, "ntm_serve_batch_size_bucket", **MODEL, le="2.0") == 3
    assert value(series, "ntm_serve_compute_seconds_count", **MODEL) == 3
    assert value(series, "ntm_serve_steps_per_message_count", **MODEL) == 3
    assert value(series, "ntm_serve_steps_per_message_sum", **MODEL) == 5
    assert value(series, "ntm_serve_step_latency_seconds_count", **MODEL) == 3
    assert value(series, "ntm_serve_queue_wait_seconds_count", **MODEL) == 3
    assert value(series, "ntm_serve_inflight_steps", **MODEL) == 0
    assert value(series, "ntm_serve_queue_depth", **MODEL) == 0


def test_sessions_are_counted_as_they_come_and_go(server, client):
    kept = client.session("running-sum")
    with client.session("running-sum") as session:
        session.step([[1], [1]])
    series = scrape(server)
    assert value(series, "ntm_serve_sessions", **MODEL) == 1
    assert value(series, "ntm_serve_state_bytes", **MODEL) == 4
    assert value(series, "ntm_serve_sessions_opened_total", **MODEL) == 2
    assert value(series, "ntm_serve_sessions_closed_total", **MODEL, reason="client") == 1
    assert value(series, "ntm_serve_session_steps_sum", **MODEL) == 2
    client.session("running-sum", session_id=kept.id, resume=True)
    assert value(scrape(server), "ntm_serve_sessions_opened_total", **MODEL) == 2


@pytest.mark.parametrize(
    ("reason", "setting", "refused"),
    [("session", "session_steps_waiting_max", "a"), ("queue", "steps_waiting_max", "b"),
     ("total", "steps_waiting_total_max", "b")],
)  # fmt: skip
def test_what_is_refused_because_of_a_limit_is_counted(reason, setting, refused):
    gate = Gate()
    with (
        test_server([RunningSum(before_run=gate)], sessions_max=2, **{setting: 1}) as server,
        Client(server.target) as client,
        ThreadPoolExecutor(2) as threads,
    ):
        sessions = {name: client.session("running-sum", session_id=name) for name in "ab"}
        with pytest.raises(LimitReached):
            client.session("running-sum")
        held = threads.submit(sessions["a"].step, [1])
        gate.await_run()
        again = client.session("running-sum", session_id=refused, resume=True)
        again.next_step = sessions["a"].next_step + (refused == "a")
        late = threads.submit(again.step, [2])
        while not value(scrape(server), "ntm_serve_rejected_total", **MODEL, reason=reason):
            pass
        gate.open()
        assert held.result().tolist() == [1]
        assert isinstance(late.exception(), LimitReached)
        assert value(scrape(server), "ntm_serve_rejected_total", **MODEL, reason="sessions") == 1


def test_calls_are_counted_by_method_and_status(server, client):
    session = client.session("running-sum")
    session.step([1])
    session.step([1])
    with pytest.raises(NonFiniteState):
        session.step([[3e38], [3e38]])
    list(session.stream([[1]] * 5))
    series = scrape(server)
    assert value(series, "grpc_server_started_total", **STEP) == 3
    assert value(series, "grpc_server_handled_total", **STEP, grpc_code="OK") == 2
    assert value(series, "grpc_server_handled_total", **STEP, grpc_code="FAILED_PRECONDITION") == 1
    assert value(series, "grpc_server_msg_received_total", **STEP) == 3
    assert value(series, "grpc_server_msg_sent_total", **STEP) == 2
    assert value(series, "grpc_server_started_total", **STREAM) == 1
    assert value(series, "grpc_server_msg_received_total", **STREAM) == 5
    assert value(series, "grpc_server_msg_sent_total", **STREAM) == 5
    until(server, STREAM, "OK", 1)


def until(server, method, code, count):
    """A call is counted as ended a moment after its client knows; until then its series may not exist."""
    while not any(
        name == "grpc_server_handled_total" and {**method, "grpc_code": code}.items() <= dict(labels).items()
        for name, labels in scrape(server)
    ):
        pass
    assert value(scrape(server), "grpc_server_handled_total", **method, grpc_code=code) == count


@pytest.mark.parametrize("streamed", [False, True])
def test_a_cancelled_call_is_counted_as_one(streamed):
    gate = Gate()
    with test_server([RunningSum(before_run=gate)]) as server, Client(server.target, timeout_s=0.1) as client:
        session = client.session("running-sum")
        if streamed:
            gate.let_through(1)
            for _ in session.stream([[1]] * 4):
                break
        else:
            with pytest.raises(NtmServeError):
                session.step([1])
        until(server, STREAM if streamed else STEP, "CANCELLED", 1)
        gate.open()


def test_health_and_reflection_are_counted_as_begun_and_ended(server):
    with grpc.insecure_channel(server.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        health.Check(health_pb2.HealthCheckRequest())
        watched = health.Watch(health_pb2.HealthCheckRequest())
        next(watched)
        watched.cancel()
        ProtoReflectionDescriptorDatabase(channel).get_services()
    until(server, {"grpc_method": "Check"}, "OK", 1)
    until(server, {"grpc_method": "Watch", "grpc_type": "server_stream"}, "CANCELLED", 1)
    reflection = {"grpc_method": "ServerReflectionInfo", "grpc_type": "bidi_stream"}
    while value(scrape(server), "grpc_server_started_total", **reflection) != sum(
        number
        for (name, labels), number in scrape(server).items()
        if name == "grpc_server_handled_total" and reflection.items() <= dict(labels).items()
    ):
        pass


def test_no_caller_can_make_a_series(server, client):
    def meet(number):
        """One of everything that a caller names."""
        with client.session("running-sum", session_id=f"session-{number}") as session:
            session.step([1])
            list(session.stream([[1]]))
        with pytest.raises(SessionUnknown):
            client.session_info(f"nobody-{number}")
        for name, version in ((f"nothing-{number}", ""), ("running-sum", f"{number + 2}")):
            with pytest.raises(ModelUnknown):
                client.session(name, version=version)
        with grpc.insecure_channel(server.target) as channel:
            for method in (f"/ntm_serve.v1.Sessions/Nope{number}", f"/nope.Service{number}/Step"):
                with pytest.raises(grpc.RpcError):
                    channel.unary_unary(method)(b"", metadata=((f"key-{number}", "x"),))
        with pytest.raises(HTTPError) as missing:
            urlopen(f"{server.http}/nope-{number}")
        missing.value.close()

    meet(0)
    until(server, STREAM, "OK", 1)
    until(server, {"grpc_service": "other", "grpc_method": "other"}, "UNIMPLEMENTED", 2)
    before = set(scrape(server))
    for number in range(1, 50):
        meet(number)
    assert set(scrape(server)) == before
