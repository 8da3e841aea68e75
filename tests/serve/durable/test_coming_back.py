"""Sessions leave memory, or their server dies, and come back as they were: bit for bit, in order, once."""

import asyncio
import contextlib
from functools import partial

import numpy as np
import pytest

from ntm_models.tasks import Copy
from ntm_serve.app import load_models
from ntm_serve.durability import Durability
from ntm_serve.errors import (
    SessionClosed,
    SessionEvicted,
    SessionExists,
    SessionUnknown,
    StepAborted,
    StepAhead,
    StepConflict,
    StepForgotten,
)
from ntm_serve.keeping import Retention
from ntm_serve.message import StepRequest
from ntm_serve.residency import BUSY_S
from ntm_serve.sessions import Limits
from ntm_serve.testing import Gate, RunningSum

from .replicas import CompanySum, message, replica

PATHS = pytest.mark.parametrize("leaves", [False, True], ids=["killed", "stopped"])


@PATHS
@pytest.mark.parametrize("model", [RunningSum, CompanySum])
async def test_a_restart_changes_nothing_and_every_reply_of_the_window_is_still_there(store, clock, model, leaves):
    said, server = {}, partial(
        replica, store, clock=clock, limits=Limits(window_messages=4), retention=Retention(snapshot_steps=3)
    )  # fmt: skip
    async with server(model(), leaves=leaves) as a:
        await a.open()
        for number in range(10):
            said[number] = await a.step("s", number + 0.1)
        oldest = (await a.service.get_session("s")).oldest_step
        assert oldest == 6
    async with server(model()) as a:
        for number in range(oldest, 10):
            assert await a.step("s", number + 0.1, first=number) == said[number]
        with pytest.raises(StepConflict):
            await a.step("s", 77, first=9)
        with pytest.raises(StepForgotten):
            await a.step("s", 0.1, first=0)
        total = np.float32(0)
        for number in range(10):
            total += np.float32(number + 0.1)
        (_, state) = await a.service.get_state("s", ["*"])
        assert state["total"][0] == total
        assert (await a.step("s", 0))[0] == pytest.approx(float(total), abs=0.1)
        assert "differed" not in a.seen.told


async def test_a_retry_from_before_what_a_session_came_back_with_is_answered_all_the_same(store, clock):
    server = partial(replica, store, clock=clock, retention=Retention(snapshot_steps=3))
    async with server() as a:
        await a.open()
        said = [await a.step("s", number) for number in range(10)]
    async with server() as a:
        assert await a.step("s", 0, first=10) == said[9]
        assert (await a.service.get_session("s")).oldest_step > 2
        assert await a.step("s", 2, first=2) == said[2]
        assert await a.step("s", 9, first=9) == said[9]
        assert a.seen.told == ["restored", "left: retry", "restored"]


async def test_a_trained_model_comes_back_bit_for_bit_at_every_step(store, clock, zoo, tmp_path):
    (tmp_path / "copy-ff").symlink_to(zoo / "copy-ff")
    models = load_models(tmp_path, batch_max=16).models
    x = Copy().episodes(length=6, sequences=1, seed=5).x

    def steps(at, end):
        return StepRequest(["s"], [at], {"x": x[:, at:end]})

    async with replica(store, *models, clock=clock) as a:
        await a.open("s", "copy-ff", durability=Durability.MEMORY)
        whole = await a.service.step(steps(0, x.shape[1]))
        (_, state) = await a.service.get_state("s", ["*"])
    async with replica(store, *models, clock=clock) as a:
        await a.open("s", "copy-ff")
    rows = [array for _, array in whole.outputs()]
    for at in range(x.shape[1]):
        async with replica(store, *models, clock=clock, retention=Retention(snapshot_steps=5)) as a:
            if at:
                again = await a.service.step(steps(at - 1, at))
                assert [array.tobytes() for _, array in again.outputs()] == [
                    row[:, at - 1 : at].tobytes() for row in rows
                ]
            made = await a.service.step(steps(at, at + 1))
            assert not made.errors
            assert [array.tobytes() for _, array in made.outputs()] == [row[:, at : at + 1].tobytes() for row in rows]
            assert "differed" not in a.seen.told
    async with replica(store, *models, clock=clock) as a:
        (_, back) = await a.service.get_state("s", ["*"])
    assert {name: array.tobytes() for name, array in back.items()} == {
        name: array.tobytes() for name, array in state.items()
    }


async def test_the_window_after_coming_back_lets_go_message_by_message(store, clock):
    limits = Limits(window_messages=4)
    async with replica(store, clock=clock, limits=limits) as a:
        await a.open()
        for number in range(6):
            await a.step("s", 1, first=number)
        await a.rest("s")
        assert await a.step("s", 1, first=5) == [6]
        assert await a.step("s", 1, first=6) == [7]
        # As without the rest: the last four messages are there.
        assert await a.step("s", 1, first=3) == [4]


async def test_a_small_window_keeps_the_step_before_the_last_over_coming_back(store, clock):
    limits = Limits(window_bytes_max=16)  # Two steps.
    async with replica(store, clock=clock, limits=limits) as a:
        await a.open()
        for number in range(5):
            await a.step("s", 1, first=number)
        await a.rest("s")
        assert await a.step("s", 1, first=4) == [5]
        assert await a.step("s", 1, first=5) == [6]
        assert await a.step("s", 1, first=4) == [5]


async def test_steps_that_come_while_a_session_comes_back_keep_their_order(store, clock):
    async with replica(store, clock=clock) as a:
        await a.open()
        await a.step("s", 1)
        await a.rest("s")
        answers = [a.begin("s", 1, first=number) for number in (1, 2, 3)]
        answers += [a.begin("s", 1) for _ in range(3)]
        assert [await answer for answer in answers] == [[2], [3], [4], [5], [6], [7]]
        assert a.seen.told.count("restored") == 1


async def test_a_message_does_not_overtake_those_that_wait_for_a_session_which_another_call_brings_back(slow, clock):
    async with replica(slow, clock=clock) as a:
        await a.open()
        await a.step("s", 1)
        await a.rest("s")
        looking = asyncio.create_task(a.service.get_state("s", ["*"]))
        await asyncio.sleep(0)
        first = a.begin("s", 1, first=1)
        later = []

        def look():
            if not a.in_memory("s"):
                asyncio.get_running_loop().call_soon(look)
            else:
                later.append(a.begin("s", 1, first=2))

        look()
        await looking
        assert await first == [2]
        await a.until(lambda: later)
        assert await later[0] == [3]


async def test_a_session_that_left_comes_back_for_every_kind_of_question(store, clock):
    async with replica(store, clock=clock) as a:
        await a.open()
        await a.step("s", 1, 2)
        for ask in (
            lambda: a.service.get_state("s", ["*"]),
            lambda: a.service.snapshot_session("s"),
            lambda: a.service.fork_session("s"),
            lambda: a.service.rewind_session("s", 2),
            lambda: a.open("s", resume=True),
            lambda: a.service.close_session("s"),
        ):
            await a.rest("s")
            view = await a.service.get_session("s")
            assert (view.next_step, view.resident, view.durable_step) == (2, False, 2)
            await ask()
        with pytest.raises(SessionClosed):
            await a.step("s", 1)


async def test_what_is_looked_at_in_the_store_is_as_it_was_in_memory(store, clock):
    async with replica(store, clock=clock, retention=Retention(snapshot_steps=2)) as a:
        await a.open()
        for _ in range(5):
            await a.step("s", 1)
        here = await a.service.get_session("s")
        await a.rest("s")
        there = await a.service.get_session("s")
        assert (here.oldest_retained_step, there.oldest_retained_step) == (0, 0)
        assert here._replace(
            resident=False, open_for_s=0, idle_for_s=0, oldest_step=0
        ) == there._replace(open_for_s=0, idle_for_s=0, oldest_step=0)  # fmt: skip


async def test_a_step_whose_caller_leaves_while_the_store_keeps_it_is_made_and_told_to_who_asks_again(slow, clock):
    async with replica(slow, clock=clock) as a:
        await a.open()
        with slow.held("commit") as held:
            answer = a.begin("s", 5, first=0)
            await asyncio.to_thread(held.await_call)
            a.begun.cancel()
        await a.service.until_idle()
        assert (await a.service.get_session("s")).next_step == 1
        assert not answer.done()
        assert await a.step("s", 5, first=0) == [5]
        assert await a.step("s", 1, first=1) == [6]


async def test_a_step_whose_caller_leaves_before_it_ran_is_not_made(store, clock):
    gate = Gate()
    async with replica(store, RunningSum(before_run=gate), clock=clock) as a:
        await a.open()
        a.begin("s", 5, first=0)
        await asyncio.to_thread(gate.await_run)
        a.begun.cancel()
        gate.open()
        assert await a.step("s", 1, first=0) == [1]
        assert store.read("s").next_step == 1


async def test_steps_that_wait_for_the_store_are_not_begun_before_it_answered(slow, clock):
    model = RunningSum()
    async with replica(slow, model, clock=clock) as a:
        for name in "st":
            await a.open(name)
        with slow.held("commit") as held:
            first, second = a.begin("s", 1), a.begin("s", 1)
            await asyncio.to_thread(held.await_call)
            other = a.begin("t", 3)
            await a.until(lambda: len(model.batches) == 2)
            assert not any(answer.done() for answer in (first, second, other))
            assert (await a.service.get_session("s")).next_step == 0
        assert await asyncio.gather(first, second, other) == [[1], [2], [3]]


async def test_steps_of_a_caller_that_leaves_while_a_session_comes_back_are_not_made(slow, clock):
    async with replica(slow, clock=clock) as a:
        await a.open()
        await a.step("s", 1)
        await a.rest("s")
        with slow.held("claim") as held:
            a.begin("s", 10)
            gone = a.begun
            stays = a.begin("s", 1, first=1)
            await asyncio.to_thread(held.await_call)
            gone.cancel()
        assert await stays == [2]


async def test_a_name_that_is_opened_twice_at_once_is_opened_once(store, clock):
    async with replica(store, clock=clock) as a:
        results = await asyncio.gather(*[a.open() for _ in range(5)], return_exceptions=True)
        assert [type(one).__name__ for one in results].count("SessionView") == 1
        assert sum(isinstance(one, SessionExists) for one in results) == 4
        views = await asyncio.gather(*[a.open("t", resume=True) for _ in range(5)])
        assert {view.session_id for view in views} == {"t"}


async def test_two_servers_that_open_a_name_at_once_open_one_session(store, clock):
    async with replica(store, clock=clock) as a, replica(store, clock=clock, name="b") as b:
        results = await asyncio.gather(a.open(), b.open(), return_exceptions=True)
        assert sorted(type(one).__name__ for one in results) == ["SessionExists", "SessionView"]


async def test_opening_a_name_that_another_server_has_does_not_take_the_session_from_it(store, clock):
    async with replica(store, clock=clock) as a, replica(store, clock=clock, name="b", polls=True) as b:
        await a.open()
        await a.step("s", 1)
        with pytest.raises(SessionExists):
            await b.open()
        assert store.wanted("a") == []
        await a.rest("s")
        with pytest.raises(SessionExists):
            await b.open()
        assert not b.in_memory("s")


async def test_the_name_of_a_session_in_the_store_is_not_free_for_one_in_memory(store, clock):
    async with replica(store, clock=clock) as a:
        await a.open()
        await a.rest("s")
        with pytest.raises(SessionExists):
            await a.open(durability=Durability.MEMORY)
        await a.service.close_session("s")
        assert (await a.open(durability=Durability.MEMORY)).durability is Durability.MEMORY
        assert await a.step("s", 1) == [1]
        assert store.calls["commit"] == 0
    with pytest.raises(SessionClosed):
        store.read("s")


async def test_resuming_takes_up_what_a_dead_server_left(store, clock):
    async with replica(store, clock=clock) as a:
        await a.open()
        await a.step("s", 4)
    async with replica(store, RunningSum(), RunningSum(name="other"), clock=clock) as a:
        with pytest.raises(SessionExists):
            await a.open("s", "other", resume=True)
        assert (await a.open(resume=True)).next_step == 1


async def test_a_message_of_sessions_here_coming_back_unknown_and_in_memory_alone_answers_each(store, clock):
    async with replica(store, clock=clock) as a:
        for name in ("here", "away"):
            await a.open(name)
            await a.step(name, 1)
        await a.open("alone", durability=Durability.MEMORY)
        await a.rest("away")
        submission = await a.service.step(message(["here", "away", "nobody", "alone"], [[1], [2], [3], [4]]))
        assert {place: type(error) for place, error in submission.errors.items()} == {2: SessionUnknown}
        ((_, y),) = submission.outputs()
        assert y[[0, 1, 3], 0, 0].tolist() == [2, 3, 4]
        assert submission.next_steps == [2, 2, 0, 1]
        assert submission.durable_steps == [2, 2, 0, 0]


async def test_a_number_beyond_what_the_store_has_is_refused_after_coming_back(store, clock):
    async with replica(store, clock=clock) as a:
        await a.open()
        await a.step("s", 1)
        await a.rest("s")
        with pytest.raises(StepAhead, match="expected step 1, got 5"):
            await a.step("s", 1, first=5)


async def test_a_message_that_was_made_in_part_goes_on_after_a_restart_and_its_old_steps_are_not_run_again(
    store, clock
):
    async with replica(store, clock=clock) as a:
        await a.open()
        await a.step("s", 1, 2)
    async with replica(store, clock=clock) as a:
        assert await a.step("s", 1, 2, 3, 4, first=0) == [1, 3, 6, 10]
        assert [(one.first_step, one.end_step) for one in store.read("s").records] == [(0, 2), (2, 4)]


# Room in memory


async def test_when_memory_is_full_the_least_used_leave_and_come_back(store, clock):
    async with replica(store, clock=clock, resident_bytes_max=5 * 4) as a:
        names = [f"s{number}" for number in range(20)]
        for name in names:
            await a.open(name)
            await a.step(name, 1)
            assert len(a.sessions) <= 5
        assert not a.in_memory("s0")
        for round_ in (2, 3):
            for name in names:
                assert await a.step(name, 1) == [round_]
                assert len(a.sessions) <= 5


async def test_sessions_brought_back_to_be_looked_at_make_room_too(store, clock):
    async with replica(store, clock=clock, resident_bytes_max=5 * 4) as a:
        for number in range(20):
            await a.open(f"s{number}")
        for number in range(20):
            await a.service.get_state(f"s{number}", ["*"])
            assert len(a.sessions) <= 5


async def test_a_session_in_memory_alone_leaves_last_and_is_told_to_be_evicted(store, clock):
    async with replica(store, clock=clock, resident_bytes_max=2 * 4) as a:
        await a.open("alone", durability=Durability.MEMORY)
        await a.open("kept")
        await a.open("new")
        assert [session.id for session in a.sessions] == ["alone", "new"]
        await a.open("m1", durability=Durability.MEMORY)
        await a.open("m2", durability=Durability.MEMORY)
        with pytest.raises(SessionEvicted, match="made room at step 0"):
            await a.step("alone", 1)
        assert await a.step("kept", 1) == [1]


async def test_a_session_with_steps_in_flight_does_not_leave_for_another(store, clock):
    gate = Gate()
    async with replica(store, RunningSum(before_run=gate), clock=clock, resident_bytes_max=4) as a:
        await a.open("busy")
        answer = a.begin("busy", 1)
        await asyncio.to_thread(gate.await_run)
        await a.open("new")
        assert a.in_memory("busy")
        gate.open()
        assert await answer == [1]


async def test_where_all_are_busy_room_is_made_a_little_later(store, clock):
    gate = Gate()
    async with replica(store, RunningSum(before_run=gate), clock=clock, resident_bytes_max=4) as a:
        await a.open("busy")
        answer = a.begin("busy", 1)
        await asyncio.to_thread(gate.await_run)
        for name in ("one", "two"):
            await a.open(name)
        assert a.in_memory("busy")
        assert a.in_memory("two")
        gate.open()
        assert await answer == [1]
        clock.pass_(BUSY_S)
        await a.open("three")
        assert {session.id for session in a.sessions} == {"three"}
        assert await a.step("busy", 1) == [2]


async def test_steps_in_flight_of_a_session_that_is_closed_while_the_store_keeps_them_are_answered(slow, clock):
    async with replica(slow, clock=clock) as a:
        await a.open()
        with slow.held("commit") as held:
            kept, waiting = a.begin("s", 1), a.begin("s", 1)
            await asyncio.to_thread(held.await_call)
            closing = asyncio.create_task(a.service.close_session("s"))
            for answer in (kept, waiting):
                with pytest.raises(SessionClosed):
                    await answer
        await closing
        with pytest.raises(SessionClosed):
            await a.step("s", 1)
        assert (await a.open()).next_step == 0


async def test_closing_while_a_session_comes_back_waits_for_it(slow, clock):
    async with replica(slow, clock=clock) as a:
        await a.open()
        await a.step("s", 1)
        await a.rest("s")
        with slow.held("claim") as held:
            step = a.begin("s", 1)
            closing = asyncio.create_task(a.service.close_session("s"))
            await asyncio.to_thread(held.await_call)
        await closing
        # Either came first; the step was made and is told, or it was not.
        with contextlib.suppress(SessionClosed):
            assert await step == [2]
        with pytest.raises(SessionClosed):
            slow.read("s")


async def test_closing_twice_at_once_tells_one_of_them(store, clock):
    async with replica(store, clock=clock) as a:
        await a.open()
        results = await asyncio.gather(*[a.service.close_session("s") for _ in range(3)], return_exceptions=True)
        assert sorted(type(one).__name__ for one in results) == ["SessionClosed", "SessionClosed", "SessionView"]


async def test_an_error_of_a_step_leaves_the_session_and_the_store_where_they_were(store, clock):
    async with replica(store, clock=clock) as a:
        await a.open()
        await a.step("s", 3e38)
        bad, follower = a.begin("s", 3e38), a.begin("s", 1)
        with pytest.raises(Exception, match="expected a finite next state"):
            await bad
        with pytest.raises(StepAborted):
            await follower
        assert store.read("s").next_step == 1
        await a.rest("s")
        assert await a.step("s", -3e38, first=1) == [0]


async def test_a_retry_that_comes_while_a_later_step_brings_its_session_back_is_answered(slow, clock):
    server = partial(replica, slow, clock=clock, retention=Retention(snapshot_steps=3))
    async with server() as a:
        await a.open()
        said = [await a.step("s", number) for number in range(10)]
    async with server() as a:
        with slow.held("claim") as held:
            later = a.begin("s", 9, first=9)
            await asyncio.to_thread(held.await_call)
            earlier = [a.begin("s", number, first=number) for number in (2, 7)]
        assert await later == said[9]
        assert [await one for one in earlier] == [said[2], said[7]]
