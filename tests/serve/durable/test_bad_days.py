"""The store says nothing, loses answers, takes its time: callers are told, nothing hangs, each step is made once."""

import asyncio

import numpy as np
import pytest

from ntm_serve.durability import Durability
from ntm_serve.errors import (
    NtmServeError,
    SessionClosed,
    SessionUnknown,
    SettingsFault,
    StoreConflict,
    StoreUnavailable,
)
from ntm_serve.record import Committed, record_of
from ntm_serve.sessions import Limits
from ntm_serve.store import Commit

from .faulty_store import ASKED, FaultyStore
from .replicas import WAIT_S, replica

BAD = pytest.mark.parametrize("bad", ["fails", "loses"])


async def within(answer, most_s=WAIT_S):
    async with asyncio.timeout(most_s):
        return await answer


@BAD
@pytest.mark.parametrize("durability", [Durability.PROCESS, Durability.DISK])
async def test_a_commit_without_an_answer_is_asked_again_and_done_once(store, clock, bad, durability):
    async with replica(store, clock=clock) as a:
        await a.open(durability=durability)
        for number in range(5):
            getattr(store, bad)["commit"] = 2
            getattr(store, bad)["sync"] = 1
            assert await a.step("s", 1, first=number) == [number + 1]
        assert [(one.first_step, one.end_step) for one in store.read("s").records] == [(n, n + 1) for n in range(5)]
        assert not a.seen.told


@BAD
@pytest.mark.parametrize(
    "name", ["claim", "release", "read", "list", "keep_alive", "wanted", "create", "end", "restart"]
)
async def test_whatever_else_is_asked_is_asked_again(store, clock, bad, name):
    async with replica(store, clock=clock) as a:
        getattr(store, bad)[name] = 2
        await a.open()
        await a.step("s", 1)
        await a.rest("s")
        getattr(store, bad)[name] = 2
        assert (await a.service.get_session("s")).next_step == 1
        getattr(store, bad)[name] = 2
        assert await a.step("s", 1) == [2]
        getattr(store, bad)[name] = 2
        assert len(await a.service.list_sessions()) == 1
        await a.keeper.give_word()
        getattr(store, bad)[name] = 2
        assert (await a.service.rewind_session("s", 1)).next_step == 1
        assert await a.step("s", 5) == [6]
        getattr(store, bad)[name] = 2
        await a.service.close_session("s")
        with pytest.raises(SessionClosed):
            await a.service.get_session("s")


@pytest.mark.parametrize("durability", [Durability.PROCESS, Durability.DISK])
async def test_an_outage_beyond_patience_is_told_and_afterwards_it_goes_on_without_a_step_lost_or_doubled(
    store, clock, durability
):
    async with replica(store, clock=clock, patience_s=0.05) as a:
        for name in "st":
            await a.open(name, durability=durability)
            await a.step(name, 1)
        store.down = True
        answers = [a.begin("s", 1, first=1), a.begin("s", 1, first=2), a.begin("t", 1, first=1)]
        for answer in answers:
            with pytest.raises(StoreUnavailable):
                await within(answer)
        for ask in (
            lambda: a.step("s", 1, first=1),
            lambda: a.service.get_session("s"),
            lambda: a.service.list_sessions(),
            lambda: a.service.close_session("s"),
            lambda: a.open("new"),
            lambda: a.service.fork_session("s"),
            lambda: a.service.rewind_session("s", 0),
        ):
            with pytest.raises(StoreUnavailable):
                await within(ask())
        await within(a.keeper.give_word())
        store.down = False
        assert await a.step("s", 1, first=1) == [2]
        assert await a.step("s", 1, first=2) == [3]
        assert await a.step("t", 1, first=1) == [2]
        assert store.read("s").next_step == 3


async def test_a_commit_whose_answers_were_lost_for_longer_than_patience_is_found_and_not_done_again(store, clock):
    async with replica(store, clock=clock, patience_s=0.05) as a:
        await a.open()
        await a.step("s", 1)
        store.loses["commit"] = 10**6
        with pytest.raises(StoreUnavailable):
            await within(a.step("s", 1, first=1))
        store.loses.clear()
        assert store.read("s").next_step == 2
        assert await a.step("s", 1, first=1) == [2]
        assert await a.step("s", 1, first=2) == [3]


async def test_many_who_ask_while_the_store_is_down_wait_side_by_side_and_not_one_after_another(store, clock):
    async with replica(store, clock=clock, patience_s=0.2) as a:
        for number in range(30):
            await a.open(f"s{number}")
        await a.rest(*[f"s{number}" for number in range(30)])
        store.down = True
        started_s = clock.monotonic()
        answers = await asyncio.gather(*[a.step(f"s{number}", 1) for number in range(30)], return_exceptions=True)
        assert all(isinstance(answer, StoreUnavailable) for answer in answers)
        assert clock.monotonic() - started_s < 3
        store.down = False


async def test_an_outage_while_sessions_are_looked_through_for_expiry_is_not_the_end(store, clock):
    async with replica(store, clock=clock, patience_s=0.01, limits=Limits(idle_life_s=100)) as a:
        await a.open()
        clock.pass_(101)
        await a.keeper.give_word()
        store.down = True
        await a.service.expire_sessions()
        store.down = False
        await a.service.expire_sessions()


async def test_while_one_commit_is_written_all_that_is_done_becomes_the_next(slow, clock):
    async with replica(slow, clock=clock) as a:
        names = [f"s{number}" for number in range(8)]
        for name in names:
            await a.open(name)
        with slow.held("commit") as held:
            first = a.begin(names[0], 1)
            await asyncio.to_thread(held.await_call)
            others = [a.begin(name, 1) for name in names[1:]]
            await a.until(lambda: a.keeper._unwritten.waiting == 7)
        assert await asyncio.gather(first, *others) == [[1]] * 8
        assert slow.calls["commit"] == 2


async def test_a_reply_of_durability_disk_waits_for_the_disk_and_one_of_process_does_not(clock):
    store = FaultyStore(local=True)
    async with replica(store, clock=clock) as a:
        await a.open("disk", durability=Durability.DISK)
        await a.open("process")
        with store.held("sync") as held:
            first = a.begin("disk", 1)
            await asyncio.to_thread(held.await_call)
            assert await a.step("process", 1) == [1]
            second = a.begin("disk", 1)
            await asyncio.sleep(0)
            assert store.read("disk").next_step == 1
            assert not first.done()
        assert await asyncio.gather(first, second) == [[1], [2]]


async def test_a_reply_of_durability_disk_waits_for_the_disk_where_a_thread_writes(slow, clock):
    async with replica(slow, clock=clock) as a:
        await a.open("disk", durability=Durability.DISK)
        with slow.held("sync") as held:
            answer = a.begin("disk", 1)
            await asyncio.to_thread(held.await_call)
            assert slow.calls["commit"] == 1
            assert not answer.done()
        assert await answer == [1]
        slow.fails["sync"] = 1
        assert await a.step("disk", 1) == [2]
        assert slow.calls["commit"] == 2


async def test_a_store_that_cannot_sync_refuses_durability_disk(store, clock, monkeypatch):
    def refuse(self):
        raise SettingsFault("store: expected appendfsync always")

    monkeypatch.setattr(FaultyStore, "sync", refuse)
    async with replica(store, clock=clock) as a:
        with pytest.raises(SettingsFault, match="appendfsync"):
            await a.open(durability=Durability.DISK)
        with pytest.raises(SessionUnknown):
            await a.service.get_session("s")
        await a.open()


async def test_what_is_asked_to_be_on_the_disk_is_synced_before_it_is_answered(store, clock):
    async with replica(store, clock=clock) as a:

        async def syncs(asked):
            last = []
            ask = store.ask

            def remember(name, *args, **more):
                last.append(name)
                return ask(name, *args, **more)

            store.ask = remember
            try:
                await asked
            finally:
                store.ask = ask
            return last

        assert (await syncs(a.open(durability=Durability.DISK)))[-1] == "sync"
        await a.step("s", 1)
        assert (await syncs(a.service.rewind_session("s", 0)))[-1] == "sync"
        assert (await syncs(a.service.close_session("s")))[-1] == "sync"


async def test_a_claim_that_was_lost_writes_nothing_and_the_session_is_asked_for_anew(store, clock):
    async with replica(store, clock=clock) as a:
        await a.open()
        await a.step("s", 1)
        thief = store._claims.grant("s", "thief")
        with pytest.raises(NtmServeError, match="thief has it"):
            await a.step("s", 1, first=1)
        assert store.read("s").next_step == 1
        assert not a.in_memory("s")
        [error] = store.commit([Commit(thief, clock.time(), store_records(store, "s"))])
        assert error is None
        store.release([thief])
        assert await a.step("s", 1, first=2) == [3]


def store_records(store, session_id):
    """The next step of a session, with an input of 1, as another server writes it."""
    at = store.read(session_id).next_step
    ones, total = np.ones((1, 1), np.float32), np.full((1, 1), at + 1, np.float32)
    return (record_of(session_id, Committed(at, (ones,), (total,)), with_outputs=False),)


async def test_a_conflict_in_the_store_is_that_sessions_alone(store, clock):
    async with replica(store, clock=clock) as a:
        for name in "st":
            await a.open(name)
            await a.step(name, 1)
        claim = store._claims.newest("s")
        store.commit([Commit(claim, clock.time(), store_records(store, "s"))])
        answers = [a.begin("s", 5), a.begin("t", 5)]
        with pytest.raises(StoreConflict):
            await answers[0]
        assert await answers[1] == [6]
        assert await a.step("s", 1, first=1) == [2]


async def test_callers_that_leave_while_the_store_is_asked_leave_no_claim_behind(slow, clock):
    async with replica(slow, clock=clock) as a, replica(slow, clock=clock, name="b") as b:
        await a.open()
        await a.step("s", 1)
        await a.rest("s")
        with slow.held("claim") as held:
            looking = asyncio.create_task(a.service.get_state("s", []))
            await asyncio.to_thread(held.await_call)
            looking.cancel()
            await asyncio.wait([looking])
        await a.keeper.call(lambda: None)
        await a.keeper.call(lambda: None)
        assert await b.step("s", 1, first=1) == [2]


async def test_a_caller_that_leaves_while_its_session_is_made_leaves_none_behind(slow, clock):
    async with replica(slow, clock=clock) as a:
        with slow.held("create") as held:
            opening = asyncio.create_task(a.open())
            await asyncio.to_thread(held.await_call)
            opening.cancel()
            await asyncio.wait([opening])
        await a.keeper.call(lambda: None)
        await a.keeper.call(lambda: None)
        assert not await a.service.list_sessions()
        assert (await a.open()).next_step == 0


@pytest.mark.parametrize("name", ["restart", "read"])
async def test_a_caller_that_leaves_in_the_middle_of_a_rewind_leaves_a_session_that_can_be_used(slow, clock, name):
    async with replica(slow, clock=clock) as a, replica(slow, clock=clock, name="b", handover_s=5) as b:
        await a.open()
        await a.step("s", 1, 2)
        with slow.held(name) as held:
            rewinding = asyncio.create_task(a.service.rewind_session("s", 1))
            await asyncio.to_thread(held.await_call)
            rewinding.cancel()
            await asyncio.wait([rewinding])
        await a.keeper.call(lambda: None)
        assert (await a.service.get_session("s")).next_step == {"restart": 1, "read": 2}[name]
        elsewhere = asyncio.create_task(b.step("s", 1))
        while not elsewhere.done():
            await a.keeper.give_word()
        assert await elsewhere == [{"restart": 2, "read": 4}[name]]


async def test_sessions_that_were_lost_in_an_outage_are_given_to_a_server_that_asks(store, clock):
    async with replica(store, clock=clock, patience_s=0.01) as a:
        await a.open()
        await a.step("s", 1)
        store.down = True
        with pytest.raises(StoreUnavailable):
            await a.step("s", 1)
        store.down = False
        async with replica(store, clock=clock, name="b", handover_s=5) as b:
            elsewhere = asyncio.create_task(b.step("s", 1, first=1))
            while not elsewhere.done():
                await a.keeper.give_word()
            assert await elsewhere == [2]


async def test_a_store_that_raises_what_it_may_not_ends_the_server(store, clock, monkeypatch):
    async with replica(store, clock=clock) as a:
        await a.open()
        running = asyncio.create_task(a.keeper.run())

        def burst(self, commits):
            raise ZeroDivisionError("mine")

        monkeypatch.setattr(FaultyStore, "commit", burst)
        a.begin("s", 1)
        with pytest.raises(ZeroDivisionError):
            await within(running)
        monkeypatch.undo()
        a.residency.lose(a.sessions.find("s"), StoreUnavailable("over"))
        a.keeper._unwritten.at_work = False


def test_every_method_of_the_store_that_may_be_unavailable_is_tried():
    public = {name for name in dir(FaultyStore) if not name.startswith("_")}
    assert set(ASKED) <= public


async def test_a_disk_that_failed_is_not_believed_the_next_time(clock, monkeypatch, store):
    failed = OSError(5, "Input/output error")
    monkeypatch.setattr(store, "sync", lambda: (_ for _ in ()).throw(failed))
    async with replica(store, clock=clock) as a:
        await a.open(durability=Durability.PROCESS)
        await a.open("d", durability=Durability.MEMORY)
        with pytest.raises(OSError, match="Input/output error"):
            await a.open("s2", durability=Durability.DISK)
        # Whoever runs the keeper is told, and ends the server.
        assert a.keeper._died.exception() is failed
        a.keeper._died = asyncio.get_running_loop().create_future()


async def test_closing_a_session_that_is_not_in_memory_runs_nothing_again(store, clock):
    async with replica(store, clock=clock) as a:
        await a.open()
        for number in range(5):
            await a.step("s", number)
    async with replica(store, clock=clock) as a:
        assert (await a.service.close_session("s")).next_step == 5
        assert not a.models[0].batches
        with pytest.raises(SessionClosed):
            await a.step("s", 1)


async def test_without_an_idle_life_ends_are_forgotten_all_the_same(store, clock):
    async with replica(store, clock=clock, limits=Limits(idle_life_s=None), ended_life_s=10) as a:
        await a.open()
        await a.service.close_session("s")
        clock.pass_(11)
        await a.service.expire_sessions()
        await a.keeper.call(lambda: None)
        assert store.statistics().ended == 0
