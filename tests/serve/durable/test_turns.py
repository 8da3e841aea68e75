"""Turns: one at a time for each name, in the order of asking, and nothing left over."""

import asyncio
import random

import pytest

from ntm_serve.turns import Turns


async def test_one_at_a_time_in_the_order_of_asking_and_other_names_meanwhile():
    turns, told = Turns(), []

    async def take(name, word):
        async with turns(name):
            told.append(f"{word} in")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            told.append(f"{word} out")

    await asyncio.gather(take("a", "1"), take("a", "2"), take("a", "3"), take("b", "other"))
    of_a = [word for word in told if "other" not in word]
    assert of_a == ["1 in", "1 out", "2 in", "2 out", "3 in", "3 out"]
    assert told.index("other in") < told.index("1 out")
    assert len(turns) == 0


async def test_a_name_is_known_while_somebody_has_or_awaits_its_turn():
    turns = Turns()
    async with turns("a"):
        assert "a" in turns
        assert "b" not in turns
    assert "a" not in turns


async def test_who_is_cancelled_while_waiting_leaves_the_turn_to_the_next():
    turns, told = Turns(), []

    async def take(word):
        async with turns("a"):
            told.append(word)

    async with turns("a"):
        tasks = [asyncio.create_task(take(word)) for word in "123"]
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[1].cancel()
        await asyncio.wait(tasks[:2])
        assert len(turns) == 1
    await tasks[2]
    assert told == ["3"]
    assert len(turns) == 0


async def test_who_is_cancelled_in_the_moment_of_getting_the_turn_passes_it_on():
    turns, told = Turns(), []

    async def take(word):
        async with turns("a"):
            told.append(word)

    async with turns("a"):
        tasks = [asyncio.create_task(take(word)) for word in "12"]
        await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.wait(tasks)
    assert told == ["2"]
    assert len(turns) == 0


async def test_an_error_inside_gives_the_turn_back():
    turns = Turns()
    with pytest.raises(ZeroDivisionError):
        async with turns("a", "b"):
            raise ZeroDivisionError
    assert len(turns) == 0


async def test_several_names_in_any_order_at_once_end_and_exclude_each_other():
    turns, choice, inside = Turns(), random.Random(3), set()

    async def take():
        names = choice.sample("abcde", choice.randint(1, 4))
        async with turns(*names, names[0]):
            assert not inside & set(names)
            inside.update(names)
            for _ in range(choice.randint(0, 3)):
                await asyncio.sleep(0)
            inside.difference_update(names)

    async with asyncio.timeout(20):
        tasks = [asyncio.create_task(take()) for _ in range(300)]
        for _ in range(20):
            await asyncio.sleep(0)
            choice.choice(tasks).cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert not [one for one in results if one is not None and not isinstance(one, asyncio.CancelledError)]
    assert len(turns) == 0
