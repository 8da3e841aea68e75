"""What is made for sizes: once, whoever waits; and what nobody uses makes room."""

import asyncio

import pytest

from ntm_serve.errors import LimitReached, ModelRejected
from ntm_serve.sizing import FAULT_LIFE_S, FAULTS_MAX, Sizing, Use
from ntm_serve.testing import ManualClock


class Made:
    def __init__(self, sizes):
        self.sizes = sizes
        self.use = Use()

    @property
    def is_unused(self):
        return not self.use.count


class Making:
    """Makes when it may, and counts."""

    def __init__(self, sizes_max=2):
        self.may = asyncio.Event()
        self.made, self.dropped, self.at_work, self.most_at_work = [], [], 0, 0
        self.fault = None
        self.clock = ManualClock()
        self.sizing = Sizing(
            self.make, sizes_max=sizes_max, refuse=self.refuse, dropped=self.dropped.append, clock=self.clock
        )

    async def make(self, sizes):
        self.made.append(sizes)
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        await self.may.wait()
        self.at_work -= 1
        if self.fault is not None:
            raise self.fault
        return Made(sizes)

    def refuse(self, sizes, there_are):
        raise LimitReached(f"{sizes} and {there_are}")

    def of(self, size, *, comes_back=False):
        return asyncio.ensure_future(self.sizing.of((("slots", size),), comes_back=comes_back))


async def turns():
    for _ in range(10):
        await asyncio.sleep(0)


async def test_whoever_leaves_does_not_end_the_making():
    making = Making()
    waiting = making.of(1)
    await turns()
    waiting.cancel()
    await turns()
    again, another = making.of(1), making.of(1)
    making.may.set()
    assert await again is await another is await making.of(1)
    assert making.made == [(("slots", 1),)]


async def test_whoever_asks_is_told_when_nothing_of_a_size_is_being_made_any_more():
    making, told = Making(), []
    waiting = making.of(1)
    await turns()
    making.sizing.once_made((("slots", 1),), lambda: told.append("made"))
    making.sizing.once_made((("slots", 2),), lambda: told.append("never"))
    waiting.cancel()
    await turns()
    assert told == ["never"]
    making.may.set()
    await turns()
    assert told == ["never", "made"]


async def test_one_is_made_at_a_time_and_no_more_wait_than_there_may_be():
    making = Making()
    waiting = [making.of(1), making.of(2), making.of(1)]
    await turns()
    with pytest.raises(LimitReached, match="2"):
        await making.of(3)
    making.may.set()
    assert len({(await one).sizes for one in waiting}) == 2
    assert making.most_at_work == 1


async def test_the_longest_unused_makes_room_and_what_is_used_stays():
    making = Making()
    making.may.set()
    first, second = await making.of(1), await making.of(2)
    await making.of(1)
    await making.of(3)
    assert making.dropped == [second]
    with first.use.one_more():
        third = await making.of(3)
        await making.of(4)
        assert making.dropped == [second, third]
        with (await making.of(4)).use.one_more():
            with pytest.raises(LimitReached):
                await making.of(5)
            back = await making.of(5, comes_back=True)
            assert list(making.sizing.made.values())[-1] is back
            assert len(making.sizing.made) == 3
    await making.of(6)
    assert len(making.sizing.made) == 2


async def test_what_could_not_be_made_is_told_to_all_and_tried_again_after_a_while():
    making = Making()
    making.fault = ModelRejected("not finite")
    waiting = [making.of(1), making.of(1)]
    making.may.set()
    for one in waiting:
        with pytest.raises(ModelRejected):
            await one
    making.fault = None
    making.clock.advance(FAULT_LIFE_S - 1)
    with pytest.raises(ModelRejected, match="not finite"):
        await making.of(1)
    assert len(making.made) == 1
    assert (await making.of(2)).sizes == (("slots", 2),)
    making.clock.advance(2)
    assert (await making.of(1)).sizes == (("slots", 1),)
    assert len(making.made) == 3


async def test_a_session_that_comes_back_is_not_refused_for_what_failed_before():
    making = Making()
    making.fault = ModelRejected("no memory")
    making.may.set()
    with pytest.raises(ModelRejected):
        await making.of(1)
    making.fault = None
    made = await making.of(1, comes_back=True)
    assert await making.of(1) is made


async def test_no_more_faults_are_remembered_than_there_may_be():
    making = Making(sizes_max=10_000)
    making.fault = ModelRejected("not finite")
    making.may.set()
    for size in range(FAULTS_MAX + 1):
        with pytest.raises(ModelRejected):
            await making.of(size)
    making.fault = None
    with pytest.raises(ModelRejected):
        await making.of(1)
    assert (await making.of(0)).sizes == (("slots", 0),)


async def test_there_is_one_of_a_size_though_it_made_room_before_whoever_waited_came_to_it():
    making = Making(sizes_max=1)
    making.may.set()
    waiting = making.of(1)
    while (("slots", 1),) not in making.sizing.made:  # noqa: ASYNC110 - the very turn of the loop matters
        await asyncio.sleep(0)
    another = making.of(2)  # For which the first makes room, as nobody has it in use yet.
    again = making.of(1, comes_back=True)
    first = await waiting
    with first.use.one_more():
        await another
        assert await again is first is await making.of(1)
