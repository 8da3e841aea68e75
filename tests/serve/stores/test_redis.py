"""What is special about redis: it goes away and comes back, it is shared, it may be set up wrongly."""

import os
import shutil
import subprocess
import threading
import time
from contextlib import closing, suppress

import pytest
from serve.stores.places import HEAD, RedisPlace, Replica, record, snapshot
from serve.stores.redis_server import DURABLE, QUOTED, RedisServer, free_ports, lossy

from ntm_serve.errors import OwnedElsewhere, SessionExists, SettingsFault, StoreDamaged, StoreUnavailable
from ntm_serve.store import Ending
from ntm_serve.stores.redis import RedisStore
from ntm_serve.stores.redis_link import RedisLink

TIMEOUT_S = 0.3
# A time-out, or three attempts to connect, and a slow machine.
BOUND_S = 5.0


@pytest.fixture
def own_server():
    """One that a test may stop."""
    server = RedisServer(*DURABLE)
    yield server
    server.go_on()
    server.remove()


@pytest.fixture
def impatient(own_server):
    """A replica that waits for no longer than TIMEOUT_S."""
    with closing(RedisStore(own_server.url, prefix="impatient", timeout_s=TIMEOUT_S)) as store:
        replica = Replica(RedisPlace(own_server), store, "a")
        replica.live()
        yield replica


def assert_unavailable_soon(ask):
    begin_s = time.monotonic()
    with pytest.raises(StoreUnavailable, match="store: unix://"):
        ask()
    assert time.monotonic() - begin_s < BOUND_S


# Away and back


def test_where_redis_hangs_the_caller_is_told_in_bounded_time_and_tries_again(own_server, impatient):
    claim = impatient.create("s")
    again = impatient.commit_of(claim, record(0, 1), snapshot=snapshot(1))
    own_server.pause()
    assert_unavailable_soon(lambda: impatient.store.commit([again]))
    assert_unavailable_soon(lambda: impatient.claim("s"))
    assert_unavailable_soon(lambda: RedisStore(own_server.url, timeout_s=TIMEOUT_S))
    own_server.go_on()
    # What it was sent before may be done by now, or not: the same call again makes it done once.
    claim, _ = impatient.claim("s")
    again = impatient.commit_of(claim, record(impatient.store.read("s").next_step, 2), snapshot=snapshot(2))
    assert list(impatient.store.commit([again])) == [None]
    assert list(impatient.store.commit([again])) == [None]
    assert impatient.store.read("s").next_step == 2


def test_what_was_acknowledged_outlives_redis_and_the_store_finds_it_again(own_server, impatient):
    claim = impatient.create("s")
    for step in range(20):
        assert impatient.commit(claim, record(step, step + 1), fsync=True) is None
    own_server.kill()
    assert_unavailable_soon(lambda: impatient.commit(claim, record(20, 21)))
    assert_unavailable_soon(lambda: RedisStore(own_server.url, timeout_s=TIMEOUT_S))
    own_server.start()
    assert impatient.commit(claim, record(20, 21)) is None, "with the scripts that the new process did not know"
    assert [one.end_step for one in impatient.store.read("s").records] == list(range(1, 22))


def test_a_connection_that_was_cut_is_made_again(redis_place):
    a = redis_place.replica("a")
    claim = a.create("s")
    with redis_place.server.client() as client:
        for step in range(3):
            client.client_kill_filter(_type="normal", skipme=True)
            client.script_flush()
            assert a.commit(claim, record(step, step + 1)) is None


def test_what_redis_did_and_could_not_say_is_asked_for_again_and_done_once(redis_place, tmp_path):
    a = redis_place.replica("a")
    with lossy(redis_place.server) as (url, lose_next_answer):
        b = Replica(redis_place, RedisStore(url, prefix=redis_place.prefix), "b")
        b.live()
        lose_next_answer()
        claim = b.create("s")
        for again in (b.commit_of(claim, record(0, 2)), b.commit_of(claim, record(2, 3), snapshot=snapshot(3), keep=3)):
            lose_next_answer()
            assert list(b.store.commit([again])) == [None]
        session = a.store.read("s")
        assert (session.next_step, list(session.snapshots), list(session.records)) == (3, [snapshot(3)], [])
        lose_next_answer()
        b.restart(claim, snapshot(1))
        assert list(a.store.read("s").snapshots) == [snapshot(1)]
        lose_next_answer()
        claim, _ = b.claim("s")
        lose_next_answer()
        b.store.release([claim])
        claim, _ = b.claim("s")
        lose_next_answer()
        assert b.end(claim, Ending.CLOSED) is None
        assert a.store.statistics().ended == 1
        b.store.close()


def test_what_redis_gets_only_after_a_restart_is_not_done(redis_place, monkeypatch):
    """As from a connection that was given up, and whose last words come late."""
    a, sent, ask = redis_place.replica("a"), [], RedisLink.ask
    claim = a.create("s", start=snapshot(4))
    with monkeypatch.context() as patch, redis_place.server.client() as client:
        patch.setattr(RedisLink, "ask", lambda self, *commands: sent.append(commands[0]) or ask(self, *commands))
        assert a.commit(claim, record(4, 5, b"earlier")) is None
        a.restart(claim, snapshot(3))
        a.restart(claim, snapshot(4, b"given"))
        patch.undo()
        for records in ([], [record(4, 5)]):
            assert a.commit(claim, *records) is None
            for late in sent:
                client.execute_command(*late)
                session = a.store.read("s")
                assert (list(session.snapshots), list(session.records)) == ([snapshot(4, b"given")], records)


@pytest.mark.parametrize("take", [Replica.claim, lambda replica: (replica.create(start=snapshot(4)), None)])
def test_an_owner_that_is_another_process_now_writes_what_follows_a_restart(redis_place, take):
    """Whatever the first had counted: the second begins anew."""
    before = redis_place.replica("a")
    claim = before.create("s")
    for _ in range(9):
        before.restart(claim, snapshot(4))
    after = redis_place.replica("a")
    claim, _ = take(after)
    assert after.commit(claim, record(4, 5)) is None
    after.restart(claim, snapshot(4))
    assert list(after.store.read("s").records) == []


def test_a_restart_outlives_redis(own_server, impatient):
    claim = impatient.create("s")
    impatient.commit(claim, record(0, 9), snapshot=snapshot(5))
    impatient.restart(claim, snapshot(3))
    own_server.kill()
    assert_unavailable_soon(lambda: impatient.restart(claim, snapshot(4)))
    own_server.start()
    assert impatient.commit(claim, record(3, 4)) is None
    session = impatient.store.read("s")
    assert (list(session.snapshots), list(session.records)) == ([snapshot(3)], [record(3, 4)])


def test_redis_that_lost_everything_does_not_let_old_claims_write(redis_place):
    a = redis_place.replica("a")
    earlier = a.create("s")
    a.commit(earlier, record(0, 5))
    with redis_place.server.client() as client:
        for key in client.scan_iter(f"{redis_place.prefix}:*"):
            client.delete(key)
    later = a.create("s")
    assert later.epoch > earlier.epoch
    assert isinstance(a.commit(earlier, record(0, 1)), OwnedElsewhere)


# Shared


def test_two_owners_that_take_a_session_from_each_other_never_write_both(redis_place):
    """Neither has a lease, so each claim takes the session from the other, in the midst of its commits."""
    places = [Replica(redis_place, redis_place.store(), owner) for owner in ("a", "b")]
    places[0].store.release([places[0].create("s")])
    kept = {"a": [], "b": []}
    faults = []

    def step(replica):
        try:
            for _ in range(60):
                try:
                    claim, session = replica.claim("s")
                except OwnedElsewhere:  # Taken again and again while it looked.
                    continue
                for first in range(session.next_step, session.next_step + 5):
                    mine = record(first, first + 1, f"{replica.owner} {claim.epoch}".encode())
                    error = replica.commit(claim, mine)
                    if error is None:
                        kept[replica.owner].append(mine)
                    else:
                        assert isinstance(error, OwnedElsewhere)
        except Exception as fault:  # Told below: an exception of a thread is lost otherwise.
            faults.append(fault)

    threads = [threading.Thread(target=step, args=(replica,)) for replica in places]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert list(places[0].store.read("s").records) == sorted(kept["a"] + kept["b"])


def test_a_name_that_ends_and_begins_at_the_same_time_stays_listed(redis_place):
    ender, beginner = redis_place.replica("a"), redis_place.replica("b")
    claim = ender.create("s")
    for _ in range(50):
        thread = threading.Thread(target=ender.end, args=(claim, Ending.CLOSED))
        thread.start()
        claim = None
        while claim is None:
            with suppress(SessionExists):
                claim = beginner.create("s")
        thread.join()
        assert [line.session_id for line in beginner.store.list(after="", limit=5)] == ["s"]


def test_stores_under_other_prefixes_are_others(redis_server, redis_place):
    other = RedisPlace(redis_server).replica("b")
    redis_place.replica("a").create("s")
    assert list(other.store.list(after="", limit=10)) == []
    other.create("s")
    other.place.close()


def test_what_a_process_left_in_the_indexes_when_it_was_killed_does_no_harm(redis_place):
    a = redis_place.replica("a")
    a.end(a.create("ended"), Ending.CLOSED)
    a.store.release([a.create("open")])
    with redis_place.server.client() as client:
        for name in ("ended", "never made", "open"):
            client.zadd(f"{redis_place.prefix}:ids", {name: 0})
            client.zadd(f"{redis_place.prefix}:used", {name: 1.0})
        client.zrem(f"{redis_place.prefix}:ended", "ended")
        client.zadd(f"{redis_place.prefix}:ended", {"open": 1.0})
    assert [line.session_id for line in a.store.list(after="", limit=10)] == ["open"]
    assert list(a.expire(unused_since_s=500.0)) == [], "it was used since"
    assert a.store.forget(ended_before_s=2000.0) == 1
    assert (a.store.statistics().sessions, a.store.statistics().ended) == (1, 0)
    assert list(a.expire(unused_since_s=2000.0)) == ["open"]


def test_a_name_that_is_missing_in_the_indexes_is_put_in_by_its_next_claim(redis_place):
    a = redis_place.replica("a")
    a.create("s")
    with redis_place.server.client() as client:
        client.delete(f"{redis_place.prefix}:ids", f"{redis_place.prefix}:used")
    a.claim("s")
    assert [line.session_id for line in a.store.list(after="", limit=10)] == ["s"]
    a.live(lease_s=0)
    assert list(a.expire(unused_since_s=2000.0)) == ["s"]


# What is not what was left there


@pytest.mark.parametrize(
    ("key", "harm"),
    [
        ("records", lambda client, key: client.lpop(key)),
        ("records", lambda client, key: client.rpop(key)),
        ("records", lambda client, key: client.lset(key, 1, "noise")),
        ("records", lambda client, key: client.set(key, "noise")),
        ("records", lambda client, key: client.delete(key)),
        ("snapshots", lambda client, key: client.delete(key)),
        ("snapshots", lambda client, key: client.hset(key, "1", "cut")),
        ("snapshots", lambda client, key: client.hset(key, "noise", "noise")),
        ("session", lambda client, key: client.hset(key, "next_step", "9")),
        ("session", lambda client, key: client.hset(key, "next_step", "noise")),
        ("session", lambda client, key: client.hset(key, "head", "noise")),
        ("session", lambda client, key: client.hdel(key, "head")),
        ("session", lambda client, key: client.hset(key, "ending", "TIRED")),
        ("session", lambda client, key: client.set(key, "noise")),
    ],
)
def test_a_session_that_was_meddled_with_is_damaged_and_its_neighbour_is_not(redis_place, key, harm):
    a = redis_place.replica("a")
    for session_id in ("s", "t"):
        claim = a.create(session_id)
        a.commit(claim, record(0, 1), record(1, 2), record(2, 3), record(3, 4))
        a.commit(claim, snapshot=snapshot(1), keep_from_step=1)
    with redis_place.server.client() as client:
        harm(client, f"{redis_place.prefix}:{{s}}:{key}")
    for ask in (a.store.read, a.claim):
        with pytest.raises(StoreDamaged):
            ask("s")
    assert a.claim("t")[1].next_step == 4


def test_a_claim_of_a_damaged_session_is_given_back(redis_place):
    a, b = redis_place.replica("a"), redis_place.replica("b")
    a.store.release([a.create("s")])
    with redis_place.server.client() as client:
        client.hset(f"{redis_place.prefix}:{{s}}:session", "next_step", "9")
    for replica in (a, b):
        with pytest.raises(StoreDamaged):
            replica.claim("s")


# Set up wrongly


def test_durability_disk_is_refused_where_redis_does_not_sync(redis_server):
    server = RedisServer()
    try:
        place = RedisPlace(server)
        a = place.replica("a")
        claim = a.create("s")
        for ask in (a.store.sync, lambda: a.commit(claim, record(0, 1), fsync=True)):
            with pytest.raises(SettingsFault, match="expected redis with appendonly yes, appendfsync always"):
                ask()
        assert a.store.read("s").next_step == 1
        with server.client() as client:
            client.config_set("appendfsync", "always")
            client.config_set("appendonly", "yes")
            client.config_set("no-appendfsync-on-rewrite", "yes")
            with pytest.raises(SettingsFault, match=r"got .*no-appendfsync-on-rewrite yes"):
                a.store.sync()
            client.config_set("no-appendfsync-on-rewrite", "no")
        assert a.commit(claim, record(1, 2), fsync=True) is None
        place.close()
    finally:
        server.remove()


def test_redis_that_throws_keys_away_is_refused_and_one_that_is_full_keeps_nothing_by_halves(own_server, impatient):
    claim, other = impatient.create("s"), impatient.create("t")
    impatient.commit(claim, record(0, 2), snapshot=snapshot(1))
    with own_server.client() as client:
        client.config_set("maxmemory", 1)
        before = impatient.store.read("s")
        for method in (
            lambda: impatient.create("u"),
            lambda: impatient.commit(claim, record(2, 3), snapshot=snapshot(3)),
            lambda: impatient.restart(claim, snapshot(1)),
        ):
            with pytest.raises(StoreUnavailable, match="maxmemory"):
                method()
        assert impatient.store.read("s") == before
        impatient.store.release([claim])
        assert impatient.end(other, Ending.CLOSED) is None, "this makes room"
        client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(SettingsFault, match="set `maxmemory-policy noeviction`"):
            RedisStore(own_server.url)
        client.config_set("maxmemory", 0)
    RedisStore(own_server.url).close()


def test_a_wrong_password_is_a_fault_of_settings_and_no_message_tells_it(redis_server):
    wrong = redis_server.url.replace(QUOTED, "wr0ng")
    with pytest.raises(SettingsFault, match="expected a user and password that redis lets in") as caught:
        RedisStore(wrong)
    assert "wr0ng" not in caught.value.detail
    assert str(redis_server.socket) in caught.value.detail


@pytest.mark.parametrize("url", ["http://localhost", "localhost:6379", ""])
def test_an_address_of_something_else_is_a_fault_of_settings(url):
    with pytest.raises(SettingsFault, match=r"expected redis://, rediss:// or unix://"):
        RedisStore(url)


@pytest.mark.parametrize("prefix", ["", "a{b}", "a b"])
def test_a_prefix_that_would_scatter_keys_is_a_fault_of_settings(prefix):
    with pytest.raises(SettingsFault, match="expected a prefix"):
        RedisStore("redis://localhost", prefix=prefix)


def test_it_speaks_tls(tmp_path):
    openssl = shutil.which("openssl")
    if openssl is None:
        assert os.environ.get("CI") != "true", "openssl is missing (Debian package openssl)"
        pytest.skip("openssl is missing (Debian package openssl)")
    key, certificate = tmp_path / "key", tmp_path / "certificate"
    command = f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=redis"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    [port] = free_ports(1)
    options = f"--tls-port {port} --tls-cert-file {certificate} --tls-key-file {key} --tls-auth-clients no"
    server = RedisServer(*options.split())
    try:
        url = f"rediss://:{QUOTED}@127.0.0.1:{port}"
        with closing(RedisStore(f"{url}?ssl_ca_certs={certificate}")) as store:
            claim = store.create("s", HEAD, owner="a", now_s=0.0)
            assert store.read("s").epoch == claim.epoch
        with pytest.raises(StoreUnavailable, match="certificate"):
            RedisStore(url)
    finally:
        server.remove()
