"""What every store keeps to: `ntm_serve.store.Store`, said in tests. Each runs on every kind of store."""

from dataclasses import replace

import pytest
from serve.stores.places import HEAD, LEASE_S, record, snapshot

from ntm_serve.errors import (
    OwnedElsewhere,
    SessionClosed,
    SessionEvicted,
    SessionExists,
    SessionExpired,
    SessionUnknown,
    StoreConflict,
)
from ntm_serve.store import Claim, Commit, Ending


def steps_of(session):
    """Steps of its snapshots, and first and end steps of its records."""
    return [one.step for one in session.snapshots], [(one.first_step, one.end_step) for one in session.records]


# Names


def test_a_new_session_is_at_step_0_and_owned(a):
    claim = a.create("s")
    session = a.store.read("s")
    assert (claim.session_id, claim.owner) == ("s", "a")
    assert (session.session_id, session.head, session.next_step, session.used_at_s) == ("s", HEAD, 0, 1000.0)
    assert (session.owner, session.epoch) == ("a", claim.epoch)
    assert steps_of(session) == ([], [])


def test_the_name_of_an_open_session_is_taken_for_everybody(a, b):
    a.create("s")
    for replica, head in ((a, replace(HEAD, model="other")), (b, HEAD)):
        with pytest.raises(SessionExists, match="session s: is open"):
            replica.create("s", head)


def test_creating_again_what_made_no_step_is_the_same_call_again(a):
    first = a.create("s")
    second = a.create("s")
    assert second.epoch > first.epoch
    assert a.commit(second, record(0, 1)) is None
    with pytest.raises(SessionExists):
        a.create("s")


def test_the_name_of_an_ended_session_is_free_and_claims_of_its_earlier_life_stay_lost(a, b):
    earlier = a.create("s")
    a.commit(earlier, record(0, 3), snapshot=snapshot(3))
    a.end(earlier, Ending.CLOSED)
    later = b.create("s")
    assert later.epoch > earlier.epoch
    assert steps_of(b.store.read("s")) == ([], [])
    assert isinstance(a.commit(earlier, record(3, 4)), OwnedElsewhere)
    assert isinstance(a.commit(Claim("s", "b", earlier.epoch), record(0, 1)), OwnedElsewhere)
    assert isinstance(a.end(earlier, Ending.EVICTED), OwnedElsewhere)
    assert b.commit(later, record(0, 1)) is None


def test_epochs_grow_also_over_a_forgotten_end(a, place):
    earlier = a.create("s")
    a.end(earlier, Ending.CLOSED)
    place.pass_time(1)
    assert a.store.forget(ended_before_s=place.now_s) == 1
    later = a.create("s")
    assert later.epoch > earlier.epoch
    assert isinstance(a.commit(earlier, record(0, 1)), OwnedElsewhere)


def test_of_an_unknown_session_every_method_says_so(a):
    nobodys = Claim("never", "a", 1)
    for ask in (a.store.read, a.claim):
        with pytest.raises(SessionUnknown, match="session never"):
            ask("never")
    assert isinstance(a.commit(nobodys, record(0, 1)), SessionUnknown)
    assert isinstance(a.end(nobodys, Ending.CLOSED), SessionUnknown)
    a.store.release([nobodys])


# Starts


@pytest.mark.parametrize("step", [0, 7])
def test_a_session_may_begin_at_a_step_with_a_snapshot(a, b, step):
    start = snapshot(step)
    claim = a.create("s", start=start)
    session = a.store.read("s")
    assert (session.next_step, list(session.snapshots), list(session.records)) == (step, [start], [])
    assert a.store.list(after="", limit=1)[0].next_step == step
    assert isinstance(a.commit(claim, record(step + 1, step + 2)), StoreConflict)
    assert a.commit(claim, record(step, step + 3), record(step + 3, step + 4)) is None
    a.store.release([claim])
    claim, session = b.claim("s")
    assert steps_of(session) == ([step], [(step, step + 3), (step + 3, step + 4)])
    assert b.commit(claim, snapshot=snapshot(step + 3), keep_from_step=step + 3) is None
    assert steps_of(b.store.read("s")) == ([step + 3], [(step + 3, step + 4)])
    assert isinstance(b.commit(claim, snapshot=start), StoreConflict)


def test_a_session_cannot_be_brought_back_to_before_its_start(a):
    claim = a.create("s", start=snapshot(7))
    assert isinstance(a.commit(claim, snapshot=snapshot(6)), StoreConflict)
    assert isinstance(a.commit(claim, record(6, 8)), StoreConflict)


@pytest.mark.parametrize("start", [snapshot(7), snapshot(0), snapshot(0, b"")])
def test_creating_again_with_the_same_start_is_the_same_call_again(a, b, start):
    first = a.create("s", start=start)
    second = a.create("s", start=start)
    assert second.epoch > first.epoch
    counted = a.store.statistics()
    assert (counted.snapshots, counted.payload_bytes) == (1, len(start.payload))
    for other in (None, snapshot(start.step, b"other"), snapshot(start.step + 1, start.payload)):
        with pytest.raises(SessionExists):
            a.create("s", start=other)
    with pytest.raises(SessionExists):
        b.create("s", start=start)
    assert a.commit(second, record(start.step, start.step + 1)) is None
    with pytest.raises(SessionExists):
        a.create("s", start=start)


def test_creating_with_a_start_what_began_without_one_is_another_call(a):
    claim = a.create("s")
    with pytest.raises(SessionExists):
        a.create("s", start=snapshot(0, b""))
    assert a.commit(claim, record(0, 7), snapshot=snapshot(7)) is None
    with pytest.raises(SessionExists):
        a.create("s", start=snapshot(7))


def test_a_start_takes_nothing_from_the_names_earlier_life(a):
    earlier = a.create("s")
    a.commit(earlier, record(0, 3), record(3, 9), snapshot=snapshot(9))
    a.end(earlier, Ending.CLOSED)
    a.create("s", start=snapshot(3))
    assert steps_of(a.store.read("s")) == ([3], [])
    assert (a.store.statistics().ended, a.store.statistics().payload_bytes) == (0, len(b"state 3"))


# Restarts


@pytest.mark.parametrize("step", [0, 4, 6, 9, 11, 40], ids=["first", "inside", "kept", "back", "same", "forward"])
def test_a_session_that_restarts_goes_on_from_there_with_nothing_of_before(a, b, place, step):
    claim, other = a.create("s"), a.create("other")
    for one in (claim, other):
        assert a.commit(one, record(0, 5), record(5, 8), snapshot=snapshot(6)) is None
        assert a.commit(one, record(8, 9), record(9, 11), snapshot=snapshot(9), keep_from_step=6) is None
    place.pass_time(1)
    start = snapshot(step, b"given")
    a.restart(claim, start)
    session = a.store.read("s")
    assert (session.next_step, list(session.snapshots), list(session.records)) == (step, [start], [])
    assert (session.head, session.owner, session.epoch, session.used_at_s) == (HEAD, "a", claim.epoch, place.now_s)
    assert isinstance(a.commit(claim, record(step + 1, step + 2)), StoreConflict)
    assert a.commit(claim, record(step, step + 2), record(step + 2, step + 20)) is None
    assert a.commit(claim, snapshot=snapshot(step + 2)) is None
    a.store.release([claim])
    claim, session = b.claim("s")
    assert steps_of(session) == ([step, step + 2], [(step, step + 2), (step + 2, step + 20)])
    assert session.snapshots[0] == start
    assert steps_of(a.store.read("other")) == ([6, 9], [(5, 8), (8, 9), (9, 11)])
    assert isinstance(b.commit(claim, snapshot=snapshot(step - 1)), StoreConflict)
    assert b.commit(claim, keep_from_step=step + 2) is None
    assert steps_of(b.store.read("s")) == ([step + 2], [(step + 2, step + 20)])


def test_steps_that_come_again_after_a_restart_are_other_steps(a):
    claim = a.create("s")
    again = a.commit_of(claim, record(0, 1), record(1, 3, b"first"))
    assert list(a.store.commit([again])) == [None]
    a.restart(claim, snapshot(1))
    assert isinstance(a.store.commit([again])[0], StoreConflict)
    assert a.commit(claim, record(1, 3, b"second")) is None
    assert list(a.store.read("s").records) == [record(1, 3, b"second")]


def test_restarting_again_changes_nothing(a):
    claim = a.create("s")
    a.commit(claim, record(0, 5), snapshot=snapshot(2))
    a.restart(claim, snapshot(3))
    before, counted = a.store.read("s"), replace(a.store.statistics(), stored_bytes=0)
    a.restart(claim, snapshot(3))
    assert a.store.read("s") == before
    assert replace(a.store.statistics(), stored_bytes=0) == counted


def test_a_session_may_restart_as_soon_as_it_is_made_or_claimed(a, b):
    claim = a.create("s", start=snapshot(7))
    a.restart(claim, snapshot(2))
    a.store.release([claim])
    claim, _ = b.claim("s")
    b.restart(claim, snapshot(5))
    assert steps_of(b.store.read("s")) == ([5], [])
    assert b.commit(claim, record(5, 6)) is None


def test_a_claim_that_was_lost_restarts_nothing(a, b, place):
    lost = a.create("s")
    a.commit(lost, record(0, 3))
    place.pass_time(LEASE_S + 1)
    b.live()
    taken, _ = b.claim("s")
    with pytest.raises(OwnedElsewhere) as caught:
        a.restart(lost, snapshot(1))
    assert caught.value.fields["owner"] == "b"
    assert steps_of(a.store.read("s")) == ([], [(0, 3)])
    b.store.release([taken])
    with pytest.raises(OwnedElsewhere):
        b.restart(taken, snapshot(1))
    assert steps_of(a.store.read("s")) == ([], [(0, 3)])


@pytest.mark.parametrize(
    ("ending", "error"),
    [(Ending.CLOSED, SessionClosed), (Ending.EXPIRED, SessionExpired), (Ending.EVICTED, SessionEvicted)],
)
def test_a_session_that_is_no_more_does_not_restart(a, ending, error):
    with pytest.raises(SessionUnknown):
        a.restart(Claim("never", "a", 1), snapshot(1))
    claim = a.create("s")
    a.end(claim, ending, "because")
    with pytest.raises(error, match="because"):
        a.restart(claim, snapshot(1))


def test_what_restarted_is_counted_once(a):
    claims = [a.create(f"s{number}", start=snapshot(number, b"12")) for number in range(3)]
    for claim, step in zip(claims, range(3), strict=True):
        a.commit(claim, record(step, step + 1, b"12345"), snapshot=snapshot(step + 1, b"123"))
    a.restart(claims[0], snapshot(9, b"1234"))
    a.restart(claims[1], snapshot(0, b""))
    a.commit(claims[1], record(0, 1, b"1"), record(1, 2, b"1"))
    found = a.store.statistics()
    assert (found.sessions, found.ended, found.records, found.snapshots, found.payload_bytes) == (3, 0, 3, 4, 16)
    for claim in claims:
        a.end(claim, Ending.CLOSED)
    found = a.store.statistics()
    assert (found.sessions, found.ended, found.records, found.snapshots, found.payload_bytes) == (0, 3, 0, 0, 0)


def test_restarting_makes_the_time_of_use(a, place):
    used, unused = a.create("used"), a.create("unused")
    place.pass_time(100)
    a.restart(used, snapshot(1))
    a.store.release([used, unused])
    assert list(a.expire(unused_since_s=1050.0)) == ["unused"]
    assert list(a.expire(unused_since_s=1150.0)) == ["used"]


def test_a_store_does_not_grow_by_restarts(a):
    claim = a.create("s")
    stored_bytes = []
    for number in range(1000):
        step = number % 7
        a.restart(claim, snapshot(step, bytes(20_000)))
        assert a.commit(claim, record(step, step + 1, bytes(40_000)), record(step + 1, step + 2)) is None
        if number % 500 == 499:
            stored_bytes.append(a.store.statistics().stored_bytes)
    found = a.store.statistics()
    assert (found.sessions, found.records, found.snapshots, found.payload_bytes) == (1, 2, 1, 60_000 + len(b"6..7"))
    # Of 30 MB that were written in between.
    assert stored_bytes[1] - stored_bytes[0] < 3_000_000


# Claims


def test_a_released_session_is_nobodys_and_anybodys(a, b):
    first = a.create("s")
    a.store.release([first])
    assert (a.store.read("s").owner, a.store.read("s").epoch) == ("", 0)
    second, session = b.claim("s")
    assert second.epoch > first.epoch
    assert (session.owner, session.epoch) == ("b", second.epoch)
    assert isinstance(a.commit(first, record(0, 1)), OwnedElsewhere)


def test_claiming_ones_own_again_loses_the_earlier_claim(a):
    first = a.create("s")
    second, _ = a.claim("s")
    assert second.epoch > first.epoch
    assert isinstance(a.commit(first, record(0, 1)), OwnedElsewhere)
    assert a.commit(second, record(0, 1)) is None


def test_a_live_owner_is_asked_and_not_robbed(a, b):
    claim = a.create("s")
    with pytest.raises(OwnedElsewhere) as caught:
        b.claim("s")
    assert caught.value.fields["owner"] == "a"
    assert list(a.store.wanted("b")) == []
    assert list(a.store.wanted("a")) == ["s"]
    assert list(a.store.wanted("a")) == []
    assert a.commit(claim, record(0, 1)) is None


def test_a_session_that_changed_hands_twice_is_wanted_by_nobody(a, b):
    lent = a.create("s")
    with pytest.raises(OwnedElsewhere):
        b.claim("s")
    a.store.release([lent])
    b.store.release([b.claim("s")[0]])
    a.claim("s")
    assert list(a.store.wanted("a")) == []


def test_a_stopped_owner_that_goes_on_after_its_lease_writes_nothing(a, b, place):
    lost, kept = a.create("lost"), a.create("kept")
    place.pass_time(LEASE_S + 1)
    b.live()
    taken, _ = b.claim("lost")
    errors = a.store.commit([a.commit_of(lost, record(0, 1)), a.commit_of(kept, record(0, 1))])
    assert isinstance(errors[0], OwnedElsewhere)
    assert errors[0].fields["owner"] == "b"
    assert errors[1] is None, "nobody asked for this one"
    assert b.store.read("lost").next_step == 0
    a.store.release([lost])
    assert isinstance(a.end(lost, Ending.CLOSED), OwnedElsewhere)
    assert b.commit(taken, record(0, 1)) is None


def test_several_are_claimed_at_once_and_one_that_cannot_be_harms_no_other(a, b, place):
    a.store.release([a.create("free"), a.create("stepped")])
    stepped, _ = a.claim("stepped")
    a.commit(stepped, record(0, 3))
    a.store.release([stepped])
    held, closed = a.create("held"), a.create("closed")
    a.end(closed, Ending.CLOSED)
    names = ["free", "held", "closed", "never", "stepped"]
    outcomes = b.store.claim_all(names, owner="b", now_s=place.now_s)
    free, refused, ended, unknown, found = outcomes
    assert (free[0].session_id, free[0].owner, free[1].next_step) == ("free", "b", 0)
    assert (found[0].session_id, found[1].next_step, found[1].epoch) == ("stepped", 3, found[0].epoch)
    assert isinstance(refused, OwnedElsewhere)
    assert refused.fields["owner"] == "a"
    assert isinstance(ended, SessionClosed)
    assert isinstance(unknown, SessionUnknown)
    assert list(a.store.wanted("a")) == ["held"]
    assert b.commit(found[0], record(3, 4)) is None
    assert a.commit(held, record(0, 1)) is None
    assert list(b.store.claim_all([], owner="b", now_s=place.now_s)) == []


def test_all_sessions_of_an_owner_whose_lease_is_over_are_taken_in_one_go(a, b, place):
    names = [f"s{number}" for number in range(20)]
    lost = [a.create(name) for name in names]
    place.pass_time(LEASE_S + 1)
    b.live()
    taken = b.store.claim_all(names, owner="b", now_s=place.now_s)
    assert [claim.session_id for claim, _ in taken] == names
    errors = a.store.commit([a.commit_of(claim, record(0, 1)) for claim in lost])
    assert all(isinstance(error, OwnedElsewhere) for error in errors)
    assert [b.commit(claim, record(0, 1)) for claim, _ in taken] == [None] * 20


def test_an_owner_keeps_its_claims_for_as_long_as_it_says_that_it_lives(a, b, place):
    a.create("s")
    for _ in range(3):
        place.pass_time(LEASE_S - 1)
        a.live()
        with pytest.raises(OwnedElsewhere):
            b.claim("s")
    a.live(lease_s=0)
    b.claim("s")


def test_an_owner_without_a_lease_loses_its_claims_to_who_asks(a, b):
    a.owner = "never said"
    claim = a.create("s")
    assert a.commit(claim, record(0, 1)) is None
    assert b.claim("s")[1].next_step == 1


def test_releasing_a_lost_claim_touches_nothing(a):
    first = a.create("s")
    second, _ = a.claim("s")
    a.store.release([first])
    assert a.commit(second, record(0, 1)) is None


# Commits


def test_records_come_back_in_order_as_they_were_given(a):
    claim = a.create("s")
    records = [record(0, 1), record(1, 500, b""), record(500, 501, bytes(range(256)) * 4096)]
    assert a.commit(claim, *records[:2]) is None
    assert a.commit(claim, records[2]) is None
    a.store.release([claim])
    _, session = a.claim("s")
    assert list(session.records) == records
    assert session.next_step == 501


def test_a_commit_may_bring_thousands_of_records_and_a_call_hundreds_of_sessions(a):
    long = a.create("long")
    others = [a.create(f"s{number}") for number in range(600)]
    commits = [a.commit_of(long, *(record(step, step + 1) for step in range(3000)))]
    commits += [a.commit_of(claim, record(0, 1), snapshot=snapshot(1), keep=1) for claim in others]
    assert set(a.store.commit(commits)) == {None}
    a.store.sync()
    assert len(a.store.read("long").records) == 3000
    assert steps_of(a.store.read("s599")) == ([1], [])


@pytest.mark.parametrize(
    "wrong",
    [
        [record(4, 5)],
        [record(2, 4)],
        [record(0, 3, b"others")],
        [record(3, 3)],
        [record(3, 4), record(5, 6)],
        [record(3, 5), record(5, 4)],
    ],
    ids=["gap", "overlap", "other content", "no step", "gap between", "backwards"],
)
def test_records_that_do_not_follow_are_refused_whole(a, wrong):
    claim, other = a.create("s"), a.create("other")
    a.commit(claim, record(0, 3))
    errors = a.store.commit([a.commit_of(claim, *wrong), a.commit_of(other, record(0, 1))])
    assert isinstance(errors[0], StoreConflict)
    assert errors[1] is None
    assert steps_of(a.store.read("s")) == ([], [(0, 3)])


@pytest.mark.parametrize("step", [9, 21])
def test_a_snapshot_out_of_reach_is_refused(a, step):
    claim = a.create("s")
    a.commit(claim, record(0, 10), record(10, 20), snapshot=snapshot(10), keep_from_step=10)
    error = a.commit(claim, snapshot=snapshot(step))
    assert isinstance(error, StoreConflict)
    assert f"a step from 10 to 20, got one of {step}" in error.message


def test_a_snapshot_of_the_same_step_takes_the_place_of_the_earlier_one(a):
    claim = a.create("s")
    a.commit(claim, record(0, 10), snapshot=snapshot(10))
    assert a.commit(claim, snapshot=snapshot(10, b"smaller")) is None
    assert list(a.store.read("s").snapshots) == [snapshot(10, b"smaller")]
    assert a.store.statistics().payload_bytes == len(b"0..10" + b"smaller")


@pytest.mark.parametrize(
    ("keep_from_step", "snapshots", "first_record"),
    [(None, [8, 16], 0), (7, [8, 16], 0), (8, [8, 16], 5), (15, [8, 16], 5), (16, [16], 15), (99, [16], 15)],
)
def test_what_is_not_needed_to_come_back_to_a_step_is_let_go(a, keep_from_step, snapshots, first_record):
    claim = a.create("s")
    for first in range(0, 20, 5):
        a.commit(claim, record(first, first + 5))
    a.commit(claim, snapshot=snapshot(8))
    assert a.commit(claim, snapshot=snapshot(16), keep_from_step=keep_from_step) is None
    expected = (snapshots, [(first, first + 5) for first in range(first_record, 20, 5)])
    assert steps_of(a.store.read("s")) == expected
    a.store.release([claim])
    claim, session = a.claim("s")
    assert steps_of(session) == expected
    assert a.store.statistics().records == len(expected[1])
    assert a.commit(claim, record(20, 21)) is None


def test_nothing_is_let_go_where_there_is_no_snapshot(a):
    claim = a.create("s")
    assert a.commit(claim, record(0, 5), keep_from_step=5) is None
    assert steps_of(a.store.read("s")) == ([], [(0, 5)])


def test_the_last_commit_again_changes_nothing(a):
    claim = a.create("s")
    for again in (
        a.commit_of(claim, record(0, 1), record(1, 2)),
        a.commit_of(claim, record(2, 4), snapshot=snapshot(3)),
        a.commit_of(claim, record(4, 6), snapshot=snapshot(6), keep=6),
        a.commit_of(claim, snapshot=snapshot(6), keep=6),
    ):
        assert list(a.store.commit([again])) == [None]
        before = a.store.read("s")
        assert list(a.store.commit([again])) == [None]
        a.store.sync()
        assert a.store.read("s") == before
    assert a.store.statistics().payload_bytes == len(b"state 6")


def test_a_session_may_be_in_a_call_twice(a):
    claim = a.create("s")
    commits = [a.commit_of(claim, record(0, 1)), a.commit_of(claim, record(1, 2), snapshot=snapshot(2), keep=2)]
    assert list(a.store.commit([*commits, commits[1], a.commit_of(claim, record(2, 3))])) == [None] * 4
    assert steps_of(a.store.read("s")) == ([2], [(2, 3)])


def test_a_commit_of_nothing_tells_when_the_session_was_used(a, place):
    claim = a.create("s")
    place.pass_time(5)
    assert list(a.store.commit([Commit(claim, place.now_s)])) == [None]
    assert a.store.read("s").used_at_s == place.now_s


def test_a_call_without_commits_is_none(a):
    assert list(a.store.commit([])) == []
    assert list(a.store.end([], Ending.CLOSED, "", now_s=0.0)) == []
    a.store.release([])


# Endings


@pytest.mark.parametrize(
    ("ending", "error"),
    [(Ending.CLOSED, SessionClosed), (Ending.EXPIRED, SessionExpired), (Ending.EVICTED, SessionEvicted)],
)
def test_why_a_session_ended_is_told_in_the_words_it_was_ended_with(a, b, ending, error):
    claim = a.create("s")
    assert a.end(claim, ending, "weil … darum") is None
    for ask in (b.claim, b.store.read):
        with pytest.raises(error, match="weil … darum"):
            ask("s")
    assert isinstance(a.commit(claim, record(0, 1)), error)


def test_ending_again_is_no_error_but_for_another_claim_it_is(a):
    lost = a.create("s")
    claim, _ = a.claim("s")
    assert isinstance(a.end(lost, Ending.CLOSED), OwnedElsewhere)
    assert a.end(claim, Ending.CLOSED, "first") is None
    assert a.end(claim, Ending.EVICTED, "second") is None
    assert isinstance(a.end(lost, Ending.CLOSED), SessionClosed)
    with pytest.raises(SessionClosed, match="first"):
        a.store.read("s")


def test_unused_sessions_of_nobody_alive_expire(a, b, place):
    released, owned, orphaned = a.create("released"), a.create("owned"), b.create("orphaned")
    a.store.release([released])
    place.pass_time(LEASE_S + 1)
    a.live()
    used = a.create("used")
    a.store.release([used])
    assert list(a.expire(unused_since_s=1000.0)) == []
    assert sorted(a.expire(unused_since_s=1000.5)) == ["orphaned", "released"]
    with pytest.raises(SessionExpired, match="idle"):
        a.store.read("released")
    assert isinstance(b.commit(orphaned, record(0, 1)), SessionExpired)
    assert a.commit(owned, record(0, 1)) is None
    a.claim("used")


def test_a_commit_that_is_refused_is_no_use_of_the_session(a, place):
    lost = a.create("s")
    a.store.release([lost])
    place.pass_time(100)
    assert isinstance(a.commit(lost, record(0, 1)), OwnedElsewhere)
    assert a.store.read("s").used_at_s == 1000.0
    assert list(a.expire(unused_since_s=1050.0)) == ["s"]


def test_no_more_expire_than_asked_for_and_in_the_end_all(a, b, place):
    for number in range(7):
        a.create(f"live{number}")
        b.store.release([b.create(f"s{number}")])
    ended = [*a.expire(2000.0, limit=3), *a.expire(2000.0, limit=3), *a.expire(2000.0, limit=3)]
    assert sorted(ended) == [f"s{number}" for number in range(7)]
    assert a.store.statistics().sessions == 7


def test_endings_are_forgotten_when_they_are_old(a, place):
    a.end(a.create("old"), Ending.CLOSED)
    a.end(a.create("again"), Ending.CLOSED)
    a.create("again")
    place.pass_time(10)
    a.end(a.create("new"), Ending.CLOSED)
    assert a.store.forget(ended_before_s=1000.0) == 0
    assert a.store.forget(ended_before_s=1000.5) == 1
    with pytest.raises(SessionUnknown):
        a.store.read("old")
    with pytest.raises(SessionClosed):
        a.store.read("new")
    assert a.store.read("again").next_step == 0


# Looking


def test_sessions_are_listed_page_by_page_in_the_order_of_their_ids(a, b):
    ids = ["A", "B.1", "Z", "_", "a", "a-", "a:b@c+d~", "b"]
    claims = {session_id: a.create(session_id) for session_id in reversed(ids)}
    a.end(a.create("a0"), Ending.CLOSED)
    a.store.release([claims["Z"]])
    a.commit(claims["b"], record(0, 7))
    pages, after = [], ""
    while page := a.store.list(after=after, limit=3):
        pages += page
        after = page[-1].session_id
    assert [line.session_id for line in pages] == sorted(ids)
    assert {line.session_id: line.owner for line in pages if line.owner != "a"} == {"Z": ""}
    assert (pages[-1].next_step, pages[-1].head) == (7, HEAD)


def test_sessions_of_one_model_are_listed_alone(a):
    for number in range(6):
        a.create(f"s{number}", replace(HEAD, model=("even", "odd")[number % 2]))
    assert [line.session_id for line in a.store.list(after="s1", limit=2, model="odd")] == ["s3", "s5"]
    assert list(a.store.list(after="", limit=2, model="none")) == []


def test_statistics_count_what_there_is(a):
    assert a.store.statistics().sessions == 0
    claims = [a.create(f"s{number}") for number in range(3)]
    for claim in claims:
        a.commit(claim, record(0, 1, b"12345"), snapshot=snapshot(1, b"123"))
    a.commit(claims[0], record(1, 2, b"1"), keep_from_step=1)
    a.end(claims[1], Ending.CLOSED)
    found = a.store.statistics()
    assert (found.sessions, found.ended, found.records, found.snapshots, found.payload_bytes) == (2, 1, 2, 2, 12)
    assert found.stored_bytes > 0


def test_what_was_kept_is_there_for_who_opens_the_store_again(lasting_place):
    a = lasting_place.replica("a")
    claim = a.create("s")
    a.commit(claim, record(0, 3), record(3, 5), snapshot=snapshot(4))
    a.end(a.create("ended"), Ending.CLOSED, "gone")
    before, counted = a.store.read("s"), a.store.statistics()
    lasting_place.close()
    lasting_place.pass_time(LEASE_S + 1)
    c = lasting_place.replica("c")
    later, session = c.claim("s")
    assert later.epoch > claim.epoch
    assert replace(session, owner="a", epoch=claim.epoch) == before
    with pytest.raises(SessionClosed, match="gone"):
        c.claim("ended")
    assert replace(c.store.statistics(), stored_bytes=0) == replace(counted, stored_bytes=0)
    assert c.commit(later, record(5, 6)) is None


@pytest.mark.parametrize("commits", [0, 2])
@pytest.mark.parametrize("step", [0, 2, 3, 5, 9])
def test_a_restart_is_there_for_who_opens_the_store_again(lasting_place, step, commits):
    a = lasting_place.replica("a")
    begun, claim = a.create("begun", start=snapshot(step)), a.create("s")
    a.commit(claim, record(0, 3), record(3, 5), snapshot=snapshot(2), keep_from_step=2)
    a.restart(claim, snapshot(step, b"given"))
    for first in range(step, step + commits):
        for one in (begun, claim):
            assert a.commit(one, record(first, first + 1), fsync=True) is None
    before = [a.store.read(session_id) for session_id in ("begun", "s")]
    counted = a.store.statistics()
    lasting_place.close()
    lasting_place.pass_time(LEASE_S + 1)
    c = lasting_place.replica("c")
    assert replace(c.store.statistics(), stored_bytes=0) == replace(counted, stored_bytes=0)
    for expected in before:
        claim, found = c.claim(expected.session_id)
        assert replace(found, owner="a", epoch=expected.epoch) == expected
        assert c.commit(claim, record(step + commits, step + commits + 1)) is None
