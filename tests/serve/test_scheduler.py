"""The scheduler: batches run, rows fail alone, nobody is left waiting."""

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from serve.tickets import Told, admit

from ntm_serve.errors import EngineFault, LimitReached, NonFiniteState, StepAborted
from ntm_serve.observer import NoObserver
from ntm_serve.ride import run_ride
from ntm_serve.scheduler import Scheduler
from ntm_serve.sessions import Limits, Sessions
from ntm_serve.state import StateBlock
from ntm_serve.testing import Gate, ManualClock, RunningSum
from ntm_serve.testing.running_sum import FAILING_INPUT

LIMITS = Limits()


class Bench:
    """A scheduler with a model, and sessions to give it."""

    def __init__(self, model, executor, *, steps_waiting_max=1000, lanes=1):
        self.model = model
        self.sessions = Sessions(LIMITS)
        self.clock = ManualClock()
        self.scheduler = Scheduler(
            model,
            executor=executor,
            lanes=lanes,
            limits=LIMITS,
            steps_waiting_max=steps_waiting_max,
            observer=NoObserver(),
            clock=self.clock,
        )

    def session(self, name):
        return self.sessions.open(self.model.card.key, self.scheduler.initial_state, session_id=name, now_s=0.0)

    def submit(self, session, *values):
        """Returns a future of the outputs, or of the error."""
        inputs = (np.array(values, np.float32).reshape(-1, 1),)
        ticket = admit(session, inputs).ticket
        answer = asyncio.get_running_loop().create_future()

        def tell(ticket):
            answer.set_result(ticket.error or ticket.outputs[0].ravel().tolist())

        ticket.add_waiter(Told(tell), 0)
        self.scheduler.submit(ticket)
        return answer


@contextlib.asynccontextmanager
async def bench(model=None, **options):
    with ThreadPoolExecutor(options.get("lanes", 1)) as executor:
        it = Bench(model or RunningSum(), executor, **options)
        task = asyncio.create_task(it.scheduler.run())
        try:
            yield it
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_steps_of_one_session_run_in_order():
    async with bench() as it:
        assert await it.submit(it.session("a"), 1, 2, 3) == [1, 3, 6]


async def test_sessions_that_wait_share_a_batch():
    async with bench() as it:
        answers = [it.submit(it.session(name), value, value) for value, name in enumerate("abcd")]
        assert await asyncio.gather(*answers) == [[0, 0], [1, 2], [2, 4], [3, 6]]
        assert it.model.batches == [4, 4]


async def test_a_row_whose_state_overflows_fails_alone_and_its_session_stays():
    async with bench() as it:
        bad, good = it.session("bad"), it.session("good")
        await it.submit(bad, 3e38)
        outcome, other = await asyncio.gather(it.submit(bad, 3e38), it.submit(good, 1))
        assert isinstance(outcome, NonFiniteState)
        assert "session bad: step 1: expected a finite next state" in outcome.message
        assert other == [1]
        assert bad.next_step == 1
        assert await it.submit(bad, -3e38) == [0]


async def test_a_message_that_fails_half_way_leaves_the_session_where_it_was():
    async with bench() as it:
        session = it.session("a")
        assert isinstance(await it.submit(session, 1, 3e38, 3e38), NonFiniteState)
        assert session.next_step == 0
        assert await it.submit(session, 1) == [1]


async def test_a_row_that_makes_the_engine_fail_fails_alone():
    async with bench() as it:
        answers = [it.submit(it.session(name), value) for name, value in (("a", 1), ("b", FAILING_INPUT), ("c", 3))]
        a, b, c = await asyncio.gather(*answers)
        assert (a, c) == ([1], [3])
        assert isinstance(b, EngineFault)


async def test_an_engine_that_breaks_its_promise_fails_the_tickets_and_not_the_scheduler():
    class Broken(RunningSum):
        broken = True

        def run(self, inputs, state):
            if self.broken:
                raise RuntimeError("not what the contract says")
            return super().run(inputs, state)

    async with bench(Broken()) as it:
        session = it.session("a")
        outcome = await it.submit(session, 1)
        assert isinstance(outcome, EngineFault)
        assert "not what the contract says" in outcome.detail
        it.model.broken = False
        assert await it.submit(session, 1) == [1]


async def test_what_followed_a_failed_message_is_aborted():
    async with bench() as it:
        session = it.session("a")
        answers = await asyncio.gather(it.submit(session, FAILING_INPUT), it.submit(session, 1))
        assert [type(answer) for answer in answers] == [EngineFault, StepAborted]


async def test_a_ticket_cancelled_while_its_batch_runs_is_not_kept():
    entered, leave = threading.Event(), threading.Event()

    def hold(rows):
        entered.set()
        assert leave.wait(10)

    async with bench(RunningSum(before_run=hold)) as it:
        session, other = it.session("a"), it.session("b")
        answer, neighbour = it.submit(session, 1, 1), it.submit(other, 5)
        await asyncio.to_thread(entered.wait, 10)
        session.fail(session.in_flight[0], StepAborted("cancelled"))
        leave.set()
        assert isinstance(await answer, StepAborted)
        assert await neighbour == [5]
        assert session.next_step == 0
        assert await it.submit(session, 7) == [7]


async def test_more_steps_than_may_wait_are_refused_at_the_door():
    async with bench(steps_waiting_max=3) as it:
        a, b = it.session("a"), it.session("b")
        it.scheduler.expect_room(b, 3)
        answer = it.submit(a, 1, 2)
        with pytest.raises(
            LimitReached, match="model running-sum/1: expected at most 3 steps waiting, got 2 and 2 more"
        ):
            it.scheduler.expect_room(b, 2)
        await answer
        it.scheduler.expect_room(b, 3)


async def test_statistics_count_batches_and_steps_and_idle_is_reached():
    async with bench() as it:
        answers = [it.submit(it.session(name), 1, 1) for name in "ab"]
        assert it.scheduler.statistics().steps_waiting == 4
        await it.scheduler.until_idle()
        await asyncio.gather(*answers)
        statistics = it.scheduler.statistics()
        assert (statistics.steps_waiting, statistics.batches, statistics.steps) == (0, 2, 4)
        assert statistics.sessions_waiting == 0


class Recording(RunningSum):
    """Remembers on which thread each run was."""

    def __init__(self, **options):
        super().__init__(**options)
        self.threads = []

    def run(self, inputs, state):
        self.threads.append(threading.current_thread())
        return super().run(inputs, state)


async def test_once_its_time_is_known_a_short_ride_runs_on_the_event_loop():
    async with bench(Recording()) as it:
        session = it.session("a")
        await it.submit(session, 1)
        await it.submit(session, 1)
    assert it.model.threads[0] is not threading.main_thread()
    assert it.model.threads[1] is threading.main_thread()


async def test_short_rides_in_a_row_leave_the_event_loop_its_turns():
    async with bench(Recording()) as it:
        session = it.session("a")
        await it.submit(session, 1)
        answers = [it.submit(session, 1) for _ in range(20)]
        await answers[0]
        # The first is answered while the others still wait for their turn.
        assert not answers[-1].done()
        assert (await answers[-1]) == [21]


async def test_a_long_ride_and_a_model_that_may_wait_run_on_a_compute_thread():
    async with bench(Recording()) as it:
        it.scheduler._run_s = it.scheduler._row_s = 0.01
        await it.submit(it.session("a"), *([1] * 5))
    assert threading.main_thread() not in it.model.threads
    model = Recording(before_run=lambda rows: None)
    async with bench(model) as it:
        it.scheduler._run_s = it.scheduler._row_s = 0.0
        await it.submit(it.session("a"), 1)
    assert threading.main_thread() not in model.threads


async def test_two_lanes_share_the_line_and_run_side_by_side():
    gate = Gate()
    async with bench(RunningSum(before_run=gate), lanes=2) as it:
        answers = [it.submit(it.session(f"s{number}"), number) for number in range(40)]
        for _ in range(2):
            await asyncio.to_thread(gate.await_run)
        assert sorted(it.model.batches) == [20, 20]
        gate.open()
        gate.let_through(2)
        assert await asyncio.gather(*answers) == [[number] for number in range(40)]


async def test_a_newcomer_rides_after_the_step_that_runs_and_not_after_the_message():
    gate = Gate()
    async with bench(RunningSum(before_run=gate)) as it:
        long = it.submit(it.session("long"), *([1] * 50))
        await asyncio.to_thread(gate.await_run)
        short = it.submit(it.session("short"), 7)
        gate.open()
        gate.let_through(2)
        assert await short == [7]
        assert not long.done()
        assert it.model.batches[:2] == [1, 2]
        assert (await long)[-1] == 50


def test_a_ride_changes_neither_sessions_nor_tickets():
    model = RunningSum()
    initial = StateBlock.of_one(model.initial_state)
    session = Sessions(LIMITS).open(model.card.key, initial, session_id="a", now_s=0.0)
    inputs = (np.ones((2, 1), np.float32),)
    ticket = admit(session, inputs).ticket
    ride = run_ride(model, [ticket], lambda: False)
    assert ride.errors == [None]
    assert (ride.steps, ride.outputs[0].ravel().tolist()) == (2, [1, 2])
    assert ride.block.arrays[0].tolist() == [[2]]
    assert (session.next_step, ticket.steps_done, ticket.state) == (0, 0, None)
    assert session.state.arrays()[0].tolist() == [0]
