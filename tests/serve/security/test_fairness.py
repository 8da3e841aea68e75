"""What no tenant can take all of: looks, calls, their bytes, sizes, memory, and steps that are run again."""

import contextlib
import threading
import time

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from serve import slots

from ntm_serve.app import load_models
from ntm_serve.client import Client
from ntm_serve.engine import OrtEngine
from ntm_serve.errors import LimitReached, SessionEvicted
from ntm_serve.testing import Gate, RunningSum, test_server
from ntm_serve.v1 import sessions_pb2, sessions_pb2_grpc
from ntm_serve.wire import DETAILS_KEY, tensor_of

from .conftest import until


@pytest.fixture
def tokens(callers):
    return {name: callers.add(name, name) for name in ("acme", "other")}


@pytest.fixture
def both(callers, tokens):
    """A server with settings, and a client of each tenant."""

    @contextlib.contextmanager
    def start(*models, **settings):
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(test_server(list(models) or [RunningSum()], **callers.settings, **settings))
            clients = [
                stack.enter_context(Client(server.target, token=tokens[name], retry=None, timeout_s=30))
                for name in ("acme", "other")
            ]
            yield server, *clients

    return start


def ones(steps):
    return np.ones((steps, 1), np.float32)


def test_a_tenant_has_so_many_watches_and_gets_one_when_another_ends(both):
    with both(tenant_watches_max=2) as (_, ours, theirs):
        session, other = ours.session("running-sum"), theirs.session("running-sum")
        watches = [ours.watch(session.id) for _ in range(2)]
        for one in watches:
            next(one)
        with pytest.raises(LimitReached, match="tenant acme: expected at most 2 watches at once") as refused:
            next(ours.watch(session.id))
        assert refused.value.fields == {"limit": "tenant_watches_max"}
        assert refused.value.retry_after_s == 1.0
        their_watch = theirs.watch(other.id)
        next(their_watch)
        watches.pop().close()

        def looked():
            another = ours.watch(session.id)
            try:
                next(another)
            except LimitReached:
                return False
            watches.append(another)
            return True

        until(looked)
        for one in (*watches, their_watch):
            one.close()


def test_a_tenant_has_so_many_calls_and_another_its_own(both, tokens):
    with both(tenant_calls_max=2) as (server, ours, theirs), grpc.insecure_channel(server.target) as channel:
        session = ours.session("running-sum")
        stub, metadata = sessions_pb2_grpc.SessionsStub(channel), [("authorization", f"Bearer {tokens['acme']}")]
        streams = [stub.Stream(iter(threading.Event().wait, True), metadata=metadata) for _ in range(2)]
        for stream in streams:
            stream.initial_metadata()
        with pytest.raises(LimitReached, match="tenant acme: expected at most 2 calls at once") as refused:
            session.step([1])
        assert refused.value.fields == {"limit": "tenant_calls_max"}
        assert theirs.session("running-sum").step([1]).tolist() == [1]
        for stream in streams:
            stream.cancel()
        until(lambda: stepped(session))


def test_a_probe_is_answered_whatever_calls_there_are():
    with test_server([RunningSum()], tenant_calls_max=1) as server, grpc.insecure_channel(server.target) as channel:
        stream = sessions_pb2_grpc.SessionsStub(channel).Stream(iter(threading.Event().wait, True))
        stream.initial_metadata()
        with Client(server.target, retry=None) as client, pytest.raises(LimitReached, match="at most 1 calls at once"):
            client.session("running-sum")
        probe = health_pb2_grpc.HealthStub(channel)
        for _ in range(2):
            assert probe.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        stream.cancel()


def stepped(session):
    try:
        return session.step([1]).tolist() == [1]
    except LimitReached:
        return False


@pytest.mark.parametrize("limit", ["tenant_call_bytes_max", "call_bytes_max"])
def test_the_bytes_of_calls_that_wait_are_bounded_and_given_back(both, tokens, limit):
    """Unary calls have no stream that would not be read: what they hold is refused beyond the limit."""
    gate = Gate()
    with both(RunningSum(before_run=gate), compute_threads=1, **{limit: 10_000}) as (server, ours, theirs):
        sessions = [ours.session("running-sum") for _ in range(8)]
        other = theirs.session("running-sum")
        stub = sessions_pb2_grpc.SessionsStub(grpc.insecure_channel(server.target))
        metadata = [("authorization", f"Bearer {tokens['acme']}")]
        requests = [
            sessions_pb2.StepRequest(session_ids=[one.id], inputs=[tensor_of("x", ones(1000)[None])])
            for one in sessions
        ]
        try:
            # Each has 4 kB and is counted when it is read: three are taken, the last of them over the limit.
            calls = [stub.Step.future(one, metadata=metadata) for one in requests]
            refused = refusals(calls, 5)
            for error in refused:
                assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
                assert facts_of(error) == ({"limit": limit}, 0.05)
            if limit == "tenant_call_bytes_max":
                sums = []
                stepping = threading.Thread(target=lambda: sums.append(other.step(ones(1000))[-1].tolist()))
                stepping.start()
                until(lambda: theirs.session_info(other.id).steps_in_flight == 1000)
                gate.open()
                stepping.join()
                assert sums == [[1000]]
            gate.open()
            answered = [one for one in calls if one.code() is grpc.StatusCode.OK]
            assert len(answered) == 3
        finally:
            gate.open()
        for _ in range(4):
            until(lambda: stub.Step(requests[0], metadata=metadata) is not None)


def refusals(calls, count):
    """The errors of so many of them, once they have them."""
    until(lambda: sum(one.done() for one in calls) >= count)
    return [one.exception() for one in calls if one.done()]


def facts_of(error):
    """The facts of a refusal, and the seconds after which to try again."""
    details = status_pb2.Status.FromString(dict(error.trailing_metadata())[DETAILS_KEY]).details
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    assert details[0].Unpack(info)
    assert details[1].Unpack(retry)
    return dict(info.metadata), retry.retry_delay.ToMilliseconds() / 1000


def test_a_tenants_sessions_have_so_many_sizes(callers, tokens, tmp_path):
    slots.write(tmp_path / "models")
    settings = {"tenant_model_sizes_max": 2, "store": f"sqlite:{tmp_path / 'sessions.db'}"}
    with (
        test_server(load_models(tmp_path / "models", batch_max=8), **callers.settings, **settings) as server,
        Client(server.target, token=tokens["acme"], retry=None) as ours,
        Client(server.target, token=tokens["other"], retry=None) as theirs,
    ):

        def opened(client, size):
            return client.session("slots", sizes={"slots": size})

        mine = [opened(ours, size) for size in (1, 2, 2)]
        assert ours.session("slots").next_step == 0
        with pytest.raises(LimitReached, match="tenant acme: expected at most 2 sizes beside its own") as refused:
            opened(ours, 3)
        assert refused.value.fields == {"limit": "tenant_model_sizes_max"}
        snapshot = opened(theirs, 3).snapshot().data
        with pytest.raises(LimitReached, match="at most 2 sizes"):
            ours.restore(snapshot)
        [scheduler] = server.running.service._schedulers.values()
        assert sorted(one.model.spec.axes[0].size for one in scheduler.sized_alike) == sorted({1, 2, 3, slots.OWN})
        # Two sessions have the second size: only with the last of them it is given back.
        mine.pop().close()
        with pytest.raises(LimitReached, match="at most 2 sizes"):
            opened(ours, 3)
        mine.pop().close()
        opened(ours, 3)


def test_sizes_that_are_made_count_also_where_whoever_asked_has_left(callers, tokens, tmp_path, monkeypatch):
    slots.write(tmp_path / "models")
    may, resized = threading.Event(), OrtEngine.resized
    settings = {"tenant_model_sizes_max": 1, "model_sizes_max": 2}
    with (
        test_server(load_models(tmp_path / "models", batch_max=8), **callers.settings, **settings) as server,
        grpc.insecure_channel(server.target) as channel,
        Client(server.target, token=tokens["other"], retry=None) as theirs,
    ):
        monkeypatch.setattr(OrtEngine, "resized", lambda *of: may.wait() and resized(*of))
        [scheduler] = server.running.service._schedulers.values()
        stub, metadata = sessions_pb2_grpc.SessionsStub(channel), [("authorization", f"Bearer {tokens['acme']}")]

        def asked(size):
            return stub.Open.future(sessions_pb2.OpenRequest(model="slots", sizes={"slots": size}), metadata=metadata)

        try:
            left = asked(1)
            until(lambda: scheduler._sizing._making)
            left.cancel()
            until(lambda: not server.running.service._residency._sessions.account_of("acme|s").calls)
            assert facts_of(asked(2).exception(timeout=20)) == ({"limit": "tenant_model_sizes_max"}, 1.0)
            assert len(scheduler._sizing._making) == 1
        finally:
            may.set()
        # There is room for another's, and once it is made for its own.
        assert theirs.session("slots", sizes={"slots": 3}).next_step == 0
        until(lambda: asked(2).code() is grpc.StatusCode.OK)


def test_whoever_opens_without_end_ends_its_own_sessions_and_no_others(both):
    with both(RunningSum(width=100), resident_bytes_max=10 * 400) as (_, ours, theirs):
        quiet = [theirs.session("running-sum") for _ in range(4)]
        for session in quiet:
            session.step(np.ones(100, np.float32))
        loud = [ours.session("running-sum") for _ in range(50)]
        for session in quiet:
            assert session.step(np.ones(100, np.float32))[0] == 2
        assert len(list(ours.sessions())) <= 6
        with pytest.raises(SessionEvicted):
            loud[0].step(np.ones(100, np.float32))


@pytest.fixture
def paying(both, tmp_path):
    """A server where 20 steps a second are made, and a session of 55 steps, paid for, of which no state is stored."""

    @contextlib.contextmanager
    def start(**settings):
        store = f"sqlite:{tmp_path / 'sessions.db'}"
        with both(store=store, tenant_steps_per_s_max=20, **settings) as (_, ours, theirs):
            session = ours.session("running-sum", session_id="mine", durability="process")
            for steps in (40, 15):
                session.step(ones(steps))
                time.sleep(1.1)  # What was taken beyond a second's is paid for.
            yield session, ours, theirs

    return start


@pytest.mark.parametrize("how", ["fork", "snapshot", "rewind"])
def test_steps_that_are_run_again_are_paid_for(paying, how):
    with paying() as (session, ours, theirs):
        again = {
            "fork": lambda: session.fork(step=50),
            "snapshot": lambda: session.snapshot(step=50),
            "rewind": lambda: session.rewind(50),
        }[how]
        other = theirs.session("running-sum", session_id="mine", durability="process")
        other.step(ones(15))
        assert session.fork(step=50).next_step == 50
        with pytest.raises(LimitReached, match="tenant acme: expected at most 20 steps a second") as refused:
            again()
        assert refused.value.fields == {"limit": "tenant_steps_per_s_max"}
        assert refused.value.retry_after_s > 1
        # A refusal changed nothing, and concerns nobody else; where the session stands, nothing is run again.
        assert (ours.session_info("mine").next_step, session.fork().next_step) == (55, 55)
        assert other.fork(step=10).next_step == 10
        time.sleep(refused.value.retry_after_s)
        again()


def test_a_session_that_is_run_again_to_be_looked_at_is_paid_for(paying):
    with paying(resident_bytes_max=4) as (_, ours, _):
        ours.session("running-sum", durability="process")
        assert not ours.session_info("mine").resident
        assert next(ours.watch("mine")).next_step == 55
        with pytest.raises(LimitReached, match="tenant acme: expected at most 20 steps a second"):
            next(ours.watch("mine"))
        # Coming back is not refused, nor are steps that are answered already.
        assert ours.session("running-sum", session_id="mine", resume=True).state()["total"].tolist() == [55]
        assert next(ours.watch("mine")).next_step == 55


def test_whoever_watches_sees_later_what_its_tenant_cannot_pay_for_yet(both, tmp_path):
    settings = {"store": f"sqlite:{tmp_path / 'sessions.db'}", "resident_bytes_max": 4, "tenant_steps_per_s_max": 20}
    with both(**settings) as (_, ours, theirs):
        session = ours.session("running-sum", session_id="mine", durability="process")
        session.step(ones(5))
        frames = ours.watch("mine", frames_per_s=1)
        assert next(frames).next_step == 5
        # Paid for two seconds later; by then another's session has its place in memory.
        session.step(ones(50))
        theirs.session("running-sum", durability="process")
        assert not ours.session_info("mine").resident
        while (frame := next(frames)).next_step == 5:
            pass
        assert (frame.next_step, frame.resident) == (55, False)
        assert frame.state["total"].array.tolist() == [55]
        frames.close()
