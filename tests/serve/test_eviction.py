"""Who leaves memory when it is full: decided without a server."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntm_serve.eviction import leaving, level_of
from ntm_serve.sessions import Session
from ntm_serve.state import StateBlock
from ntm_serve.step_model import ModelKey
from ntm_serve.tenants import NO_LIMITS, Accounts
from ntm_serve.testing import ManualClock, RunningSum

KEY = ModelKey("running-sum", "1")
INITIAL = RunningSum().initial_state
KEPT = object()


class Memory:
    """Sessions of tenants, each of so many bytes."""

    def __init__(self):
        self.accounts = Accounts(every=NO_LIMITS, total=NO_LIMITS, clock=ManualClock())
        self.sessions, self.bytes = [], {}

    def add(self, tenant, *, size=10, used_s=0.0, kept=False, busy=False):
        session = Session(f"{tenant}|{len(self.sessions)}", KEY, StateBlock.of_one(INITIAL), used_s)
        session.account = self.accounts.of(tenant)
        session.kept = KEPT if kept else None
        if busy:
            session.in_flight = [object()]
        session.account.enter(KEY, size)
        self.sessions.append(session)
        self.bytes[session] = size
        return session

    def leaving(self, over, *, spare=0, newcomer=None):
        return leaving(
            self.sessions, newcomer=newcomer, over=over, spare=spare, held_by=lambda account: account.state_bytes,
            bytes_of=self.bytes.get, smallest=min(self.bytes.values()),
        )  # fmt: skip


def test_the_tenant_that_holds_the_most_makes_room_though_another_was_used_less_of_late():
    memory = Memory()
    few = [memory.add("few", used_s=0.0) for _ in range(3)]
    many = [memory.add("many", used_s=100.0 - n) for n in range(7)]
    assert memory.leaving(20) == [many[6], many[5]]
    newcomer = memory.add("few")
    assert not {*memory.leaving(20, spare=20, newcomer=newcomer)} & {*few, newcomer}


def test_of_one_tenants_sessions_those_go_first_that_come_back_and_then_the_least_recently_used():
    memory = Memory()
    alone = [memory.add("mine", used_s=at_s) for at_s in (3.0, 1.0, 2.0)]
    stored = [memory.add("mine", used_s=at_s, kept=True) for at_s in (9.0, 8.0)]
    assert memory.leaving(40) == [stored[1], stored[0], alone[1], alone[2]]


def test_tenants_that_hold_the_most_are_brought_down_to_the_next_together():
    memory = Memory()
    for tenant, count in (("a", 8), ("b", 6), ("c", 2)):
        for _ in range(count):
            memory.add(tenant)
    gone = [session.account.tenant for session in memory.leaving(60)]
    assert {tenant: gone.count(tenant) for tenant in "abc"} == {"a": 4, "b": 2, "c": 0}


def test_room_beyond_what_is_needed_is_made_by_those_alone_who_make_room_anyway():
    memory = Memory()
    equal = [memory.add("equal") for _ in range(5)]
    for _ in range(6):
        memory.add("more")
    gone = memory.leaving(10, spare=20)
    assert len(gone) == 3
    assert not {*gone} & {*equal}


def test_where_the_others_are_busy_sessions_rest_that_come_back_and_none_ends():
    memory = Memory()
    for _ in range(5):
        memory.add("busy", busy=True)
    memory.add("idle", used_s=0.0)
    stored = [memory.add("idle", used_s=5.0, kept=True) for _ in range(2)]
    assert memory.leaving(40) == stored


def test_who_comes_counts_for_its_tenant_and_stays():
    memory = Memory()
    small = [memory.add("small") for _ in range(5)]
    newcomer = memory.add("large", size=100)
    assert memory.leaving(50, newcomer=newcomer) == []
    assert memory.leaving(50, newcomer=small[0]) == [newcomer]


def test_what_is_in_flight_is_looked_past():
    memory = Memory()
    session = memory.add("mine", busy=True)
    assert memory.leaving(10) == []
    session.in_flight = []
    assert memory.leaving(10) == [session]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6), st.data())
def test_whoever_holds_less_than_an_equal_share_loses_nothing_and_enough_is_made_free(counts, data):
    memory = Memory()
    for tenant, count in enumerate(counts):
        for _ in range(count):
            memory.add(str(tenant))
    held = 10 * sum(counts)
    over = data.draw(st.integers(1, held))
    gone = memory.leaving(over, spare=data.draw(st.integers(0, 30)))
    share = (held - over) / len(counts)
    assert 10 * len(gone) >= over
    for tenant, count in enumerate(counts):
        if 10 * count <= share:
            assert not [one for one in gone if one.account.tenant == str(tenant)]


@pytest.mark.parametrize(
    ("held", "over", "level"), [([10], 4, 6), ([8, 6, 2], 6, 4), ([5, 5], 1, 4), ([3, 1], 4, 0), ([3, 1], 9, 0)]
)
def test_the_level_that_all_are_brought_down_to(held, over, level):
    assert level_of(held, over) == level
