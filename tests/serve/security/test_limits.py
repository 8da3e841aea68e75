"""Limits of tenants over real sockets: whoever is at one is told so, and nobody else notices."""

import threading
import time
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2

from ntm_serve.client import Client, RetryPolicy
from ntm_serve.errors import LimitReached, StreamAged, TooLarge
from ntm_serve.testing import Gate, RunningSum, test_server
from ntm_serve.v1 import sessions_pb2, sessions_pb2_grpc
from ntm_serve.wire import DETAILS_KEY, tensor_of

from .conftest import replace, until


@pytest.fixture
def tokens(callers):
    return {name: callers.add(name, name) for name in ("acme", "other")}


@pytest.fixture
def serving(callers, tokens):
    """Starts a server with settings, for clients of both tenants."""

    def start(*models, **settings):
        return test_server(list(models) or [RunningSum()], **callers.settings, **settings)

    return start


def client(server, token, **more):
    return Client(server.target, **({"retry": None, "timeout_s": 30} | more), token=token)


def test_a_tenant_has_so_many_sessions_and_another_its_own(serving, tokens):
    with (
        serving(tenant_sessions_max=2) as server,
        client(server, tokens["acme"]) as ours,
        client(server, tokens["other"]) as theirs,
    ):
        sessions = [ours.session("running-sum") for _ in range(2)]
        with pytest.raises(LimitReached, match="tenant acme: expected at most 2 sessions in memory") as refused:
            ours.session("running-sum")
        assert refused.value.retry_after_s == 1.0
        assert refused.value.fields == {"limit": "tenant_sessions_max"}
        for made in (lambda: sessions[0].fork(), lambda: ours.restore(sessions[0].snapshot().data)):
            with pytest.raises(LimitReached, match="tenant acme"):
                made()
        theirs.session("running-sum")
        sessions[0].close()
        ours.session("running-sum")


def test_sessions_that_are_opened_at_once_are_counted(serving, tokens, tmp_path):
    settings = {"tenant_sessions_max": 5, "store": f"sqlite:{tmp_path / 'sessions.db'}"}
    with serving(**settings) as server, client(server, tokens["acme"]) as ours:
        outcomes = []

        def open_some():
            for _ in range(4):
                try:
                    outcomes.append(ours.session("running-sum").id)
                except LimitReached as refused:
                    outcomes.append(refused)

        threads = [threading.Thread(target=open_some) for _ in range(8)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        assert sum(isinstance(one, str) for one in outcomes) == 5
        assert len(outcomes) == 32
        assert len(list(ours.sessions())) == 5


def test_a_tenant_has_so_many_bytes_of_state(serving, tokens):
    with (
        serving(RunningSum(width=100), tenant_state_bytes_max=1000) as server,
        client(server, tokens["acme"]) as ours,
        client(server, tokens["other"]) as theirs,
    ):
        for _ in range(2):
            ours.session("running-sum")
        with pytest.raises(LimitReached, match="at most 1000 bytes of state in memory, got 800 and 400 more"):
            ours.session("running-sum")
        theirs.session("running-sum")


def test_all_together_have_so_many_bytes_of_state(serving, tokens):
    with (
        serving(RunningSum(width=100), state_bytes_max=1000) as server,
        client(server, tokens["acme"]) as ours,
        client(server, tokens["other"]) as theirs,
    ):
        ours.session("running-sum")
        theirs.session("running-sum")
        with pytest.raises(LimitReached, match="server: expected at most 1000 bytes of state"):
            ours.session("running-sum")


def test_a_tenant_has_so_many_steps_in_flight(serving, tokens):
    gate = Gate()
    model = RunningSum(before_run=gate)
    with serving(model, tenant_steps_waiting_max=4, compute_threads=1) as server:
        try:
            with client(server, tokens["acme"]) as ours, client(server, tokens["other"]) as theirs:
                first, second = (ours.session("running-sum") for _ in range(2))
                other, answers = theirs.session("running-sum"), []
                runs = [threading.Thread(target=lambda: answers.append(first.step(np.ones((3, 1), np.float32))))]
                runs[0].start()
                gate.await_run()
                with pytest.raises(
                    LimitReached, match="tenant acme: expected at most 4 steps waiting, got 3 and 2 more"
                ):
                    second.step(np.ones((2, 1), np.float32))
                runs.append(threading.Thread(target=lambda: answers.append(other.step(np.ones((4, 1), np.float32)))))
                runs[1].start()
                until(lambda: theirs.session_info(other.id).steps_in_flight == 4)
                gate.open()
                for one in runs:
                    one.join()
                assert sorted(len(one) for one in answers) == [3, 4]
                assert second.step(np.ones((2, 1), np.float32))[-1].tolist() == [2]
        finally:
            gate.open()


def test_more_steps_than_a_tenant_may_ever_have_waiting_are_not_to_be_tried_again(serving, tokens):
    with serving(tenant_steps_waiting_max=4) as server, client(server, tokens["acme"]) as ours:
        session = ours.session("running-sum")
        with pytest.raises(TooLarge, match="expected at most 4 steps, as many of tenant acme as may wait, got 5"):
            session.step(np.ones((5, 1), np.float32))
        assert session.step(np.ones((4, 1), np.float32))[-1].tolist() == [4]


def test_a_tenant_makes_so_many_steps_a_second(serving, tokens):
    with (
        serving(tenant_steps_per_s_max=50) as server,
        client(server, tokens["acme"]) as ours,
        client(server, tokens["other"]) as theirs,
    ):
        session, other = ours.session("running-sum"), theirs.session("running-sum")
        session.step(np.ones((100, 1), np.float32))
        with pytest.raises(LimitReached, match="tenant acme: expected at most 50 steps a second") as refused:
            session.step([1])
        assert 0 < refused.value.retry_after_s <= 1.0
        assert other.step(np.ones((100, 1), np.float32))[-1].tolist() == [100]
        time.sleep(refused.value.retry_after_s)
        assert session.step([1]).tolist() == [101]
        # What was answered before is answered again, and asks for no token.
        wire = sessions_pb2_grpc.SessionsStub(grpc.insecure_channel(server.target))
        again = sessions_pb2.StepRequest(
            session_ids=[session.id], first_steps=[100], inputs=[tensor_of("x", np.ones((1, 1, 1), np.float32))]
        )
        for _ in range(200):
            wire.Step(again, metadata=[("authorization", f"Bearer {tokens['acme']}")])


def test_all_together_make_so_many_steps_a_second(serving, tokens):
    with (
        serving(steps_per_s_max=50) as server,
        client(server, tokens["acme"]) as ours,
        client(server, tokens["other"]) as theirs,
    ):
        ours.session("running-sum").step(np.ones((100, 1), np.float32))
        with pytest.raises(LimitReached, match="server: expected at most 50 steps a second"):
            theirs.session("running-sum").step([1])


def test_whoever_sends_on_at_its_limit_is_read_no_faster_than_it_may(serving, tokens):
    """Refusing is work as well: a stream that is refused is not read until it may send again."""
    with serving(tenant_steps_per_s_max=5) as server, client(server, tokens["acme"]) as ours:
        session = ours.session("running-sum")
        wire = sessions_pb2_grpc.SessionsStub(grpc.insecure_channel(server.target))
        message = sessions_pb2.StepRequest(
            session_ids=[session.id], inputs=[tensor_of("x", np.ones((1, 10, 1), np.float32))]
        )
        sent = (sessions_pb2.StreamRequest(step=message) for _ in range(8))
        replies = list(wire.Stream(sent, metadata=[("authorization", f"Bearer {tokens['acme']}")]))
        # Ten steps take two seconds at five a second; unheld, eight messages at once would have one answer.
        answered = [one for one in replies if one.step.session_ids]
        refused = [one.step.failures[0].error for one in replies if one.step.failures]
        assert len(answered) + len(refused) == 8
        assert len(answered) >= 2
        assert {error.reason for error in refused} == {"LIMIT_REACHED"}
        assert all(error.HasField("retry_after") for error in refused)


def test_a_client_that_waits_as_it_is_told_gets_through(serving, tokens):
    with (
        serving(tenant_steps_per_s_max=200) as server,
        client(server, tokens["acme"], retry=RetryPolicy()) as ours,
        ours.group("running-sum") as group,
    ):
        x = {str(key): [1] for key in range(20)}
        made = 0
        while made < 400:
            answers = group.step(x)
            made += sum(not isinstance(one, Exception) for one in answers.values())
            waits = [one.retry_after_s for one in answers.values() if isinstance(one, LimitReached)]
            time.sleep(max(waits, default=0))
        assert sum(info.next_step for info in ours.sessions()) == made


def test_messages_of_a_tenant_are_bounded(serving, tokens, tmp_path):
    tenants = tmp_path / "tenants.toml"
    tenants.write_text("[tenants.acme]\nmessage_bytes_max = 2000\nsteps_per_message_max = 10\n")
    with (
        serving(tenants_file=tenants) as server,
        client(server, tokens["acme"]) as ours,
        client(server, tokens["other"]) as theirs,
    ):
        session, other = ours.session("running-sum"), theirs.session("running-sum")
        with pytest.raises(TooLarge, match="1 <= T <= 10 steps, got T = 11") as refused:
            session.step(np.ones((11, 1), np.float32))
        assert refused.value.fields == {"limit": "tenant_steps_per_message_max", "expected": "10", "actual": "11"}
        with pytest.raises(TooLarge, match="message: expected at most 2000 bytes, got 4") as refused:
            session.step(np.ones((1000, 1), np.float32))
        actual = refused.value.fields.pop("actual")
        assert refused.value.fields == {"limit": "tenant_message_bytes_max", "expected": "2000"}
        assert refused.value.message.endswith(f"got {actual}")
        with pytest.raises(TooLarge, match="message: expected at most 2000 bytes"):
            list(session.stream([np.ones((1000, 1), np.float32)]))
        assert other.step(np.ones((1000, 1), np.float32))[-1].tolist() == [1000]
        assert session.step([1]).tolist() == [1]


def test_limits_that_are_renewed_hold_without_a_restart(serving, tokens, tmp_path):
    tenants = tmp_path / "tenants.toml"
    tenants.write_text("[tenants.acme]\nsessions_max = 1\n")
    with serving(tenants_file=tenants) as server, client(server, tokens["acme"]) as ours:
        ours.session("running-sum")
        with pytest.raises(LimitReached):
            ours.session("running-sum")
        replace(tenants, b"[tenants.acme]\nsessions_max = 2\n")

        def opened():
            try:
                return bool(ours.session("running-sum"))
            except LimitReached:
                return False

        until(opened)
        with pytest.raises(LimitReached, match="at most 2 sessions"):
            ours.session("running-sum")


def test_a_stream_that_is_old_ends(serving, tokens):
    with serving(stream_age_max_s=1.0) as server, client(server, tokens["acme"]) as ours:
        replies = ours.session("running-sum").stream(inputs(time.monotonic() + 60))
        with pytest.raises(StreamAged, match=r"was open for more than 1 s"):
            for _ in replies:
                pass


def test_a_client_goes_on_over_another_stream_and_loses_nothing(serving, tokens, tmp_path):
    tenants = tmp_path / "tenants.toml"
    tenants.write_text("[tenants.acme]\nstream_age_max_s = 0.5\n")
    with (
        serving(tenants_file=tenants) as server,
        client(server, tokens["acme"], retry=RetryPolicy()) as ours,
    ):
        session, count = ours.session("running-sum"), 0
        for count, y in enumerate(session.stream(inputs(time.monotonic() + 5)), start=1):
            assert y.tolist() == [count]
        assert ours.session_info(session.id).next_step == count
        text = urlopen(server.http + "/metrics", timeout=10).read().decode()
        assert 'grpc_code="UNAVAILABLE",grpc_method="Stream"' in text


def test_calls_beyond_what_a_server_takes_are_refused(serving, tokens):
    with serving(calls_max=3) as server, grpc.insecure_channel(server.target) as channel:
        stub = sessions_pb2_grpc.SessionsStub(channel)
        metadata = [("authorization", f"Bearer {tokens['acme']}")]
        streams = [stub.Stream(iter(threading.Event().wait, True), metadata=metadata) for _ in range(3)]
        for stream in streams:
            stream.initial_metadata()
        with pytest.raises(grpc.RpcError) as refused:
            stub.List(sessions_pb2.ListRequest(), metadata=metadata)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        details = status_pb2.Status.FromString(dict(refused.value.trailing_metadata())[DETAILS_KEY])
        assert any(one.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for one in details.details)
        streams[0].cancel()

        def answered():
            try:
                return stub.List(sessions_pb2.ListRequest(), metadata=metadata) is not None
            except grpc.RpcError:
                return False

        until(answered)
        for stream in streams:
            stream.cancel()


def test_connections_beyond_what_a_server_takes_are_not_served():
    with test_server([RunningSum()], connections_max=2) as server:
        channels = [grpc.insecure_channel(server.target, [("grpc.use_local_subchannel_pool", 1)]) for _ in range(3)]
        stubs = [sessions_pb2_grpc.SessionsStub(channel) for channel in channels]

        def answered(stub):
            try:
                return stub.List(sessions_pb2.ListRequest(), timeout=3) is not None
            except grpc.RpcError:
                return False

        assert [answered(stub) for stub in stubs] == [True, True, False]
        channels[0].close()
        until(lambda: answered(stubs[2]))
        assert answered(stubs[1])
        for channel in channels[1:]:
            channel.close()


def test_metrics_tell_tenants_apart_and_name_no_token(serving, tokens):
    with serving(tenant_sessions_max=1) as server, client(server, tokens["acme"]) as ours:
        ours.session("running-sum").step(np.ones((3, 1), np.float32))
        with pytest.raises(LimitReached):
            ours.session("running-sum")
        text = urlopen(server.http + "/metrics", timeout=10).read().decode()
        for line in (
            'ntm_serve_tenant_sessions{tenant="acme"} 1.0',
            'ntm_serve_tenant_state_bytes{tenant="acme"} 4.0',
            'ntm_serve_tenant_steps_waiting{tenant="acme"} 0.0',
            'ntm_serve_tenant_steps_total{tenant="acme"} 3.0',
            'ntm_serve_tenant_rejected_total{reason="sessions",tenant="acme"} 1.0',
        ):
            assert line in text
        assert not any(token in text for token in tokens.values())


def inputs(until_s):
    while time.monotonic() < until_s:
        yield [1]
