"""Steps in flight while a server's lease was over, as in a process that stood still: they go on, and nothing is
answered from what their session was.
"""

import asyncio

import pytest

from ntm_serve.errors import OwnedElsewhere, SessionUnknown, StepAhead, StepConflict
from ntm_serve.keeping import Retention
from ntm_serve.testing import Gate, RunningSum

from .replicas import LEASE_S, replica


@pytest.mark.parametrize("gives_word", [False, True], ids=["before its word", "after its word"])
async def test_a_server_that_paused_within_a_step_says_nothing_old(store, clock, gives_word):
    gate = Gate()
    async with (
        replica(store, RunningSum(before_run=gate), clock=clock) as a,
        replica(store, clock=clock, name="b") as b,
    ):
        await a.open()
        answer = a.begin("s", 1, first=0)
        await asyncio.to_thread(gate.await_run)
        clock.pass_(LEASE_S + 1)
        await b.keeper.give_word()
        assert await b.step("s", 1, 2, first=0) == [1, 3]

        if gives_word:
            await a.keeper.give_word()
        assert (await a.service.get_session("s")).next_step == 2
        assert [view.next_step for view in await a.service.list_sessions()] == [2]

        await b.rest("s")
        following = a.begin("s", 3, first=2)
        await asyncio.sleep(0)
        gate.open()
        with pytest.raises(OwnedElsewhere):
            await answer
        assert await following == [6]
        # Its number is lower than that of the message which had the session come back.
        assert await a.step("s", 1, first=0) == [1]


async def test_messages_that_come_while_steps_are_in_flight_over_a_pause_keep_their_order(store, clock):
    gate = Gate()
    async with replica(store, RunningSum(before_run=gate), clock=clock) as a:
        await a.open()
        before = [a.begin("s", 1, first=0), a.begin("s", 1, first=1)]
        await asyncio.to_thread(gate.await_run)
        clock.pass_(LEASE_S + 1)
        after = [a.begin("s", 1, first=2), a.begin("s", 1)]
        await a.keeper.give_word()
        await asyncio.sleep(0)
        gate.open()
        assert [await one for one in (*before, *after)] == [[1], [2], [3], [4]]
        assert a.seen.told == ["left: lease", "restored"]


async def test_a_session_whose_steps_in_flight_over_a_pause_are_cancelled_is_asked_for_in_the_store(slow, clock):
    gate = Gate()
    async with (
        replica(slow, RunningSum(before_run=gate), clock=clock) as a,
        replica(slow, clock=clock, name="b") as b,
    ):
        await a.open()
        first, second = a.begin("s", 1, first=0), a.begin("s", 1, first=1)
        await asyncio.to_thread(gate.await_run)
        clock.pass_(LEASE_S + 1)
        await a.keeper.give_word()
        assert not a.in_memory("s")
        a.begun.cancel()
        gate.open()
        assert await first == [1]
        assert not second.done() or second.exception() is not None
        await b.keeper.give_word()
        clock.pass_(LEASE_S + 1)
        await b.keeper.give_word()
        assert await b.step("s", 5, first=1) == [6]
        await b.rest("s")
        assert await a.step("s", 1, first=2) == [7]


async def test_a_retry_of_a_step_before_that_for_which_a_session_came_back_is_answered(store, clock):
    async with replica(store, clock=clock, retention=Retention(snapshot_steps=2)) as a:
        await a.open()
        for step, sum_ in enumerate([1, 3, 6, 10]):
            assert await a.step("s", step + 1, first=step) == [sum_]
        await a.rest("s")
        with pytest.raises(StepAhead):
            await a.step("s", 9, first=8)
        assert (await a.service.get_session("s")).oldest_step == 4

        retries = [a.begin("s", 2, first=1), a.begin("s", 5, first=4), a.begin("s", 4, first=3)]

        assert [await one for one in retries] == [[3], [15], [10]]
        with pytest.raises(StepConflict):
            await a.step("s", 7, first=1)


async def test_that_a_server_lives_is_not_said_behind_what_is_asked_of_the_store(slow, clock):
    async with replica(slow, clock=clock) as a:
        with slow.held("read") as held:
            asking = asyncio.create_task(a.service.get_session("nobody"))
            await asyncio.to_thread(held.await_call)
            before = a.keeper.lease_until_s
            clock.pass_(1)
            await asyncio.wait_for(a.keeper.give_word(), 5)
            assert a.keeper.lease_until_s > before
        with pytest.raises(SessionUnknown):
            await asking


@pytest.mark.parametrize("name", ["", "a b", "x" * 129, "{}"])
async def test_a_name_that_no_session_can_have_is_not_asked_of_the_store(store, clock, name):
    async with replica(store, clock=clock) as a:
        asked = dict(store.calls)
        with pytest.raises(SessionUnknown):
            await a.step(name, 1)
        for ask in (a.service.get_session, a.service.close_session):
            with pytest.raises(SessionUnknown):
                await ask(name)
        assert {store.calls[one] - asked.get(one, 0) for one in ("read", "claim")} == {0}
