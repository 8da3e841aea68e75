"""Random operations of two owners: every store does what the dict does, step by step."""

import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, multiple, rule, run_state_machine_as_test
from serve.stores.places import HEAD, MemoryPlace, RedisPlace, SqlitePlace, record, snapshot

from ntm_serve.errors import NtmServeError
from ntm_serve.store import Ending

# So long that the real time of an example does not count beside it.
LEASE_S = 1000.0
IDS = st.sampled_from(["s", "t", "u"])
OWNERS = st.sampled_from(["a", "b"])
STEPS = st.integers(0, 12)
STARTS = st.none() | st.builds(snapshot, STEPS)
MODELS = st.sampled_from(["copy", "other"])


def outcome(function, *arguments, **named):
    """What it gives, or the class, message and fields of what it raises or returns as an error."""
    try:
        return _comparable(function(*arguments, **named))
    except NtmServeError as error:
        return _comparable(error)


def _comparable(value):
    if isinstance(value, NtmServeError):
        return type(value), value.message, value.fields
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [_comparable(one) for one in value]
    if hasattr(value, "epoch") and hasattr(value, "snapshots"):
        return replace(value, epoch=bool(value.epoch), snapshots=list(value.snapshots), records=list(value.records))
    return value


class Compared(RuleBasedStateMachine):
    """Claims go in pairs: what the model gave and what the store gave."""

    claims = Bundle("claims")

    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.places = (MemoryPlace(), self.make_place(Path(self.folder.name)))

    @initialize()
    def begin(self):
        self.replicas = {owner: [place.replica(owner, LEASE_S) for place in self.places] for owner in ("a", "b")}

    def both(self, ask):
        """Ask the model and the store; their answers are alike."""
        expected, found = (ask(place, number) for number, place in enumerate(self.places))
        assert found == expected
        return expected

    def ask(self, owner, what):
        return self.both(lambda place, number: outcome(what, self.replicas[owner][number], number))

    def take(self, owner, method):
        """create or claim: a pair of claims, where they are given."""
        taken = [None, None]

        def ask(replica, number):
            given = method(replica)
            taken[number], rest = (given[0], given[1]) if not hasattr(given, "epoch") else (given, None)
            return rest

        self.ask(owner, ask)
        assert (taken[0] is None) == (taken[1] is None)
        return taken if taken[0] is not None else None

    @rule(target=claims, session_id=IDS, owner=OWNERS, model=MODELS, start=STARTS)
    def create(self, session_id, owner, model, start):
        taken = self.take(owner, lambda replica: replica.create(session_id, replace(HEAD, model=model), start))
        return multiple() if taken is None else taken

    @rule(claim=claims, start=STARTS.filter(bool))
    def restart(self, claim, start):
        self.ask(claim[0].owner, lambda replica, number: replica.restart(claim[number], start))

    @rule(target=claims, session_id=IDS, owner=OWNERS)
    def claim(self, session_id, owner):
        taken = self.take(owner, lambda replica: replica.claim(session_id))
        return multiple() if taken is None else taken

    @rule(
        claim=claims,
        lengths=st.lists(st.integers(1, 3), max_size=3),
        off=st.sampled_from([0, 0, 0, 0, -1, 1]),
        keep=st.none() | STEPS,
        state=st.none() | st.integers(-3, 4),
        twice=st.booleans(),
    )
    def commit(self, claim, lengths, off, keep, state, twice):
        at = outcome(self.places[0].store().read, claim[0].session_id)
        first = max(0, getattr(at, "next_step", 0) + off)
        records = []
        for length in lengths:
            records.append(record(first, first + length))
            first += length
        shot = None if state is None else snapshot(max(0, first + state))

        def ask(replica, number):
            commit = replica.commit_of(claim[number], *records, snapshot=shot, keep=keep)
            return replica.store.commit([commit] * (1 + twice))

        self.ask(claim[0].owner, ask)

    @rule(claim=claims)
    def release(self, claim):
        self.ask(claim[0].owner, lambda replica, number: replica.store.release([claim[number]]))

    @rule(claim=claims, ending=st.sampled_from(Ending))
    def end(self, claim, ending):
        self.ask(claim[0].owner, lambda replica, number: replica.end(claim[number], ending))

    @rule(by_s=st.sampled_from([300.0, LEASE_S + 100.0]))
    def pass_time(self, by_s):
        self.both(lambda place, number: place.pass_time(by_s))

    @rule(owner=OWNERS, lease_s=st.sampled_from([0.0, LEASE_S]))
    def live(self, owner, lease_s):
        self.ask(owner, lambda replica, number: replica.live(lease_s))

    @rule(owner=OWNERS)
    def wanted(self, owner):
        """A store may name some that the owner no longer has."""
        expected, found = (set(replica.store.wanted(owner)) for replica in self.replicas[owner])
        owned = {line.session_id for line in self.places[0].store().list(after="", limit=9) if line.owner == owner}
        assert expected & owned == found & owned

    @rule(ago_s=st.sampled_from([-1.0, 200.0, 900.0]))
    def expire(self, ago_s):
        self.ask("a", lambda replica, number: sorted(replica.expire(replica.place.now_s - ago_s)))

    @rule(ago_s=st.sampled_from([-1.0, 200.0, 900.0]))
    def forget(self, ago_s):
        self.ask("a", lambda replica, number: replica.store.forget(ended_before_s=replica.place.now_s - ago_s))

    @rule(session_id=IDS)
    def read(self, session_id):
        self.ask("a", lambda replica, number: replica.store.read(session_id))

    @rule(after=IDS | st.just(""), limit=st.integers(1, 3), model=MODELS | st.just(""))
    def list(self, after, limit, model):
        self.ask("b", lambda replica, number: list(replica.store.list(after=after, limit=limit, model=model)))

    def teardown(self):
        try:
            for session_id in ("s", "t", "u"):
                self.read(session_id)
            # A replica's share of the totals is told when it is asked.
            for owner in ("b", "a"):
                counted = [replace(one.store.statistics(), stored_bytes=0) for one in self.replicas[owner]]
            assert counted[1] == counted[0]
        finally:
            for place in self.places:
                place.close()
            self.folder.cleanup()


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_a_store_does_what_the_dict_does(kind, request):
    server = request.getfixturevalue("redis_server") if kind == "redis" else None

    class ComparedToTheModel(Compared):
        def make_place(self, folder):
            return SqlitePlace(folder / "sessions.db") if server is None else RedisPlace(server)

    run_state_machine_as_test(
        ComparedToTheModel,
        settings=settings(
            max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
