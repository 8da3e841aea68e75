"""Durable sessions over real servers, on a file and on a redis: every call, faults of settings, what is counted."""

import contextlib
import sqlite3

import grpc
import pytest
from serve.exposition import scrape, value
from serve.frontends.wire_client import Wire, reason_of, request, values
from serve.stores.redis_server import DURABLE, RedisServer

from ntm_serve.errors import NtmServeError, SettingsFault, StoreUnavailable
from ntm_serve.testing import RunningSum, test_server
from ntm_serve.v1 import sessions_pb2 as pb

from .replicas import CompanySum

MEMORY, PROCESS, DISK = pb.DURABILITY_MEMORY, pb.DURABILITY_PROCESS, pb.DURABILITY_DISK


@pytest.fixture(autouse=True)
def clock():
    """The servers' own time, here: it is real."""


@pytest.fixture(scope="module")
def redis_server():
    server = RedisServer(*DURABLE)
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "redis"])
def store(request, tmp_path):
    """A setting that names a store of the test's own."""
    if request.param == "sqlite":
        return {"store": f"sqlite:{tmp_path / 'sessions.db'}"}
    server = request.getfixturevalue("redis_server")
    return {"store": server.url, "store_prefix": tmp_path.name}


@contextlib.contextmanager
def serving(settings, *models, **more):
    """A server, and the bare wire to it."""
    with test_server(models or [RunningSum(), CompanySum()], **settings, **more) as server:
        wire = Wire(server.target)
        wire.server = server
        try:
            yield wire
        finally:
            wire.channel.close()


def refused(call, *args, **more):
    """The status, reason and facts of a call that fails."""
    with pytest.raises(grpc.RpcError) as fault:
        call(*args, **more)
    reason, facts = reason_of(fault.value)
    return fault.value.code(), reason, facts


def close(wire, name):
    return wire.sessions.Close(pb.CloseRequest(session_id=name)).session


def snapshot(wire, name, **more):
    return wire.sessions.Snapshot(pb.SnapshotRequest(session_id=name, **more))


def restore(wire, data, **more):
    return wire.sessions.Restore(pb.RestoreRequest(snapshot=data, **more)).session


def fork(wire, name, **more):
    return wire.sessions.Fork(pb.ForkRequest(session_id=name, **more)).session


def rewind(wire, name, step):
    return wire.sessions.Rewind(pb.RewindRequest(session_id=name, step=step)).session


def ids(wire, **more):
    return [one.session_id for one in wire.sessions.List(pb.ListRequest(**more)).sessions]


@pytest.mark.parametrize("durability", [pb.DURABILITY_UNSPECIFIED, PROCESS, DISK])
@pytest.mark.parametrize("model", ["running-sum", "company-sum"])
def test_a_durable_session_outlives_its_server(store, durability, model):
    with serving(store) as wire:
        opened = wire.open("s", model=model, durability=durability)
        assert opened.durability == (durability or PROCESS)
        first = wire.step("s", [[1, 2]], [0])
        assert list(first.durable_steps) == [2]
        second = wire.step("s", [[3]])
    with serving(store) as wire:
        shown = wire.get("s")
        assert (shown.next_step, shown.durable_step, shown.resident) == (3, 3, False)
        assert (shown.durability, shown.oldest_retained_step) == (durability or PROCESS, 0)
        assert ids(wire) == ["s"]
        for number, before in ((0, [[1, 2]]), (2, [[3]])):
            again = wire.step("s", before, [number])
            assert again.outputs == (first, second)[number // 2].outputs
        assert wire.get("s").resident
        made = values(wire.step("s", [[4]], [3]))
        assert made[0][0] == pytest.approx(10, abs=0.1)
        assert close(wire, "s").next_step == 4
    with serving(store) as wire:
        assert refused(wire.get, "s")[:2] == (grpc.StatusCode.NOT_FOUND, "CLOSED")
        assert ids(wire) == []
        assert wire.open("s", model=model).next_step == 0


def test_a_session_in_memory_alone_ends_with_its_server(store):
    with serving(store) as wire:
        opened = wire.open("s", durability=MEMORY)
        assert (opened.durability, opened.resident) == (MEMORY, True)
        response = wire.step("s", [[1]])
        assert list(response.durable_steps) == [0]
    with serving(store) as wire:
        assert refused(wire.step, "s", [[1]])[:2] == (grpc.StatusCode.NOT_FOUND, "UNKNOWN")
        assert ids(wire) == []


def test_forks_rewinds_snapshots_and_restored_sessions_go_on_where_they_begin(store):
    with serving(store, retain_steps=100) as wire:
        wire.open("s")
        for number in range(1, 6):
            wire.step("s", [[number]], [number - 1])
        assert (fork(wire, "s", fork_session_id="now").next_step, fork(wire, "s").durability) == (5, PROCESS)
        assert fork(wire, "s", fork_session_id="then", step=2, durability=DISK).next_step == 2
        assert fork(wire, "s", fork_session_id="start", step=0).next_step == 0
        taken = snapshot(wire, "s", step=3)
        assert taken.step == 3
        assert snapshot(wire, "s").step == 5
        restored = wire.sessions.Restore(pb.RestoreRequest(snapshot=taken.snapshot, session_id="restored"))
        assert [one.name for one in restored.inputs] == ["x"]
        assert restored.session.next_step == 3
        assert rewind(wire, "s", 4).next_step == 4
        totals = {"s": 10, "now": 15, "then": 3, "start": 0, "restored": 6}
    with serving(store) as wire:
        assert set(totals) < set(ids(wire))
        for name, total in totals.items():
            assert values(wire.step(name, [[100]])) == [[total + 100]]
        assert wire.get("then").durability == DISK
        assert refused(rewind, wire, "restored", 2)[:2] == (grpc.StatusCode.OUT_OF_RANGE, "STEP_FORGOTTEN")
        assert refused(rewind, wire, "s", 77)[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")
        assert refused(fork, wire, "s", fork_session_id="then")[:2] == (
            grpc.StatusCode.ALREADY_EXISTS, "SESSION_EXISTS",
        )  # fmt: skip
        for damaged in (b"", taken.snapshot[:-1], taken.snapshot[:30] + b"x" + taken.snapshot[31:]):
            assert refused(restore, wire, damaged)[:2] == (grpc.StatusCode.DATA_LOSS, "SNAPSHOT_REJECTED")


def test_a_snapshot_of_a_server_without_a_store_is_taken_up_by_one_with(store):
    with serving({}) as wire:
        wire.open("s")
        wire.step("s", [[1, 2, 3]])
        data = snapshot(wire, "s").snapshot
        assert fork(wire, "s").durability == MEMORY
        assert rewind(wire, "s", 3).next_step == 3
        assert refused(rewind, wire, "s", 2)[:2] == (grpc.StatusCode.OUT_OF_RANGE, "STEP_FORGOTTEN")
        for durability in (PROCESS, DISK):
            code, reason, _ = refused(wire.open, "d", durability=durability)
            assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")
    with serving(store) as wire:
        assert restore(wire, data, session_id="s", durability=PROCESS).durable_step == 3
        assert values(wire.step("s", [[4]], [3])) == [[10]]


def test_a_durability_that_is_none_is_refused(store):
    with serving(store) as wire:
        assert refused(wire.open, "s", durability=9)[:2] == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")


def test_a_stream_goes_on_over_sessions_that_come_back(store):
    with serving(store) as wire:
        for name in "abc":
            wire.open(name)
        wire.step(["a", "b", "c"], [[1], [2], [3]])
    with serving(store) as wire:
        sent = [request("abc"[n % 3], [[1]], [1 + n // 3], tag=n) for n in range(30)]
        sent += [request(["a", "nobody", "b"], [[1]] * 3, tag=99)]
        replies = {reply.tag: reply for reply in wire.stream(sent)}
        assert [values(replies[n])[0][0] for n in range(30)] == [n % 3 + 2 + n // 3 for n in range(30)]
        assert [one.error.reason for one in replies[99].failures] == ["UNKNOWN"]
        assert values(replies[99]) == [[12], [13]]


def test_two_servers_on_one_redis_share_their_sessions(redis_server, tmp_path):
    shared = {"store": redis_server.url, "store_prefix": tmp_path.name}
    with serving(shared) as one, serving(shared) as other:
        one.open("s")
        for number in range(4):
            wire = (one, other)[number % 2]
            assert values(wire.step("s", [[1]], [number])) == [[number + 1]]
        assert (one.get("s").next_step, one.get("s").resident) == (4, False)
        assert ids(one) == ids(other) == ["s"]
        assert value(scrape(one.server), "ntm_serve_sessions_left_total", reason="wanted") == 2
        assert close(one, "s").next_step == 4
        assert refused(other.get, "s")[1] == "CLOSED"


# Settings


def start(**settings):
    with test_server([RunningSum()], **settings):
        pass


@pytest.mark.parametrize("durability", ["process", "disk"])
def test_a_durability_without_a_store_is_refused_with_what_to_set(durability):
    with pytest.raises(
        SettingsFault, match=f"durability: expected a store for {durability}, as in --store sqlite:FILE"
    ):
        start(durability=durability)


@pytest.mark.parametrize("where", ["sqlite:", "postgres://here", "sessions.db", ":memory:", "http://here"])
def test_a_store_of_no_known_kind_is_refused_with_those_there_are(where):
    with pytest.raises(SettingsFault, match="store: expected sqlite:PATH, redis://, rediss:// or unix://, got"):
        start(store=where)


def test_a_file_that_another_server_uses_is_refused(tmp_path):
    where = f"sqlite:{tmp_path / 'sessions.db'}"
    with serving({"store": where}), pytest.raises(SettingsFault, match=r"sessions\.db"):
        start(store=where)
    start(store=where)


def test_a_file_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "taken").write_text("no folder")
    with pytest.raises(SettingsFault, match="taken"):
        start(store=f"sqlite:{tmp_path / 'taken' / 'sessions.db'}")


def test_a_file_of_something_else_is_refused_and_left_as_it_was(tmp_path):
    path = tmp_path / "letter.txt"
    path.write_text("Dear reader, " * 100)
    before = path.read_bytes()
    with pytest.raises(NtmServeError, match=r"letter\.txt"):
        start(store=f"sqlite:{path}")
    assert path.read_bytes() == before


def test_a_redis_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StoreUnavailable, match=r"store: unix://.*nobody"):
        start(store=f"unix://{tmp_path / 'nobody'}")


def test_durability_disk_of_a_redis_that_does_not_sync_is_refused_with_what_to_set(tmp_path):
    server = RedisServer()
    try:
        settings = {"store": server.url, "store_prefix": "p"}
        with serving(settings) as wire:
            with pytest.raises(grpc.RpcError) as fault:
                wire.open("s", durability=DISK)
            assert fault.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "appendfsync always" in fault.value.details()
            wire.open("s")
            assert values(wire.step("s", [[1]])) == [[1]]
    finally:
        server.remove()


def test_a_server_outlives_its_redis_and_goes_on_when_it_is_back(tmp_path):
    server = RedisServer(*DURABLE)
    try:
        settings = {"store": server.url, "store_prefix": "p", "store_patience_s": 0.3}
        with serving(settings) as wire:
            wire.open("s", durability=DISK)
            wire.step("s", [[1]], [0])
            server.kill()
            for ask in (
                lambda: wire.step("s", [[1]], [1]),
                lambda: wire.step("s", [[1]], [1]),
                lambda: ids(wire),
                lambda: wire.open("t"),
            ):
                assert refused(ask)[:2] == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
            server.start()
            assert values(wire.step("s", [[1]], [1])) == [[2]]
            assert values(wire.step("s", [[1]], [2])) == [[3]]
    finally:
        server.remove()


# What is damaged


def test_a_session_whose_states_are_gone_from_the_store_is_refused_and_its_neighbour_is_not(tmp_path):
    path = tmp_path / "sessions.db"
    small = {"store": f"sqlite:{path}", "snapshot_steps": 2, "window_messages": 1}
    with serving(small, RunningSum()) as wire:
        for name in ("bad", "good"):
            wire.open(name)
            for _ in range(9):
                wire.step(name, [[1]])
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("DELETE FROM snapshots WHERE session = (SELECT number FROM sessions WHERE session_id = 'bad')")
        database.execute("DELETE FROM records WHERE first_step < 4")
    with serving(small, RunningSum()) as wire:
        status, reason, _ = refused(wire.step, "bad", [[1]])
        assert (status, reason) == (grpc.StatusCode.DATA_LOSS, "STORE_DAMAGED")
        assert values(wire.step("good", [[1]])) == [[10]]


# What is counted


def test_what_sessions_do_with_their_store_is_counted(store):
    with serving(store, RunningSum(), resident_bytes_max=2 * 4) as wire:
        for name in "abcd":
            wire.open(name)
            wire.step(name, [[1]])
        wire.step("a", [[1]])
        series = scrape(wire.server)
        model = {"model": "running-sum", "version": "1"}
        assert value(series, "ntm_serve_sessions_opened_total", **model) == 4
        assert value(series, "ntm_serve_sessions_left_total", reason="room", **model) == 3
        assert value(series, "ntm_serve_sessions_restored_total", **model) == 1
        assert value(series, "ntm_serve_replays_differed_total", **model) == 0
        assert value(series, "ntm_serve_store_commit_sessions_sum") == 5
        assert value(series, "ntm_serve_store_commit_seconds_count") == 5
        assert value(series, "ntm_serve_sessions", **model) == 2
        assert value(series, "ntm_serve_restore_seconds_count", **model) == 1
    with serving(store, RunningSum()) as wire:
        wire.step("a", [[1]])
        close(wire, "a")
        series = scrape(wire.server)
        assert value(series, "ntm_serve_sessions_restored_total", **model) == 1
        assert value(series, "ntm_serve_sessions_closed_total", reason="client", **model) == 1


def test_a_replay_of_another_engine_is_counted(store):
    class Other(RunningSum):
        def run(self, inputs, state):
            outputs, following = super().run(inputs, state)
            return [outputs[0] + 1], following

    with serving(store, RunningSum()) as wire:
        wire.open("s")
        wire.step("s", [[1]])
        # Left as a server that is killed leaves it: without the state of the end.
        wire.server.running.service._residency.leave_all = never
    with serving(store, Other(), lease_s=0.1) as wire:
        wire.step("s", [[1]], [1])
        assert value(scrape(wire.server), "ntm_serve_replays_differed_total") == 1


async def never():
    """No state is written."""
