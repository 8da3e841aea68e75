"""Servers without sockets that share a store: all but the frontends, in this process, and time that can be passed."""

import asyncio
import contextlib
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from serve.tickets import replies_of, service_of

from ntm_serve.claims import Claims
from ntm_serve.durability import Durability
from ntm_serve.keeper import Keeper
from ntm_serve.keeping import Retention
from ntm_serve.message import StepRequest
from ntm_serve.observer import NoObserver
from ntm_serve.residency import ResidencySettings
from ntm_serve.room import TotalRoom
from ntm_serve.scheduler import Scheduler
from ntm_serve.sessions import Limits
from ntm_serve.step_model import BatchIndependence, ModelCard
from ntm_serve.testing import RunningSum

LEASE_S = 30.0
WAIT_S = 20.0


class Time:
    """What the parts of a server take for the module `time`: it flows, and may be passed."""

    def __init__(self):
        self.passed_s = 0.0

    def pass_(self, by_s):
        self.passed_s += by_s

    def monotonic(self):
        return time.monotonic() + self.passed_s

    def time(self):
        return time.time() + self.passed_s

    def perf_counter(self):
        return self.monotonic()


class Counting(NoObserver):
    """What was told of sessions, in the order of telling."""

    def __init__(self):
        self.told = []

    def session_left(self, model, *, reason):
        self.told.append(f"left: {reason}")

    def session_ended(self, model, *, reason, lived_s, steps):
        self.told.append(f"ended: {reason}")

    def session_restored(self, model, *, took_s):
        self.told.append("restored")

    def replay_differed(self, model):
        self.told.append("differed")

    def rejected(self, model, *, reason):
        self.told.append(f"rejected: {reason}")


class CompanySum(RunningSum):
    """A running sum that does not promise the same bits in any company, and does not give them either: each run adds
    a little of its own to the output.
    """

    def __init__(self, **options):
        super().__init__(**{"name": "company-sum", **options})
        self.batch_independence = BatchIndependence(holds=False, padding=1, rows_tested=self.batch_max)

    def run(self, inputs, state):
        outputs, following = super().run(inputs, state)
        return [outputs[0] + np.float32(len(self.batches) / 1024)], following


def digested(model, digest):
    """The model, with another digest."""
    card = model.card
    model.card = ModelCard(card.name, card.version, card.family, digest=digest, engine=card.engine)
    return model


def message(ids, values, first_steps=None, **more):
    """values: [S][T] of numbers."""
    ids = [ids] if isinstance(ids, str) else ids
    x = np.array(values, np.float32).reshape(len(ids), -1, 1)
    return StepRequest(ids, [None] * len(ids) if first_steps is None else first_steps, {"x": x}, **more)


class Replica:
    """One server."""

    def __init__(
        self, store, models, executor, clock, *, name, limits, retention, settings, patience_s, steps_max, **claims
    ):
        self.store = store
        self.name = name
        self.models = models
        self.seen = Counting()
        self.keeper = Keeper(
            store,
            owner=name,
            retention=retention,
            lease_s=LEASE_S,
            poll_s=0.005,
            patience_s=patience_s,
            observer=self.seen,
            post=asyncio.get_running_loop().call_soon_threadsafe,
        )
        total = TotalRoom(steps_max)
        self.schedulers = [
            Scheduler(
                model, executor=executor, limits=limits, steps_waiting_max=steps_max, total_room=total,
                observer=self.seen, clock=clock.monotonic, keep=self.keeper.keep,
            )
            for model in models
        ]  # fmt: skip
        self.service = service_of(
            self.schedulers,
            limits=limits,
            clock=clock.monotonic,
            claims=Claims(self.keeper, clock=clock.monotonic, **claims),
            settings=settings,
            observer=self.seen,
            sessions_per_message_max=1000,
            steps_per_message_max=1000,
        )
        self.residency, self.sessions = self.service._residency, self.service._sessions

    async def open(self, name="s", model=None, **more):
        return await self.service.open_session(model or self.models[0].card.name, session_id=name, **more)

    async def step(self, name, *values, first=None):
        """The outputs, or raises the error."""
        return self.read(await self.service.step(message(name, [values], [first])))

    def begin(self, name, *values, first=None):
        """The steps are asked for now; a future of the outputs. `begun` is the submission."""
        answer = asyncio.get_running_loop().create_future()

        def reply(submission, _places):
            try:
                answer.set_result(self.read(submission))
            except Exception as error:
                answer.set_exception(error)

        # Where nobody asks, as after `cancel`, its error is not missed.
        answer.add_done_callback(lambda one: one.cancelled() or one.exception())
        self.begun = self.service.submit(message(name, [values], [first]), reply)
        return answer

    @staticmethod
    def read(submission):
        (reply,) = replies_of(submission)
        if reply.error is not None:
            raise reply.error
        return reply.outputs["y"].ravel().tolist()

    async def rest(self, *names):
        """The sessions leave memory; the store knows."""
        self.residency.put_to_rest([self.sessions.find(name) for name in names], reason="room")
        await self.keeper.call(lambda: None)

    def in_memory(self, name):
        return self.sessions.get(name) is not None

    async def until(self, is_so):
        """Give the loop its turns until it is so; for a bounded time."""
        end_s = time.monotonic() + WAIT_S
        while not is_so():
            assert time.monotonic() < end_s, "waited in vain"
            await asyncio.sleep(0.001)

    def expect_nothing_left(self):
        """No ticket, turn, message or question is left."""
        keeper = self.keeper
        assert len(self.residency._turns) == 0
        assert not self.service._waiting
        assert not self.service._returns
        assert not self.residency.leaving
        assert not any((keeper._unwritten.at_work, keeper._unsynced.at_work, keeper._asked))
        for scheduler in self.schedulers:
            assert scheduler.statistics().steps_waiting == 0
            assert scheduler.statistics().sessions_waiting == 0
            assert scheduler._lanes_free == 1
        for session in self.sessions:
            assert not session.in_flight
            assert not session.queued


@contextlib.asynccontextmanager
async def replica(
    store, *models, clock, name="a", limits=None, retention=None, settings=None, patience_s=0.2, steps_max=10_000,
    polls=False, leaves=False, handover_s=0.1, ended_life_s=7 * 24 * 3600.0, **more,
):  # fmt: skip
    """A server until the block is left; then it is gone as if killed, but that its lease is over. leaves: it stops in
    good order instead. polls: it looks by itself who is wanted elsewhere.
    """
    settings = settings or ResidencySettings(**{"durability": Durability.PROCESS, **more})
    with ThreadPoolExecutor(1) as executor:
        it = Replica(
            store, models or (RunningSum(),), executor, clock, name=name, limits=limits or Limits(),
            retention=retention or Retention(), settings=settings, patience_s=patience_s, steps_max=steps_max,
            handover_s=handover_s, ended_life_s=ended_life_s,
        )  # fmt: skip
        tasks = [asyncio.create_task(scheduler.run()) for scheduler in it.schedulers]
        await it.keeper.give_word()
        if polls:
            tasks.append(asyncio.create_task(it.keeper.run()))
        ended_well = False
        try:
            yield it
            async with asyncio.timeout(WAIT_S):
                await it.service.until_idle()
                if leaves:
                    await it.service.leave()
            ended_well = True
        finally:
            for task in tasks:
                task.cancel()
            faults = await asyncio.gather(*tasks, return_exceptions=True)
            if ended_well:
                await it.keeper.call(lambda: None)
                it.expect_nothing_left()
                assert all(isinstance(fault, asyncio.CancelledError) for fault in faults), faults
            await it.keeper.close()
