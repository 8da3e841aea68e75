"""What only the aio client promises: async inputs, cancellation, loops that are left without a word."""

import asyncio

import numpy as np
import pytest

from ntm_serve.client import AsyncClient
from ntm_serve.testing import Gate, RunningSum, test_server

ONE = np.ones(1, np.float32)


@pytest.fixture
async def session(server):
    async with AsyncClient(server.target) as client, client.session("running-sum") as session:
        yield session


def endless():
    while True:
        yield ONE


async def test_a_loop_that_is_left_leaves_the_session_usable(session):
    async for _ in session.stream(endless()):
        while (await session.info()).next_step < 10:
            pass
        break
    y = await session.step(ONE)
    assert y.tolist() == [session.next_step]
    assert (await session.info()).steps_in_flight == 0


async def test_inputs_may_come_as_an_async_iterable(session):
    async def xs():
        for number in range(5):
            await asyncio.sleep(0)
            yield [number]

    assert [y.tolist() async for y in session.stream(xs(), steps_per_message=2)] == [[0], [1], [3], [6], [10]]


async def test_an_output_does_not_wait_for_an_input_that_is_not_there_yet(session):
    given: asyncio.Queue = asyncio.Queue()

    async def xs():
        while (x := await given.get()) is not None:
            yield x

    ys = session.stream(xs())
    for number in range(3):
        given.put_nowait(ONE)
        assert (await anext(ys)).tolist() == [number + 1]
    given.put_nowait(None)
    assert [y async for y in ys] == []


async def test_a_loop_is_left_while_its_inputs_wait(session):
    async def xs():
        yield ONE
        await asyncio.Event().wait()

    async for y in session.stream(xs()):
        assert y.tolist() == [1]
        break
    assert (await session.step(ONE)).tolist() == [2]


async def test_a_fault_of_async_inputs_reaches_the_caller(session):
    async def xs():
        yield ONE
        raise KeyError("mine")

    ys = session.stream(xs())
    assert (await anext(ys)).tolist() == [1]
    with pytest.raises(KeyError, match="mine"):
        await anext(ys)
    assert (await session.step(ONE)).tolist() == [2]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_cancelled_caller_leaves_no_step_in_flight(streamed):
    gate = Gate()
    with test_server([RunningSum(before_run=gate)]) as server:
        async with AsyncClient(server.target) as client:
            session = await client.session("running-sum", session_id="a")
            waiting = asyncio.ensure_future(anext(session.stream(endless())) if streamed else session.step(ONE))
            while not (await session.info()).steps_in_flight:
                pass
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            assert waiting.cancelled()
            while (await session.info()).steps_in_flight:
                pass
            gate.open()
            again = await client.session("running-sum", session_id="a", resume=True)
            assert (await again.step(ONE)).tolist() == [again.next_step]


async def test_many_sessions_step_at_once_over_one_client(server):
    async with AsyncClient(server.target) as client:
        sessions = [await client.session("running-sum") for _ in range(32)]
        for turn in range(1, 4):
            ys = await asyncio.gather(*(session.step([number]) for number, session in enumerate(sessions)))
            assert [y.tolist() for y in ys] == [[number * turn] for number in range(32)]


async def test_no_task_is_left_after_the_client(server):
    before = asyncio.all_tasks()
    async with AsyncClient(server.target) as client, await client.session("running-sum") as session:
        async for _ in session.stream(endless()):
            break
        await session.step(ONE)
    left = asyncio.all_tasks() - before
    await asyncio.wait_for(asyncio.gather(*left, return_exceptions=True), 5)
