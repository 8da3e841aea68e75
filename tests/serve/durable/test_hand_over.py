"""Several servers share a store: one has a session at a time, and what the others say of it is never old."""

import asyncio

import pytest

from ntm_serve.durability import Durability
from ntm_serve.errors import (
    OwnedElsewhere,
    SessionClosed,
    SessionExpired,
    SessionUnknown,
    StepAhead,
    StepConflict,
    StoreUnavailable,
)
from ntm_serve.sessions import Limits
from ntm_serve.testing import Gate, RunningSum

from .faulty_store import FaultyStore
from .replicas import LEASE_S, replica


async def test_a_session_goes_to_the_server_that_is_asked_and_back_again(store, clock):
    async with (
        replica(store, clock=clock, polls=True, handover_s=10) as a,
        replica(store, clock=clock, name="b", polls=True, handover_s=10) as b,
    ):
        await a.open()
        for number in range(6):
            server = (a, b)[number % 2]
            assert await server.step("s", 1, first=number) == [number + 1]
            # What the other answered is known here as well.
            if number:
                assert await server.step("s", 1, first=number - 1) == [number]
        assert a.seen.told.count("left: wanted") == 3


async def test_a_server_that_does_not_give_up_a_session_is_waited_for_and_then_named(store, clock):
    async with replica(store, clock=clock) as a, replica(store, clock=clock, name="b", handover_s=0.05) as b:
        await a.open()
        with pytest.raises(OwnedElsewhere) as refused:
            await b.step("s", 1)
        assert refused.value.fields == {"owner": "a"}
        assert await a.step("s", 1) == [1]


async def test_a_session_is_given_up_after_the_steps_that_it_has_in_flight(store, clock):
    gate = Gate()
    async with (
        replica(store, RunningSum(before_run=gate), clock=clock) as a,
        replica(store, clock=clock, name="b", handover_s=10) as b,
    ):
        await a.open()
        answers = [a.begin("s", 1), a.begin("s", 1)]
        await asyncio.to_thread(gate.await_run)
        elsewhere = asyncio.create_task(b.step("s", 1))
        while not a.seen.told:
            await a.keeper.give_word()
            gate.open()
        assert [await one for one in (*answers, elsewhere)] == [[1], [2], [3]]


async def test_a_session_that_is_never_idle_is_given_up_all_the_same(store, clock):
    gate = Gate()
    async with (
        replica(store, RunningSum(before_run=gate), clock=clock) as a,
        replica(store, clock=clock, name="b", handover_s=10) as b,
    ):
        await a.open()
        kept = [a.begin("s", 1), a.begin("s", 1)]
        await asyncio.to_thread(gate.await_run)
        elsewhere = asyncio.create_task(b.step("s", 1))
        await a.until(lambda: store.wanted("a"))
        a.residency.give_up(["s"])
        late = [a.begin("s", 1), a.begin("s", 1)]
        while not elsewhere.done():
            gate.open()
            await asyncio.sleep(0)
        assert [await one for one in (*kept, elsewhere)] == [[1], [2], [3]]
        for one in late:
            with pytest.raises(OwnedElsewhere, match="another server asked for it"):
                await one
        # And it may come back.
        back = asyncio.create_task(a.step("s", 1))
        while not back.done():
            await b.keeper.give_word()
            gate.open()
        assert await back == [4]


async def test_while_steps_wait_to_be_kept_a_session_is_not_given_up(slow, clock):
    async with replica(slow, clock=clock) as a, replica(slow, clock=clock, name="b", handover_s=10) as b:
        await a.open()
        with slow.held("commit") as held:
            answer = a.begin("s", 1)
            await asyncio.to_thread(held.await_call)
            elsewhere = asyncio.create_task(b.step("s", 1))
            await a.until(lambda: slow.calls["claim"] > 1)
            a.residency.give_up(["s"])
            assert a.in_memory("s")
        assert await answer == [1]
        assert await elsewhere == [2]


async def live_on(clock, by_s, *servers):
    """Time passes, and these servers give word in time."""
    for _ in range(int(by_s / (LEASE_S / 2)) + 1):
        clock.pass_(LEASE_S / 2)
        for server in servers:
            await server.keeper.give_word()


async def test_a_busy_session_that_is_asked_for_again_and_again_is_remembered_once(slow, clock):
    async with replica(slow, clock=clock) as a:
        await a.open()
        with slow.held("commit") as held:
            answers = [a.begin("s", 1), a.begin("s", 1)]
            await asyncio.to_thread(held.await_call)
            for _ in range(50):
                a.residency.give_up(["s"])
            session = a.sessions.get("s")
            assert sum(len(ticket._followers or ()) for ticket in session.in_flight) == 1
        assert [await one for one in answers] == [[1], [2]]
        assert not a.in_memory("s")
        # And when it is back, it is given up again.
        assert await a.step("s", 1) == [3]
        a.residency.give_up(["s"])
        assert not a.in_memory("s")


async def taken_over(a, b, clock, *, steps):
    """A has session s at step 2 and pauses for longer than its lease; meanwhile B steps it."""
    await a.open()
    await a.step("s", 1, 1)
    clock.pass_(LEASE_S + 1)
    await b.keeper.give_word()
    for number in range(steps):
        await b.step("s", 10, first=2 + number)


@pytest.mark.parametrize("gives_word", [False, True], ids=["before its word", "after its word"])
async def test_a_server_that_paused_for_longer_than_its_lease_says_nothing_old(store, clock, gives_word):
    async def get_state(a):
        view, state = await a.service.get_state("s", ["*"])
        return view.next_step, state["total"].tolist()

    async def snapshot(a):
        return (await a.service.snapshot_session("s"))[0]

    async def fork(a):
        return (await a.service.fork_session("s")).next_step

    async def get(a):
        return (await a.service.get_session("s")).next_step

    async def open_(a):
        return (await a.open(resume=True)).next_step

    async def close(a):
        return (await a.service.close_session("s")).next_step

    async def list_(a):
        return [view.next_step for view in await a.service.list_sessions() if view.session_id == "s"]

    async def step(a):
        return await a.step("s", 1)

    for ask, expected in (
        (get_state, (4, [22])), (snapshot, 4), (fork, 4), (get, 4), (open_, 4), (close, 4), (list_, [4]), (step, [23]),
    ):  # fmt: skip
        shared = FaultyStore(local=store.local)
        async with replica(shared, clock=clock) as a, replica(shared, clock=clock, name="b") as b:
            await taken_over(a, b, clock, steps=2)
            if gives_word:
                await a.keeper.give_word()
            asked = asyncio.create_task(ask(a))
            while not asked.done():
                await b.keeper.give_word()
            assert await asked == expected, ask


async def test_a_retry_to_a_server_that_paused_is_answered_as_the_other_server_would(store, clock):
    async with replica(store, clock=clock, polls=True) as a, replica(store, clock=clock, name="b", polls=True) as b:
        await taken_over(a, b, clock, steps=0)
        await b.service.rewind_session("s", 1)
        await b.step("s", 50, first=1)
        # That number was taken again since, with another input.
        with pytest.raises(StepConflict):
            await a.step("s", 1, first=1)


async def test_steps_that_ran_while_their_server_was_paused_write_nothing(store, clock):
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
        assert await b.step("s", 100, first=0) == [100]
        gate.open()
        with pytest.raises(OwnedElsewhere):
            await answer
        assert b.store.read("s").next_step == 1
        assert await b.step("s", 1, first=1) == [101]
        assert not a.in_memory("s")


async def test_a_session_whose_steps_in_flight_came_to_nothing_while_its_server_paused_is_not_trusted(store, clock):
    gate = Gate()
    async with (
        replica(store, RunningSum(before_run=gate), clock=clock) as a,
        replica(store, clock=clock, name="b", handover_s=10) as b,
    ):
        await a.open()
        a.begin("s", 1)
        await asyncio.to_thread(gate.await_run)
        clock.pass_(LEASE_S + 1)
        await a.keeper.give_word()
        a.begun.cancel()
        gate.open()
        assert await b.step("s", 100, 100, first=0) == [100, 200]
        assert (await a.service.get_session("s")).next_step == 2


async def test_a_session_that_came_back_while_its_server_paused_is_not_trusted(slow, clock):
    async with replica(slow, clock=clock) as a, replica(slow, clock=clock, name="b") as b:
        await a.open()
        await a.step("s", 1)
        await a.rest("s")
        gate = Gate()
        a.models[0]._before_run, a.models[0].runs_inline = gate, False
        looking = asyncio.create_task(a.service.get_state("s", []))
        await asyncio.to_thread(gate.await_run)
        clock.pass_(LEASE_S + 1)
        await b.keeper.give_word()
        assert await b.step("s", 10, first=1) == [11]
        gate.open()
        with pytest.raises(OwnedElsewhere, match="lease was over"):
            await looking
        assert await b.step("s", 10, first=2) == [21]


async def test_a_server_whose_word_is_not_taken_claims_nothing(store, clock):
    async with replica(store, clock=clock, patience_s=0.01) as a:
        await a.open()
        await a.step("s", 1)
        clock.pass_(LEASE_S + 1)
        store.fails["keep_alive"] = 10**6
        for ask in (a.step("s", 1, first=1), a.service.get_state("s", []), a.open("new")):
            with pytest.raises(StoreUnavailable, match="did not take this server's word"):
                await ask
        store.fails.clear()
        assert await a.step("s", 1, first=1) == [2]


async def test_a_server_whose_lease_was_over_but_that_nobody_missed_goes_on(store, clock):
    async with replica(store, clock=clock) as a:
        await a.open()
        await a.step("s", 1)
        clock.pass_(LEASE_S + 1)
        assert await a.step("s", 1, first=1) == [2]
        await a.keeper.give_word()
        assert await a.step("s", 1, first=2) == [3]


async def test_a_session_that_another_server_ended_is_ended_here(store, clock):
    async with replica(store, clock=clock) as a, replica(store, clock=clock, name="b") as b:
        await taken_over(a, b, clock, steps=1)
        await b.service.close_session("s")
        with pytest.raises(SessionClosed):
            await a.step("s", 1)
        with pytest.raises(SessionClosed):
            await a.service.get_session("s")


async def test_idle_sessions_of_a_dead_server_expire_in_the_store(store, clock):
    limits = Limits(idle_life_s=100)
    async with replica(store, clock=clock, limits=limits) as a:
        await a.open()
        await a.step("s", 1)
    clock.pass_(101)
    async with replica(store, clock=clock, limits=limits, name="b") as b:
        assert await b.service.expire_sessions() == 1
        with pytest.raises(SessionExpired, match="expired after 100 s without a step"):
            await b.step("s", 1)


async def test_idle_sessions_of_a_living_server_are_its_own_to_end(store, clock):
    limits = Limits(idle_life_s=100)
    async with (
        replica(store, clock=clock, limits=limits) as a,
        replica(store, clock=clock, limits=limits, name="b") as b,
    ):
        await a.open()
        await a.open("busy")
        await live_on(clock, 101, a, b)
        await a.step("busy", 1)
        assert await b.service.expire_sessions() == 0
        assert await a.service.expire_sessions() == 1
        with pytest.raises(SessionExpired):
            await b.step("s", 1)


async def test_a_list_has_every_session_wherever_it_is_page_by_page(store, clock):
    async with replica(store, clock=clock) as a, replica(store, clock=clock, name="b") as b:
        for number in range(12):
            await (a, b)[number % 2].open(f"s{number:02}")
        await a.rest("s04", "s06")
        await b.step("s01", 1, 2)
        await a.open("s99", durability=Durability.MEMORY)
        listed, after = [], ""
        while page := await a.service.list_sessions(after=after, page_size=5):
            listed += page
            after = page[-1].session_id
        assert [view.session_id for view in listed] == [*[f"s{number:02}" for number in range(12)], "s99"]
        assert [view.next_step for view in listed[:3]] == [0, 2, 0]
        assert [view.session_id for view in listed if view.resident] == ["s00", "s02", "s08", "s10", "s99"]
        assert [view.session_id for view in await a.service.list_sessions(model_name="nobody")] == []


async def test_a_server_that_stops_leaves_its_sessions_to_anybody(store, clock):
    async with replica(store, clock=clock, name="b") as b, replica(store, clock=clock) as a:
        for number in range(300):
            await a.open(f"s{number}")
        await asyncio.gather(*[a.step(f"s{number}", number) for number in range(300)])
        await a.service.until_idle()
        await a.service.leave()
        assert len(a.sessions) == 0
        assert await b.step("s7", 1) == [8]
        # What was left is the state: nothing ran again.
        assert b.models[0].batches == [1]


async def test_a_server_stops_in_good_order_while_others_ask_for_its_sessions(slow, clock):
    async with (
        replica(slow, clock=clock, name="b", handover_s=10) as b,
        replica(slow, clock=clock, polls=True) as a,
    ):
        for number in range(5):
            await a.open(f"s{number}")
            await a.step(f"s{number}", 1)
        with slow.held("commit") as held:
            leaving = asyncio.create_task(a.service.leave())
            await asyncio.to_thread(held.await_call)
            elsewhere = asyncio.create_task(b.step("s0", 1))
            await b.until(lambda: slow.calls["claim"] > 0)
            a.residency.give_up(["s0"])
            assert not a.in_memory("s0")
        await leaving
        assert await elsewhere == [2]


async def test_a_session_that_goes_while_a_server_looks_through_the_idle_ones_is_no_fault(slow, clock):
    limits = Limits(idle_life_s=100)
    async with replica(slow, clock=clock, limits=limits) as a, replica(slow, clock=clock, name="b") as b:
        for name in ("first", "gone", "closed", "busy", "rewound"):
            await a.open(name)
            await a.step(name, 1)
        await live_on(clock, 101, a, b)
        with slow.held("end") as held:
            expiring = asyncio.create_task(a.service.expire_sessions())
            await asyncio.to_thread(held.await_call)
            a.residency.give_up(["gone"])
            closing = asyncio.create_task(a.service.close_session("closed"))
            rewinding = asyncio.create_task(a.service.rewind_session("rewound", 1))
            busy = a.begin("busy", 1)
            await asyncio.sleep(0.01)
        await expiring
        await closing
        await rewinding
        assert await busy == [2]
        assert (await a.service.get_session("busy")).next_step == 2
        assert (await a.service.get_session("rewound")).next_step == 1
        for name in ("first", "gone"):
            with pytest.raises(SessionExpired):
                await b.step(name, 1)


async def test_what_is_not_this_servers_any_more_does_not_expire_here(store, clock):
    limits = Limits(idle_life_s=LEASE_S + 10)
    async with replica(store, clock=clock, limits=limits) as a, replica(store, clock=clock, name="b") as b:
        await taken_over(a, b, clock, steps=1)
        clock.pass_(20)
        await b.keeper.give_word()
        await a.service.expire_sessions()
        assert await b.step("s", 1) == [13]


@pytest.mark.parametrize("times", range(3))
async def test_two_servers_that_are_asked_by_turns_and_at_once_make_every_step_once(store, clock, times):
    async with (
        replica(store, clock=clock, polls=True, handover_s=10) as a,
        replica(store, clock=clock, name="b", polls=True, handover_s=10) as b,
    ):
        await a.open()

        async def client(server, numbers):
            for number in numbers:
                while True:
                    try:
                        assert await server.step("s", number, first=number) == [number * (number + 1) / 2]
                        break
                    except (StepAhead, OwnedElsewhere):
                        await asyncio.sleep(0.001)

        await asyncio.gather(client(a, range(0, 12, 2)), client(b, range(1, 12, 2)))
        assert store.read("s").next_step == 12


async def test_sessions_asked_for_meanwhile_are_claimed_in_one_go(slow, clock, monkeypatch):
    async with replica(slow, clock=clock) as a:
        for number in range(6):
            await a.open(f"s{number}")
            await a.step(f"s{number}", 1)
            await a.rest(f"s{number}")
        groups = []
        claim_all = FaultyStore.claim_all

        def counted(store, session_ids, **more):
            groups.append(len(session_ids))
            return claim_all(store, session_ids, **more)

        monkeypatch.setattr(FaultyStore, "claim_all", counted)
        with slow.held("claim") as held:
            first = a.begin("s0", 1)
            await asyncio.to_thread(held.await_call)
            others = [a.begin(f"s{number}", number) for number in range(1, 6)]
            await asyncio.sleep(0)
        assert [await one for one in (first, *others)] == [[2], [2], [3], [4], [5], [6]]
        assert groups == [1, 5]


async def test_one_that_cannot_be_claimed_fails_alone(slow, clock):
    async with replica(slow, clock=clock) as a:
        await a.open("kept")
        await a.step("kept", 1)
        await a.open("closed")
        await a.service.close_session("closed")
        await a.rest("kept")
        with slow.held("claim") as held:
            first = a.begin("kept", 1)
            await asyncio.to_thread(held.await_call)
            ended, unknown = a.begin("closed", 1), a.begin("never", 1)
        assert await first == [2]
        with pytest.raises(SessionClosed):
            await ended
        with pytest.raises(SessionUnknown):
            await unknown


async def test_who_leaves_while_many_are_claimed_gives_its_own_back(slow, clock):
    async with replica(slow, clock=clock) as a, replica(slow, clock=clock, name="b", handover_s=0.05) as b:
        for name in ("first", "left", "stays"):
            await a.open(name)
            await a.step(name, 1)
            await a.rest(name)
        with slow.held("claim") as held:
            first = a.begin("first", 1)
            await asyncio.to_thread(held.await_call)
            left = asyncio.create_task(a.residency.find("left"))
            stays = a.begin("stays", 1)
            await asyncio.sleep(0)
            left.cancel()
        assert [await first, await stays] == [[2], [2]]
        assert not a.in_memory("left")
        assert await b.step("left", 1) == [2]


async def test_when_one_session_is_had_those_that_wait_for_the_same_server_ask_at_once(store, clock, monkeypatch):
    monkeypatch.setattr("ntm_serve.claims.ASK_AGAIN_S", 30.0)
    async with replica(store, clock=clock) as a, replica(store, clock=clock, name="b", handover_s=60) as b:
        for name in ("s", "t"):
            await a.open(name)
            await a.step(name, 1)
        patient = b.begin("s", 1)
        await b.until(lambda: b.residency._claims._waiting)
        monkeypatch.setattr("ntm_serve.claims.ASK_AGAIN_S", 0.002)
        eager = b.begin("t", 1)
        await b.until(lambda: len(b.residency._claims._waiting["a"]) == 2)
        a.residency.put_to_rest(list(a.sessions), reason="wanted")
        async with asyncio.timeout(10):
            assert [await eager, await patient] == [[2], [2]]
        assert not b.residency._claims._waiting
