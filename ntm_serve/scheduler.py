"""The scheduler of one model: takes batches, has the engine run them, hands out what came back.

Rules of this file: one task for each compute thread takes a company from the line, has it ride, and hands
out what it got; everything but the ride itself happens on the event loop.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import structlog

from ntm_serve.batcher import Batcher, Place
from ntm_serve.errors import EngineFault, LimitReached
from ntm_serve.observer import Observer
from ntm_serve.ride import Ride, run_ride
from ntm_serve.sessions import Limits, Session
from ntm_serve.state import StateBlock, StateRow
from ntm_serve.step_model import StepModel
from ntm_serve.ticket import Ticket


@dataclass(frozen=True)
class SchedulerStatistics:
    """sessions_waiting: in the line. steps_waiting: admitted and not yet answered. The rest since the start."""

    sessions_waiting: int
    steps_waiting: int
    batches: int
    steps: int


log = structlog.get_logger()

# The longest that the event loop itself may compute: about what a hop to a thread and back costs on a busy
# machine, and little beside the time that a message takes on the wire.
INLINE_MAX_S = 0.0005


class Scheduler:
    """Runs one model's batches. Whoever makes it owns `run`, and awaits it."""

    def __init__(
        self,
        model: StepModel,
        *,
        executor: Executor,
        lanes: int = 1,
        limits: Limits,
        steps_waiting_max: int,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self.model = model
        self.key = model.card.key
        self._executor = executor
        self._limits = limits
        self._steps_waiting_max = steps_waiting_max
        self._observer = observer
        self._clock = clock
        self.initial_state = StateBlock.of_one(model.initial_state)
        self._batcher = Batcher(model.batch_max)
        self._lanes = self._lanes_free = lanes
        # Time of one row of a step, as last seen; at first nothing is known, and nothing runs inline.
        self._row_s = float("inf")
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._steps_waiting = self._batches = self._steps = 0

    def statistics(self) -> SchedulerStatistics:
        return SchedulerStatistics(len(self._batcher), self._steps_waiting, self._batches, self._steps)

    def expect_room(self, steps: int) -> None:
        """Refuse at the door what would wait behind too much. Raises LimitReached."""
        if self._steps_waiting + steps > self._steps_waiting_max:
            self._observer.rejected(self.key, reason="queue")
            raise LimitReached(
                f"model {self.key}: expected at most {self._steps_waiting_max} steps waiting, "
                f"got {self._steps_waiting} and {steps} more"
            )

    def submit(self, session: Session, ticket: Ticket) -> None:
        """Run the ticket's steps; it is settled when they are done, or when they failed."""
        self._steps_waiting += ticket.steps
        self._idle.clear()
        ticket.add_follower(self._settled)
        self._batcher.add(session)
        self._wake.set()

    async def until_idle(self) -> None:
        """Until every admitted step is answered."""
        await self._idle.wait()

    async def run(self) -> None:
        """Run batches until cancelled; what is in flight then is the caller's to end."""
        async with asyncio.TaskGroup() as lanes:
            for _ in range(self._lanes):
                lanes.create_task(self._run_lane())

    async def _run_lane(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            company = self._batcher.take(self._lanes_free)
            if not company:
                self._wake.clear()
                await self._wake.wait()
                await self._boarding()
                continue
            now_s = self._clock()
            for _, ticket in company:
                if ticket.started_s is None:
                    ticket.started_s = now_s
            self._lanes_free -= 1
            inline = self._pays_inline(company)
            if inline:
                ride = run_ride(self.model, company, self._somebody_waits)
            else:
                ride = await loop.run_in_executor(self._executor, run_ride, self.model, company, self._somebody_waits)
            self._lanes_free += 1
            self._hand_out(company, ride)
            self._batcher.give_back(company)
            if ride.steps:
                # The least of late: what a run costs, not how long it waited for a core.
                self._row_s = min(self._row_s * 1.02, ride.compute_s / ride.steps / len(company))
            if inline:  # One ride a turn: short rides in a row must not keep the event loop to themselves.
                await asyncio.sleep(0)

    async def _boarding(self) -> None:
        """Let those get on who are at the door: turns of the event loop, as long as each brings somebody.

        No time passes for anybody's sake; but messages that have arrived are read before the ride begins.
        """
        waiting = 0
        while waiting < len(self._batcher) < self._batcher.batch_max:
            waiting = len(self._batcher)
            await asyncio.sleep(0)

    def _somebody_waits(self) -> bool:
        """Asked by a compute thread between two steps; reading a length needs no lock."""
        return len(self._batcher) > 0

    def _pays_inline(self, company: Sequence[Place]) -> bool:
        """Whether the hop to a compute thread and back would cost more than it frees the event loop for.

        Never while somebody waits to get on: a ride that ends early is for a thread.
        """
        if not self.model.runs_inline or len(self._batcher):
            return False
        steps = min(ticket.steps - ticket.steps_done for _, ticket in company)
        return steps * len(company) * self._row_s <= INLINE_MAX_S

    def _hand_out(self, company: Sequence[Place], ride: Ride) -> None:
        self._batches += ride.steps
        self._steps += ride.steps * len(company)
        self._observer.ride_ran(self.key, rows=len(company), steps=ride.steps, compute_s=ride.compute_s)
        now_s = self._clock()
        left = {ride.block}
        for row, (session, ticket) in enumerate(company):
            if ticket.settled:  # Cancelled, or its session ended, while the ride went on.
                continue
            error = ride.errors[row]
            if error is not None:
                if isinstance(error, EngineFault):  # Ours or the model's: whoever runs the server must see it.
                    log.error("a step failed", model=str(self.key), session=session.id, fault=error.message)
                session.fail(ticket, error)
                continue
            ticket.take(ride.outputs, StateRow(ride.block, row), row)
            if ticket.steps_done == ticket.steps:
                left.add(session.state.block)
                session.commit(ticket, self._limits, now_s)
                ticket.settle()
        for block in left:
            block.compact()

    def _settled(self, ticket: Ticket) -> None:
        self._steps_waiting -= ticket.steps
        if not self._steps_waiting:
            self._idle.set()
