"""Watching sessions that leave memory, come back, and go to other servers."""

import asyncio
import gc
import weakref
from contextlib import aclosing

import numpy as np
import pytest

from ntm_serve.durability import Durability
from ntm_serve.errors import ModelUnknown, OwnedElsewhere, ServerDraining, SessionClosed, StoreUnavailable
from ntm_serve.picture import Frame
from ntm_serve.testing import RunningSum
from ntm_serve.watching import Wish

from .replicas import replica


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """What is looked at once a second is looked at at once."""
    monkeypatch.setattr("ntm_serve.watching.LOOK_S", 0.02)
    monkeypatch.setattr("ntm_serve.watching.PULSE_S", 0.2)


def total(frame):
    return frame.state[0].array.tolist()


async def next_frame(seen):
    """The next frame; where the session stands is passed over."""
    async with asyncio.timeout(20):
        while not isinstance(one := await anext(seen), Frame):
            pass
    return one


async def until_it_ends(seen):
    while True:
        await next_frame(seen)


def watching(server, name="s", **wish):
    return aclosing(server.service.watch(name, Wish(frames_per_s=30, **wish)))


async def test_a_session_in_the_store_is_shown_and_not_woken(store, clock):
    async with replica(store, clock=clock) as a:
        await a.open()
        await a.step("s", 1, 2, 3)
        await a.rest("s")
        async with watching(a) as seen:
            view = await anext(seen)
            assert (view.resident, view.next_step) == (False, 3)
            frame = await next_frame(seen)
            assert (total(frame), frame.next_step, frame.resident) == ([6.0], 3, False)
            assert frame.inputs[0].array.ravel().tolist() == [1.0, 2.0, 3.0]
            # Now and then where it stands, and still nobody has woken it.
            async with asyncio.timeout(20):
                assert not (await anext(seen)).resident
        assert not a.in_memory("s")
        assert "restored" not in a.seen.told


async def test_a_session_that_rests_is_told_so_and_is_live_again_when_it_comes_back(store, clock):
    async with replica(store, clock=clock) as a:
        await a.open()
        await a.step("s", 1)
        async with watching(a) as seen:
            assert (await anext(seen)).resident
            assert total(await next_frame(seen)) == [1.0]
            await a.rest("s")
            async with asyncio.timeout(20):
                assert not (await anext(seen)).resident
            assert not a.in_memory("s")
            assert await a.step("s", 4) == [5.0]
            frame = await next_frame(seen)
            while frame.next_step < 2:
                frame = await next_frame(seen)
            assert (total(frame), frame.resident) == ([5.0], True)


async def test_it_ends_at_a_server_whose_session_another_takes_and_goes_on_there(store, clock):
    async with (
        replica(store, clock=clock, polls=True, handover_s=10) as a,
        replica(store, clock=clock, name="b", polls=True, handover_s=10) as b,
    ):
        await a.open()
        await a.step("s", 1)
        async with watching(a) as seen:
            assert total(await next_frame(seen)) == [1.0]
            assert await b.step("s", 2) == [3.0]
            with pytest.raises(OwnedElsewhere) as moved:
                await until_it_ends(seen)
            assert moved.value.fields == {"owner": "b"}
        async with watching(b) as seen:
            assert (await anext(seen)).resident
            assert total(await next_frame(seen)) == [3.0]
        assert a.sessions.viewers == b.sessions.viewers == 0


async def test_what_another_server_has_is_followed_and_not_taken_from_it(store, clock):
    async with (
        replica(store, clock=clock, polls=True, handover_s=10) as a,
        replica(store, clock=clock, name="b", polls=True, handover_s=10) as b,
    ):
        await a.open()
        await a.step("s", 1)
        async with watching(b) as seen:
            assert not (await anext(seen)).resident
            assert total(await next_frame(seen)) == [1.0]
            for number in range(2, 6):
                await a.step("s", 1)
                frame = await next_frame(seen)
                assert (total(frame), frame.next_step, frame.resident) == ([float(number)], number, False)
        assert a.in_memory("s")
        assert not b.in_memory("s")
        assert not [word for word in a.seen.told if word.startswith("left")]


async def test_it_ends_when_another_server_closes_the_session(store, clock):
    async with (
        replica(store, clock=clock, polls=True, handover_s=10) as a,
        replica(store, clock=clock, name="b", polls=True, handover_s=10) as b,
    ):
        await a.open()
        async with watching(b) as seen:
            await next_frame(seen)
            await a.service.close_session("s")
            with pytest.raises(SessionClosed):
                await next_frame(seen)


async def test_a_session_that_is_rewound_is_shown_as_it_was(store, clock):
    async with replica(store, clock=clock) as a:
        await a.open()
        await a.step("s", 1)
        await a.step("s", 2)
        async with watching(a) as seen:
            assert total(await next_frame(seen)) == [3.0]
            await a.service.rewind_session("s", 0)
            frame = await next_frame(seen)
            assert (total(frame), frame.next_step) == ([0.0], 0)
            assert frame.inputs[0].array.shape == (0, 1)


async def test_it_ends_when_the_server_stops(store, clock):
    async with replica(store, clock=clock) as a:
        await a.open()
        async with watching(a) as seen:
            await next_frame(seen)
            a.service.drain()
            with pytest.raises(ServerDraining):
                await next_frame(seen)
        with pytest.raises(ServerDraining):
            await anext(a.service.watch("s", Wish()))


async def test_an_empty_memory_is_shown_of_a_session_that_made_no_step(store, clock):
    async with replica(store, clock=clock) as a:
        await a.open(durability=Durability.PROCESS)
        await a.rest("s")
        frame = await a.service.look("s", Wish())
        assert (total(frame), frame.next_step, frame.resident) == ([0.0], 0, False)
        step, state = await a.service.look_whole("s", ["memory"])
        assert (step, list(state)) == (0, ["total"])
        np.testing.assert_array_equal(state["total"], [0.0])


async def test_a_model_that_is_not_served_here_cannot_be_shown(store, clock):
    async with (
        replica(store, RunningSum(), clock=clock) as a,
        replica(store, RunningSum(name="other"), clock=clock, name="b") as b,
    ):
        await a.open()
        with pytest.raises(ModelUnknown):
            await b.service.look("s", Wish())


async def test_a_store_that_does_not_answer_ends_what_only_it_could_show(slow, clock):
    async with replica(slow, clock=clock, patience_s=0.02) as a:
        await a.open()
        await a.rest("s")
        async with watching(a) as seen:
            await next_frame(seen)
            slow.down = True
            try:
                with pytest.raises(StoreUnavailable):
                    await next_frame(seen)
            finally:
                slow.down = False


async def test_whoever_watches_does_not_keep_a_session_in_memory_after_it_is_gone(store, clock):
    async with replica(store, clock=clock) as a:
        await a.open()
        async with watching(a) as seen:
            await next_frame(seen)
            assert a.sessions.get("s").watch is not None
        assert a.sessions.get("s").watch is None
        assert a.sessions.viewers == 0


async def test_a_frame_that_is_held_keeps_no_state_that_was_replaced(store, clock):
    async with replica(store, clock=clock) as a:
        await a.open()
        await a.step("s", 1)
        async with watching(a) as seen:
            await anext(seen)
            before = weakref.ref(a.sessions.get("s").state.block.arrays[0])
            frame = await next_frame(seen)
            await a.step("s", 2)
            gc.collect()
            assert total(frame) == [1.0]
            assert before() is None
