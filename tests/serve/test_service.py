"""The service: models, sessions and messages in domain types."""

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serve.tickets import replies_of, service_of

from ntm_serve.errors import (
    InvalidInput,
    LimitReached,
    ModelDamaged,
    ModelUnknown,
    ServerDraining,
    SessionClosed,
    SessionExists,
    SessionUnknown,
    StepAhead,
    StepCancelled,
    TooLarge,
)
from ntm_serve.message import StepRequest
from ntm_serve.observer import NoObserver
from ntm_serve.scheduler import Scheduler
from ntm_serve.sessions import IDLE_AFTER_S, Limits
from ntm_serve.step_model import ModelKey
from ntm_serve.testing import ManualClock, RunningSum

LIMITS = Limits()
DAMAGED = ModelDamaged("broken/1: model.onnx: expected another sha256")


class Bench:
    def __init__(self, models, executor, *, limits=LIMITS, steps_waiting_max=1000):
        self.clock = ManualClock()
        self.models = models
        options = {"limits": limits, "steps_waiting_max": steps_waiting_max, "clock": self.clock}
        self.schedulers = [Scheduler(m, executor=executor, observer=NoObserver(), **options) for m in models]
        self.service = service_of(
            self.schedulers,
            limits=limits,
            clock=self.clock,
            faults={ModelKey("broken", "1"): DAMAGED},
            sessions_per_message_max=50,
            steps_per_message_max=100,
        )


@contextlib.asynccontextmanager
async def bench(*models, **options):
    with ThreadPoolExecutor(1) as executor:
        it = Bench(models or (RunningSum(),), executor, **options)
        tasks = [asyncio.create_task(scheduler.run()) for scheduler in it.schedulers]
        try:
            yield it
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def message(ids, values, first_steps=None, **more):
    """values: [S][T] of numbers."""
    x = np.array(values, np.float32)[..., np.newaxis]
    return StepRequest(session_ids=ids, first_steps=first_steps or [None] * len(ids), inputs={"x": x}, **more)


async def step(it, request):
    """What became of each place."""
    return replies_of(await it.service.step(request))


async def test_models_are_listed_by_name_and_version_number_also_those_not_served():
    models = [RunningSum(version=version) for version in ("10", "9")]
    async with bench(*models) as it:
        assert [str(view.key) for view in it.service.models()] == ["broken/1", "running-sum/9", "running-sum/10"]


async def test_without_a_version_the_highest_served_is_meant():
    async with bench(RunningSum(version="10"), RunningSum(version="9")) as it:
        assert (await it.service.open_session("running-sum")).model.version == "10"
        assert (await it.service.open_session("running-sum", "9")).model.version == "9"


async def test_an_unknown_model_is_refused_with_those_there_are():
    async with bench() as it:
        with pytest.raises(ModelUnknown, match="model nobody: expected one of broken/1, running-sum/1"):
            await it.service.open_session("nobody")
        with pytest.raises(ModelUnknown, match="model running-sum/7: expected"):
            await it.service.open_session("running-sum", "7")


async def test_opening_a_session_of_a_damaged_model_says_what_is_damaged():
    async with bench() as it:
        with pytest.raises(ModelDamaged, match="another sha256"):
            await it.service.open_session("broken")


async def test_several_sessions_step_in_one_message_and_keep_their_own_state():
    async with bench() as it:
        ids = [(await it.service.open_session("running-sum", session_id=name)).session_id for name in "ab"]
        replies = await step(it, message(ids, [[1, 2], [10, 20]]))
        assert [reply.outputs["y"].ravel().tolist() for reply in replies] == [[1, 3], [10, 30]]
        assert [reply.next_step for reply in replies] == [2, 2]
        assert it.models[0].batches == [2, 2]


async def test_one_sessions_error_in_a_message_is_its_own():
    async with bench() as it:
        await it.service.open_session("running-sum", session_id="a")
        await it.service.open_session("running-sum", session_id="b")
        replies = await step(it, message(["a", "nobody", "b"], [[1], [2], [3]], [0, 0, 5]))
        assert replies[0].outputs["y"].tolist() == [[1]]
        assert isinstance(replies[1].error, SessionUnknown)
        assert isinstance(replies[2].error, StepAhead)


async def test_one_sessions_nan_in_a_message_is_its_own():
    async with bench() as it:
        for name in "ab":
            await it.service.open_session("running-sum", session_id=name)
        replies = await step(it, message(["a", "b"], [[1, np.nan], [3, 4]]))
        assert "x: expected finite numbers, got nan at [1, 0]" in replies[0].error.message
        assert replies[1].outputs["y"].ravel().tolist() == [3, 7]


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (message([], np.zeros((0, 1))), "session_ids: expected 1 to 50 sessions, got 0"),
        (message(["a", "a"], [[1], [1]]), "each session once"),
        (message(["a"], [[1]], [0, 1]), "first_steps: expected none or 1, got 2"),
        (message(["a"], [[1]], [-2]), "first_steps: expected numbers of at least 0"),
        (message(["a"], np.zeros((1, 0))), "expected 1 <= T <= 100 steps, got T = 0"),
        (message(["a"], [[1], [2]]), r"expected \[S, T, ...\] with S = 1 sessions, got \[2, 1\]"),
        (StepRequest(["a"], [None], {}), "expected at least one"),
        (StepRequest(["a"], [None], {"x": np.float32(1)}), r"with S = 1 sessions, got \[\]"),
    ],
)
async def test_a_message_that_cannot_be_read_is_refused_whole(request_, says):
    async with bench() as it:
        await it.service.open_session("running-sum", session_id="a")
        with pytest.raises(InvalidInput, match=says):
            await it.service.step(request_)
        assert (await it.service.get_session("a")).next_step == 0


@pytest.mark.parametrize(
    ("request_", "limit", "most", "says"),
    [
        (
            message([f"s{n}" for n in range(51)], np.zeros((51, 1))), "sessions_per_message_max", 50,
            "session_ids: expected 1 to 50 sessions, got 51",
        ),
        (
            message(["a"], np.zeros((1, 101))), "steps_per_message_max", 100,
            "inputs: expected 1 <= T <= 100 steps, got T = 101",
        ),
    ],
)  # fmt: skip
async def test_a_message_of_too_much_is_refused_with_the_limit(request_, limit, most, says):
    async with bench() as it:
        await it.service.open_session("running-sum", session_id="a")
        with pytest.raises(TooLarge) as refused:
            await it.service.step(request_)
        assert refused.value.message == says
        assert refused.value.fields == {"limit": limit, "expected": str(most), "actual": str(most + 1)}
        assert (await it.service.get_session("a")).next_step == 0


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"x": np.zeros((1, 1, 1), np.float64)}, r"x: expected float32\[S, T, 1\], got float64\[1, 1, 1\]"),
        ({"x": np.zeros((1, 1, 2), np.float32)}, r"x: expected float32\[S, T, 1\], got float32\[1, 1, 2\]"),
        ({"z": np.zeros((1, 1, 1), np.float32)}, r"inputs: expected \['x'\], got \['z'\]"),
    ],
)
async def test_inputs_that_do_not_fit_the_model_are_refused(inputs, says):
    async with bench() as it:
        await it.service.open_session("running-sum", session_id="a")
        (reply,) = await step(it, StepRequest(["a"], [None], inputs))
        assert isinstance(reply.error, InvalidInput)
        with pytest.raises(InvalidInput, match=says):
            raise reply.error


async def test_only_the_outputs_asked_for_come_back():
    async with bench() as it:
        await it.service.open_session("running-sum", session_id="a")
        (reply,) = await step(it, message(["a"], [[1]], output_names=["y"]))
        assert list(reply.outputs) == ["y"]
        (reply,) = await step(it, message(["a"], [[1]], output_names=["z"]))
        assert "output_names: expected some of ['y']" in reply.error.message


async def test_sessions_of_models_with_other_specs_cannot_share_a_message():
    async with bench(RunningSum(), RunningSum(name="wide", width=2)) as it:
        await it.service.open_session("running-sum", session_id="a")
        await it.service.open_session("wide", session_id="b")
        replies = await step(it, message(["a", "b"], [[1], [2]]))
        assert replies[0].error is None
        assert "sessions of one model" in replies[1].error.message


async def test_resuming_takes_up_the_open_session_and_opening_does_not():
    async with bench() as it:
        await it.service.open_session("running-sum", session_id="a")
        await it.service.step(message(["a"], [[1]]))
        assert (await it.service.open_session("running-sum", session_id="a", resume=True)).next_step == 1
        with pytest.raises(SessionExists):
            await it.service.open_session("running-sum", session_id="a")


async def test_a_session_of_another_model_is_not_resumed():
    async with bench(RunningSum(), RunningSum(name="other")) as it:
        await it.service.open_session("running-sum", session_id="a")
        with pytest.raises(SessionExists):
            await it.service.open_session("other", session_id="a", resume=True)


async def test_listing_goes_page_by_page_in_the_order_of_ids():
    async with bench(RunningSum(), RunningSum(name="other")) as it:
        for name in "dbac":
            await it.service.open_session("running-sum", session_id=name)
        await it.service.open_session("other", session_id="aa")
        first = await it.service.list_sessions(model_name="running-sum", page_size=3)
        assert [view.session_id for view in first] == ["a", "b", "c"]
        rest = await it.service.list_sessions(model_name="running-sum", after="c", page_size=3)
        assert [view.session_id for view in rest] == ["d"]


async def test_closing_a_session_with_a_step_in_flight_answers_it():
    async with bench() as it:
        await it.service.open_session("running-sum", session_id="a")
        running = asyncio.ensure_future(it.service.step(message(["a"], [[1]])))
        await asyncio.sleep(0)
        assert (await it.service.close_session("a")).session_id == "a"
        (reply,) = replies_of(await running)
        assert isinstance(reply.error, SessionClosed)
        with pytest.raises(SessionClosed):
            await it.service.get_session("a")


async def test_cancelling_leaves_nothing_behind():
    async with bench() as it:
        await it.service.open_session("running-sum", session_id="a")
        running = asyncio.ensure_future(it.service.step(message(["a"], [[1]])))
        await asyncio.sleep(0)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await it.service.until_idle()
        view = await it.service.get_session("a")
        assert (view.next_step, view.steps_in_flight) == (0, 0)
        (reply,) = await step(it, message(["a"], [[5]]))
        assert reply.outputs["y"].tolist() == [[5]]


async def test_one_callers_cancelling_does_not_take_a_step_from_another_who_waits_for_it():
    async with bench() as it:
        await it.service.open_session("running-sum", session_id="a")
        first, second = (asyncio.ensure_future(it.service.step(message(["a"], [[1]], [0]))) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        (reply,) = replies_of(await second)
        assert reply.outputs["y"].tolist() == [[1]]
        assert (await it.service.get_session("a")).next_step == 1


async def test_a_cancelled_message_aborts_those_that_were_to_follow():
    async with bench() as it:
        await it.service.open_session("running-sum", session_id="a")
        replies = []
        submissions = [
            it.service.submit(message(["a"], [[1]]), lambda it, places: replies.extend(replies_of(it))) for _ in "12"
        ]
        submissions[0].cancel()
        assert [type(reply.error).__name__ for reply in replies] == ["StepAborted"]
        assert (await it.service.get_session("a")).steps_in_flight == 0
        assert StepCancelled.reason == "STEP_CANCELLED"


async def test_too_many_steps_waiting_are_refused_and_nothing_of_them_is_left():
    async with bench(steps_waiting_max=2) as it:
        await it.service.open_session("running-sum", session_id="a")
        await it.service.open_session("running-sum", session_id="b")
        waiting = asyncio.ensure_future(it.service.step(message(["b"], [[1, 1]])))
        await asyncio.sleep(0)
        (reply,) = await step(it, message(["a"], [[1]]))
        assert isinstance(reply.error, LimitReached)
        assert (await it.service.get_session("a")).steps_in_flight == 0
        await waiting


async def test_more_steps_than_may_ever_wait_are_no_reason_to_try_again():
    async with bench(steps_waiting_max=2) as it:
        await it.service.open_session("running-sum", session_id="a")
        (reply,) = await step(it, message(["a"], [[1, 2, 3]]))
        assert isinstance(reply.error, TooLarge)
        assert reply.error.message == "inputs: expected at most T = 2 steps, as many as may wait, got T = 3"
        assert (await it.service.get_session("a")).steps_in_flight == 0


async def test_a_retry_needs_no_room():
    async with bench(steps_waiting_max=2) as it:
        await it.service.open_session("running-sum", session_id="a")
        await it.service.open_session("running-sum", session_id="b")
        await it.service.step(message(["a"], [[1, 2]], [0]))
        waiting = asyncio.ensure_future(it.service.step(message(["b"], [[1, 1]])))
        await asyncio.sleep(0)
        (again,) = await step(it, message(["a"], [[1, 2]], [0]))
        (ahead,) = await step(it, message(["a"], [[1]], [9]))
        (more,) = await step(it, message(["a"], [[1]], [2]))
        assert again.outputs["y"].ravel().tolist() == [1, 3]
        assert (type(ahead.error), type(more.error)) == (StepAhead, LimitReached)
        await waiting


async def test_a_refusal_that_waits_for_its_turn_keeps_no_cancelled_step_alive():
    async with bench() as it:
        await it.service.open_session("running-sum", session_id="a")
        first = it.service.submit(message(["a"], [[1]], [0]), lambda it, places: None)
        replies = []
        it.service.submit(message(["a"], [[1]], [77]), lambda it, places: replies.extend(replies_of(it)))
        assert not replies
        first.cancel()
        await it.service.until_idle()
        assert isinstance(replies[0].error, StepAhead)
        assert (await it.service.get_session("a")).next_step == 0


async def test_the_window_of_an_idle_session_does_not_keep_the_bytes_of_a_message_of_many():
    async with bench() as it:
        ids = [(await it.service.open_session("running-sum", session_id=name)).session_id for name in "abcd"]
        request = message(ids, [[1], [2], [3], [4]])
        await it.service.step(request)
        it.clock.advance(IDLE_AFTER_S)
        await it.service.expire_sessions()
        for session in it.service._sessions:
            assert not any(np.shares_memory(array, request.inputs["x"]) for array in session.window[0].inputs)
        replies = await step(it, message(ids, [[1], [2], [3], [4]], [0] * 4))
        assert [reply.outputs["y"].ravel().tolist() for reply in replies] == [[1], [2], [3], [4]]


async def test_idle_sessions_expire():
    async with bench(limits=Limits(idle_life_s=5)) as it:
        await it.service.open_session("running-sum", session_id="a")
        it.clock.advance(6)
        assert await it.service.expire_sessions() == 1
        assert it.service.statistics().sessions[ModelKey("running-sum", "1")] == 0


async def test_a_draining_service_takes_nothing_new_and_finishes_what_it_has():
    async with bench() as it:
        await it.service.open_session("running-sum", session_id="a")
        running = asyncio.ensure_future(it.service.step(message(["a"], [[1]])))
        await asyncio.sleep(0)
        it.service.drain()
        with pytest.raises(ServerDraining):
            await it.service.step(message(["a"], [[1]]))
        with pytest.raises(ServerDraining):
            await it.service.open_session("running-sum")
        (reply,) = replies_of(await running)
        assert reply.outputs["y"].tolist() == [[1]]
        await it.service.until_idle()
