"""Where sessions are kept in a test, as one or more replicas see it: one class for each kind of store."""

import itertools

from ntm_serve.store import Commit, Head, LogRecord, Snapshot
from ntm_serve.stores.memory import MemoryStore
from ntm_serve.stores.redis import RedisStore
from ntm_serve.stores.sqlite import SqliteStore

HEAD = Head("copy", "1", "d" * 64, "process", 100.0, b"\x00\xff options")
LEASE_S = 10.0


class Place:
    """What replicas share. Time stands still, for leases as well, until it is passed."""

    def __init__(self):
        self.now_s = 1000.0
        self._stores = []

    def store(self):
        """What a replica of its own has of it."""
        if not self._stores:
            self._stores.append(self._open())
        return self._stores[0]

    def replica(self, owner, lease_s=LEASE_S):
        """A replica that lives."""
        replica = Replica(self, self.store(), owner)
        replica.live(lease_s)
        return replica

    def pass_time(self, by_s):
        self.now_s += by_s

    def close(self):
        while self._stores:
            self._stores.pop().close()


class MemoryPlace(Place):
    def _open(self):
        return MemoryStore()


class SqlitePlace(Place):
    def __init__(self, path):
        super().__init__()
        self.path = path

    def _open(self):
        return SqliteStore(self.path)


class RedisPlace(Place):
    """A part of a server, under a prefix of its own. Each replica has a store, and so connections, of its own."""

    _numbers = itertools.count()

    def __init__(self, server):
        super().__init__()
        self.server = server
        self.prefix = f"test-{next(self._numbers)}"

    def store(self):
        self._stores.append(RedisStore(self.server.url, prefix=self.prefix, timeout_s=60.0))
        return self._stores[-1]

    def pass_time(self, by_s):
        """Redis has the clock, so it is not moved, but the ends of all leases are."""
        super().pass_time(by_s)
        with self.server.client() as client:
            for lease in client.scan_iter(f"{self.prefix}:lease:*"):
                client.pexpire(lease, client.pttl(lease) - int(by_s * 1000))


class Replica:
    """A store in the hands of one owner, at the time of the place."""

    def __init__(self, place, store, owner):
        self.place = place
        self.store = store
        self.owner = owner

    def live(self, lease_s=LEASE_S):
        self.store.keep_alive(self.owner, now_s=self.place.now_s, lease_s=lease_s)

    def create(self, session_id="s", head=HEAD, start=None):
        return self.store.create(session_id, head, owner=self.owner, now_s=self.place.now_s, start=start)

    def restart(self, claim, start):
        self.store.restart(claim, start, used_at_s=self.place.now_s)

    def claim(self, session_id="s"):
        return self.store.claim(session_id, owner=self.owner, now_s=self.place.now_s)

    def commit(self, claim, *records, snapshot=None, keep_from_step=None, fsync=False):
        """The error of a commit, or None."""
        commit = self.commit_of(claim, *records, snapshot=snapshot, keep=keep_from_step)
        [error] = self.store.commit([commit])
        if fsync:
            self.store.sync()
        return error

    def commit_of(self, claim, *records, snapshot=None, keep=None):
        return Commit(claim, self.place.now_s, records, snapshot, keep)

    def end(self, claim, ending, message="because"):
        [error] = self.store.end([claim], ending, message, now_s=self.place.now_s)
        return error

    def expire(self, unused_since_s, limit=100):
        return self.store.expire(unused_since_s=unused_since_s, message="idle", now_s=self.place.now_s, limit=limit)


def record(first_step, end_step, payload=None):
    """One whose payload tells its steps."""
    return LogRecord(first_step, end_step, b"%d..%d" % (first_step, end_step) if payload is None else payload)


def snapshot(step, payload=None):
    return Snapshot(step, b"state %d" % step if payload is None else payload)
