"""Rows through models without state: the way of all steps, and nothing of them kept."""

import asyncio
import contextlib
import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serve.tickets import service_of

from ntm_serve.errors import (
    EngineFault,
    InvalidInput,
    LimitReached,
    ModelDamaged,
    ModelUnknown,
    ServerDraining,
    TooLarge,
)
from ntm_serve.message import StepRequest
from ntm_serve.observer import NoObserver
from ntm_serve.residency import ResidencySettings
from ntm_serve.scheduler import Scheduler
from ntm_serve.sessions import Limits
from ntm_serve.stateless import InferRequest, PassingSession, rows_of
from ntm_serve.step_model import ModelKey
from ntm_serve.testing import Doubling, Gate, ManualClock, RunningSum
from ntm_serve.testing.running_sum import FAILING_INPUT

DAMAGED = ModelDamaged("broken/1: model.onnx: expected another sha256")


class Bench:
    def __init__(self, models, executor, *, steps_waiting_max=1000, resident=None):
        self.executor, self.steps_waiting_max = executor, steps_waiting_max
        self.tasks = []
        self.service = service_of(
            [self.scheduler(model) for model in models],
            limits=Limits(),
            clock=ManualClock(),
            settings=ResidencySettings(resident_bytes_max=resident),
            faults={ModelKey("broken", "1"): DAMAGED},
            sessions_per_message_max=200,
            steps_per_message_max=100,
        )

    def scheduler(self, model):
        made = Scheduler(
            model,
            executor=self.executor,
            observer=NoObserver(),
            limits=Limits(),
            steps_waiting_max=self.steps_waiting_max,
            clock=ManualClock(),
        )
        self.tasks.append(asyncio.create_task(made.run()))
        return made

    async def infer(self, values, model="doubling", **more):
        return (await self.service.infer(request(values, model, **more)))["y"][:, 0].tolist()

    def submit(self, values):
        return self.service.submit_rows(request(values), lambda *_: None)


@contextlib.asynccontextmanager
async def bench(*models, **options):
    with ThreadPoolExecutor(1) as executor:
        it = Bench(models or (Doubling(),), executor, **options)
        try:
            yield it
        finally:
            for task in it.tasks:
                task.cancel()
            await asyncio.gather(*it.tasks, return_exceptions=True)


def request(values, model="doubling", version="", **more):
    return InferRequest(model, version, {"x": np.array(values, np.float32).reshape(-1, 1)}, **more)


async def test_each_row_has_its_own_output_in_its_place():
    async with bench() as it:
        assert await it.infer([1, 2, 3]) == [2, 4, 6]


async def test_rows_of_one_request_ride_together_and_with_those_of_other_callers_and_sessions():
    gate = Gate()
    model = Doubling(before_run=gate)
    async with bench(model) as it:
        await it.service.open_session("doubling", session_id="s")
        first = asyncio.create_task(it.infer([1]))
        await asyncio.to_thread(gate.await_run)
        others = [asyncio.create_task(it.infer(values)) for values in ([2, 3], [4], [5, 6, 7])]
        step = asyncio.create_task(
            it.service.step(StepRequest(["s"], [None], {"x": np.full((1, 1, 1), 8, np.float32)}))
        )
        await asyncio.sleep(0)
        gate.open()
        assert [await first, *[await one for one in others]] == [[2], [4, 6], [8], [10, 12, 14]]
        assert (await step).outputs()[0][1].tolist() == [[[16]]]
        assert model.batches == [1, 7]


async def test_more_rows_than_a_batch_takes_are_several_runs():
    model = Doubling(batch_max=16)
    async with bench(model) as it:
        assert await it.infer(range(40)) == [2 * value for value in range(40)]
    assert model.batches == [16, 16, 8]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(0, 1000), min_size=1, max_size=70), min_size=1, max_size=12))
async def test_whatever_callers_ask_at_once_each_is_answered_with_its_own(requests):
    async with bench(Doubling(batch_max=16), steps_waiting_max=10_000) as it:
        answers = await asyncio.gather(*[it.infer(values) for values in requests])
        assert answers == [[2 * value for value in values] for values in requests]
        assert it.service.statistics().schedulers[ModelKey("doubling", "1")].steps_waiting == 0


async def test_a_row_that_fails_fails_its_request_and_no_other():
    gate = Gate()
    async with bench(Doubling(before_run=gate)) as it:
        first = asyncio.create_task(it.infer([1]))
        await asyncio.to_thread(gate.await_run)
        bad, good = asyncio.create_task(it.infer([2, FAILING_INPUT])), asyncio.create_task(it.infer([3, 4]))
        await asyncio.sleep(0)
        gate.open()
        assert await first == [2]
        with pytest.raises(EngineFault, match="was asked to fail"):
            await bad
        assert await good == [6, 8]


async def test_rows_that_fail_together_are_one_line_in_the_log(capsys):
    async with bench() as it:
        with pytest.raises(EngineFault):
            await it.infer([FAILING_INPUT] * 9)
    lines = [line for line in capsys.readouterr().out.splitlines() if "failed" in line]
    assert len(lines) == 1, lines
    assert "rows failed" in lines[0]
    assert "rows=9" in lines[0]


async def test_rows_whose_caller_left_are_not_run():
    gate = Gate()
    model = Doubling(before_run=gate)
    async with bench(model) as it:
        first = asyncio.create_task(it.infer([1]))
        await asyncio.to_thread(gate.await_run)
        left, stays = asyncio.create_task(it.infer(range(9))), asyncio.create_task(it.infer([5]))
        await asyncio.sleep(0)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        gate.open()
        assert [await first, await stays] == [[2], [10]]
        assert model.batches == [1, 1]
        assert it.service.statistics().schedulers[ModelKey("doubling", "1")].steps_waiting == 0


async def test_a_request_that_finds_no_room_is_refused_whole():
    gate = Gate()
    model = Doubling(before_run=gate)
    async with bench(model, steps_waiting_max=10) as it:
        first = asyncio.create_task(it.infer(range(8)))
        await asyncio.to_thread(gate.await_run)
        with pytest.raises(
            LimitReached, match=r"model doubling/1: expected at most 10 steps waiting, got 8 and 3 more"
        ):
            it.submit(range(3))
        fits = asyncio.create_task(it.infer([1, 2]))
        await asyncio.sleep(0)
        gate.open()
        assert len(await first) == 8
        assert await fits == [2, 4]
    assert sum(model.batches) == 10


async def test_more_rows_than_may_ever_wait_are_refused_for_good():
    async with bench(steps_waiting_max=10) as it:
        with pytest.raises(TooLarge, match="expected at most N = 10 rows, as many as may wait, got N = 11"):
            it.submit(range(11))


async def test_more_rows_than_a_message_may_have_are_refused_with_the_limit():
    async with bench() as it:
        with pytest.raises(TooLarge, match=r"expected 1 <= N <= 200 rows, got N = 201") as refused:
            it.service.submit_rows(InferRequest("doubling", "", {"x": np.zeros((201, 1), np.float32)}), lambda *_: None)
        assert refused.value.fields == {"limit": "sessions_per_message_max", "expected": "200", "actual": "201"}


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({"x": np.zeros((0, 1), np.float32)}, r"expected 1 <= N <= 200 rows, got N = 0"),
        ({"x": np.zeros((2, 3), np.float32)}, r"x: expected float32\[N, 1\], got float32\[2, 3\]"),
        ({"x": np.zeros((2, 1), np.float64)}, r"x: expected float32\[N, 1\], got float64\[2, 1\]"),
        ({"x": np.zeros((1,), np.float32)}, r"x: expected float32\[N, 1\], got float32\[1\]"),
        ({"x": np.float32(1)[()] * np.ones((), np.float32)}, r"x: expected float32\[N, 1\], got float32\[\]"),
        ({"z": np.zeros((1, 1), np.float32)}, r"inputs: expected \['x'\], got \['z'\]"),
        ({}, r"inputs: expected \['x'\], got \[\]"),
    ],
)
async def test_what_does_not_fit_is_refused_with_the_expected_and_the_actual(inputs, text):
    async with bench() as it:
        with pytest.raises(InvalidInput, match=text):
            it.service.submit_rows(InferRequest("doubling", "", inputs), lambda *_: None)


async def test_outputs_are_chosen_by_name():
    async with bench() as it:
        assert await it.infer([1], output_names=["y"]) == [2]
        with pytest.raises(InvalidInput, match="output_names: expected some of"):
            await it.infer([1], output_names=["memory"])


async def test_numbers_that_are_not_finite_pass():
    async with bench() as it:
        given = await it.infer([np.nan, np.inf, 1.0])
        assert np.isnan(given[0])
        assert given[1:] == [np.inf, 2.0]


async def test_a_model_with_state_says_what_it_wants_instead():
    async with bench(RunningSum(), Doubling()) as it:
        with pytest.raises(InvalidInput, match=r"model running-sum/1: has state.*Sessions\.Open.*sequence_id"):
            await it.infer([1], "running-sum")


async def test_models_that_are_not_served_are_refused():
    async with bench() as it:
        with pytest.raises(ModelUnknown):
            await it.infer([1], "nobody")
        with pytest.raises(ModelUnknown):
            await it.infer([1], version="2")
        with pytest.raises(ModelDamaged):
            await it.infer([1], "broken")
        it.service.drain()
        with pytest.raises(ServerDraining):
            await it.infer([1])


async def test_without_a_version_rows_go_to_the_highest_that_is_served_at_that_moment():
    first, second = Doubling(version="1"), Doubling(version="2")
    async with bench(first) as it:
        await it.infer([1])
        it.service.add_model(it.scheduler(second))
        await it.infer([1, 2])
        await it.infer([1, 2, 3], version="1")
        it.service.fault_model(ModelKey("doubling", "2"), DAMAGED)
        await it.infer([1, 2, 3, 4])
        with pytest.raises(ModelDamaged):
            await it.infer([1], version="2")
        it.service.offer_model(ModelKey("doubling", "2"))
        await it.infer([1, 2, 3, 4, 5])
        it.service.remove_model(ModelKey("doubling", "2"))
        await it.infer([1, 2, 3, 4, 5, 6])
    assert (first.batches, second.batches) == ([1, 3, 4, 6], [2, 5])


async def test_a_model_is_used_as_long_as_rows_of_it_wait():
    gate = Gate()
    async with bench(Doubling(before_run=gate)) as it:
        key = ModelKey("doubling", "1")
        assert not await it.service.is_used(key)
        running = asyncio.create_task(it.infer([1]))
        await asyncio.to_thread(gate.await_run)
        assert await it.service.is_used(key)
        gate.open()
        await running
        assert not await it.service.is_used(key)


async def test_nothing_of_a_request_is_left_without_the_garbage_collector():
    async with bench() as it:
        gc.collect()
        gc.disable()
        try:
            await it.infer(range(20))
            try:
                await it.infer([1, FAILING_INPUT])
            except EngineFault as fault:
                fault.__traceback__ = None  # As frontends do, when they have written it.
            # The thread that made a ride has forgotten it once it is at something else.
            await asyncio.get_running_loop().run_in_executor(it.executor, int)
            assert not [one for one in gc.get_objects() if type(one) is PassingSession]
        finally:
            gc.enable()
        assert it.service.statistics().sessions == {ModelKey("doubling", "1"): 0}


async def test_sessions_without_state_make_no_room_and_stay():
    async with bench(Doubling(), RunningSum(width=25), resident=1000) as it:
        for place in range(5):
            await it.service.open_session("doubling", session_id=f"d{place}")
        for place in range(12):
            await it.service.open_session("running-sum", session_id=f"r{place}")
        open_ids = {view.session_id for view in await it.service.list_sessions()}
        assert {f"d{place}" for place in range(5)} <= open_ids
        assert 5 <= len(open_ids) - 5 <= 10


async def test_rows_and_their_errors_are_read_when_all_are_answered():
    async with bench() as it:
        told = asyncio.Event()
        submission = it.service.submit_rows(request([3]), lambda *_: told.set(), tag=7)
        await told.wait()
        assert submission.tag == 7
        assert submission.answered
        assert rows_of(submission)["y"].tolist() == [[6]]
