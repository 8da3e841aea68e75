"""The scheduler of one model: takes companies from the line, has them ride, and hands out what they got.

Rules of this file: everything but the ride itself happens on the event loop, and a ride happens there too
where it is short; a ride on a compute thread ends when somebody waits; nothing waits for a batch to fill.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import structlog

from ntm_serve.batcher import Batcher
from ntm_serve.errors import LIMIT, EngineFault, LimitReached
from ntm_serve.observer import Observer
from ntm_serve.ride import Ride, run_ride
from ntm_serve.room import Room, TotalRoom
from ntm_serve.sessions import Limits, Session
from ntm_serve.sizes import Sizes
from ntm_serve.sizing import Sizing, Use
from ntm_serve.state import StateBlock, StateRow
from ntm_serve.step_model import ModelKey, ResizableModel, StepModel
from ntm_serve.ticket import Ticket


@dataclass(frozen=True)
class SchedulerStatistics:
    """sessions_waiting: in the line. steps_waiting: admitted and not yet answered. The rest since the start."""

    sessions_waiting: int
    steps_waiting: int
    batches: int
    steps: int


log = structlog.get_logger()

# Sizes of a model's state beside its own at once: each is tested when it is first wanted, and keeps a line.
SIZES_MAX = 16

# The longest that the event loop may compute without looking up, where there is a thread that could: about what a
# hop to it and back costs on a busy machine.
INLINE_MAX_S = 0.0005

# With one lane the event loop is the lane, for models whose run takes no longer than this: it looks up after every
# run. A second thread would wait for this one and this one for it: on two cores that also serve clients, a small
# session beside a large one waited up to the 4 ms of the kernel's time slice.
LONE_RUN_MAX_S = 0.001

# The longest ride on the event loop: timers and sockets have their turn after it.
LONE_RIDE_MAX_S = 0.005

Post = Callable[[Callable[[], None]], object]

# Given tickets that are done, and whom to tell when the store has them.
Keep = Callable[[Sequence[Ticket], "Scheduler"], None]


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
        total_room: TotalRoom | None = None,
        observer: Observer,
        clock: Callable[[], float],
        post: Post | None = None,
        look_up: Callable[[], None] = lambda: None,
        keep: Keep | None = None,
        sizes_max: int = SIZES_MAX,
    ) -> None:
        """lanes: rides at once. steps_waiting_max: of this model; total_room: of all that share it. post: call
        something on the event loop from another thread; by default the loop's own way. look_up: admit what has
        arrived meanwhile, between two runs on the event loop. keep: put done tickets into a store, and call `kept` when
        it has them. sizes_max: how many sizes of the model's state are served beside its own.
        """
        self._alike = partial(
            Scheduler,
            executor=executor, lanes=lanes, limits=limits, steps_waiting_max=steps_waiting_max, total_room=total_room,
            observer=observer, clock=clock, post=post, look_up=look_up, keep=keep,
        )  # fmt: skip
        # Sessions of different sizes share no batch: each size has a line and lanes of its own.
        self._sizing = Sizing(
            self._resized, sizes_max=sizes_max, refuse=self._refuse_size, dropped=self._dropped, clock=clock
        )
        self._sizes_max = sizes_max
        self.use = Use()
        self.model = model
        self.key = model.card.key
        self._executor = executor
        self._limits = limits
        self._observer = observer
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._post = post or self._loop.call_soon_threadsafe
        self.initial_state = StateBlock.of_one(model.initial_state)
        self._batcher = Batcher(model.batch_max)
        self._look_up = look_up
        self._keep = keep
        self._lone = lanes == 1
        self._lanes_free = self._lanes = lanes
        self._ride_end_s = 0.0
        self._due = False  # A tick is, in this turn of the loop or the next.
        self._died: asyncio.Future[None] = self._loop.create_future()
        # What a run costs at least, and each of its rows, as seen of late; at first nothing is known, and nothing
        # runs inline.
        self._run_s = self._row_s = float("inf")
        self._room = Room(
            self.key,
            session_max=limits.session_steps_waiting_max,
            waiting_max=steps_waiting_max,
            total=total_room or TotalRoom(steps_waiting_max),
            observer=observer,
            row_s=lambda: self._row_s / lanes,
        )
        # Bound once: every ticket takes both.
        self.expect_room, self._on_settled = self._room.expect, self._settled
        self.expect_room_for = self._room.expect_rows
        self._idle = asyncio.Event()
        self._idle.set()
        self._batches = self._steps = 0

    def statistics(self) -> SchedulerStatistics:
        """Of all sizes together."""
        each = self.sized_alike
        return SchedulerStatistics(
            sum(len(one._batcher) for one in each),
            self._room.waiting,
            sum(one._batches for one in each),
            sum(one._steps for one in each),
        )

    @property
    def sized_alike(self) -> "list[Scheduler]":
        """This one, and those of other sizes."""
        return [self, *self._sizing.made.values()]

    def of(self, sizes: Sizes) -> "Scheduler":
        """Who runs the sessions of these sizes that are in memory."""
        return self._sizing.made[sizes] if sizes else self

    async def sized(self, sizes: Sizes, *, comes_back: bool = False) -> "Scheduler":
        """Who runs sessions of these sizes; whoever waits before they are in memory has it in `use`. comes_back: of a
        session that there is already, which has its size whatever the limit. Raises LimitReached, and what
        ResizableModel.resized raises.
        """
        return await self._sizing.of(sizes, comes_back=comes_back) if sizes else self

    def once_sized(self, sizes: Sizes, then: Callable[[], None]) -> None:
        """Call it when nobody is being made for these sizes any more: at once where nobody is."""
        self._sizing.once_made(sizes, then)

    @property
    def is_unused(self) -> bool:
        """Whether it has no session in memory and nothing to run."""
        return not self.use.count and not len(self._batcher) and self._lanes_free == self._lanes

    def _refuse_size(self, sizes: Sizes, there_are: int) -> NoReturn:
        self._observer.rejected(self.key, reason="sizes")
        raise LimitReached(
            f"sizes: expected at most {self._sizes_max} beside its own of model {self.key} at once, got "
            f"{there_are} and {dict(sizes)}; those of which no session is in memory make room",
            fields={LIMIT: "model_sizes_max"},
        )

    def _dropped(self, other: "Scheduler") -> None:
        # What it ran was run.
        self._batches += other._batches
        self._steps += other._steps

    async def _resized(self, sizes: Sizes) -> "Scheduler":
        assert isinstance(self.model, ResizableModel), "its spec names axes"
        model = await asyncio.to_thread(self.model.resized, sizes)
        log.info(
            "sessions of another size are served", model=str(self.key), sizes=dict(sizes),
            state_bytes=model.spec.state_bytes, batch_padding=model.batch_independence.padding,
        )  # fmt: skip
        if not model.batch_independence.holds:
            log.warning("bits depend on the batch's company on this machine", model=str(self.key), sizes=dict(sizes))
        scheduler = self._alike(model)
        # What waits and what goes wrong is the model's, whatever the size.
        scheduler._share(self)
        return scheduler

    def _share(self, other: "Scheduler") -> None:
        self._room, self._idle, self._died = other._room, other._idle, other._died
        self.expect_room, self.expect_room_for = other.expect_room, other.expect_room_for

    def submit(self, ticket: Ticket) -> None:
        """Run the ticket's steps; it is settled when they are done, or when they failed."""
        room = self._room
        room.waiting += ticket.steps
        room.total.waiting += ticket.steps
        account = ticket.session.account
        if account is not None:
            account.admit(ticket.steps)
        ticket.on_settled = self._on_settled
        self._batcher.add(ticket.session)
        self._tick_soon()

    async def until_idle(self) -> None:
        """Until every admitted step is answered."""
        if self._room.waiting:
            self._idle.clear()
        await self._idle.wait()

    async def run(self) -> None:
        """Until cancelled; what is in flight then is the caller's to end. Raises what no boundary caught."""
        await self._died

    def _tick_soon(self) -> None:
        if not self._due:
            self._due = True
            self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        """Start rides while somebody waits and a lane is free; or make one short ride here.

        It comes after what had arrived was admitted, so those who come together ride together.
        """
        self._due = False
        while company := self._next_company():
            if not self._rides_here(company):
                self._lanes_free -= 1
                self._executor.submit(self._ride, company)
                continue
            self._ride_end_s = self._clock() + LONE_RIDE_MAX_S
            try:
                ride = run_ride(self.model, company, self._interrupted)
                self._conclude(company, ride)
            except BaseException as fault:
                return self._die(fault)
            # One ride a turn: short rides in a row must not keep the event loop to themselves.
            return self._tick_soon() if len(self._batcher) else None
        return None

    def _next_company(self) -> list[Ticket]:
        """Whoever rides next, if anybody waits and a lane is free."""
        if not self._lanes_free:
            return []
        company = self._batcher.take(self._lanes_free)
        if company:
            now_s = self._clock()
            for ticket in company:
                if ticket.started_s is None:
                    ticket.started_s = now_s
        return company

    def _ride(self, company: Sequence[Ticket]) -> None:
        """On a compute thread."""
        try:
            ride = run_ride(self.model, company, self._somebody_waits)
        except BaseException as fault:
            self._post(partial(self._die, fault))
        else:
            self._post(partial(self._land, company, ride))

    def _land(self, company: Sequence[Ticket], ride: Ride) -> None:
        self._lanes_free += 1
        # Where a full company waits, its ride comes first: the thread computes while outputs are handed out. A smaller
        # one waits for those who go on from here, so that they ride together.
        if len(self._batcher) >= self._batcher.batch_max and (following := self._next_company()):
            self._lanes_free -= 1
            self._executor.submit(self._ride, following)
        try:
            self._conclude(company, ride)
        except BaseException as fault:
            return self._die(fault)
        return self._tick_soon() if len(self._batcher) else None

    def _die(self, fault: BaseException) -> None:
        if not self._died.done():
            self._died.set_exception(fault)

    def _conclude(self, company: Sequence[Ticket], ride: Ride) -> None:
        self._hand_out(company, ride)
        self._batcher.give_back(company)
        if ride.steps:
            # The least of late: what a run costs, not how long it waited for a core.
            run_s = ride.compute_s / ride.steps
            self._run_s = min(self._run_s * 1.02, run_s)
            self._row_s = min(self._row_s * 1.02, run_s / len(company))

    def _somebody_waits(self) -> bool:
        """Asked by a compute thread between two steps; reading a length needs no lock."""
        return len(self._batcher) > 0

    def _interrupted(self) -> bool:
        """Asked between two steps of a ride on the event loop."""
        self._look_up()
        return len(self._batcher) > 0 or self._clock() > self._ride_end_s

    def _rides_here(self, company: Sequence[Ticket]) -> bool:
        """Whether the ride is made on the event loop, and not on a compute thread."""
        if not self.model.runs_inline:
            return False
        run_s = max(self._run_s, len(company) * self._row_s)
        if self._lone:
            return run_s <= LONE_RUN_MAX_S
        if run_s > INLINE_MAX_S or len(self._batcher):
            return False
        return run_s * min([ticket.steps - ticket.steps_done for ticket in company]) <= INLINE_MAX_S

    def _hand_out(self, company: Sequence[Ticket], ride: Ride) -> None:
        self._batches += ride.steps
        self._steps += ride.steps * len(company)
        self._observer.ride_ran(self.key, rows=len(company), steps=ride.steps, compute_s=ride.compute_s)
        done: list[Ticket] = []
        for row, ticket in enumerate(company):
            if ticket.settled:  # Cancelled, or its session ended, while the ride went on.
                continue
            error = ride.errors[row]
            if error is not None:
                if (
                    isinstance(error, EngineFault) and not ticket.silent
                ):  # Ours or the model's: whoever runs the server must see it.
                    log.error("a step failed", model=str(self.key), session=ticket.session.id, fault=error.detail)
                ticket.session.fail(ticket, error)
                continue
            ticket.take(ride.outputs, StateRow(ride.block, row), row)
            if ticket.steps_done == ticket.steps:
                done.append(ticket)
        if self._keep is not None and (kept := [one for one in done if one.session.kept and not one.recalled]):
            now_s = self._clock()
            for ticket in kept:
                ticket.keeping = True
                ticket.computed_s = now_s
            self._keep(kept, self)
            done = [one for one in done if not one.keeping]
        self._commit(done)
        ride.block.compact()

    def kept(self, tickets: Sequence[Ticket]) -> None:
        """The store has these: they become their sessions', and those go on."""
        self._commit([ticket for ticket in tickets if not ticket.settled])
        for ticket in tickets:
            if ticket.session.in_flight:
                self._batcher.add(ticket.session)
        if len(self._batcher):
            self._tick_soon()

    def _commit(self, done: Sequence[Ticket]) -> None:
        """Messages that are done become their sessions', and are answered."""
        now_s = self._clock()
        left: set[StateBlock] = set()
        for ticket in done:
            left.add(ticket.session.state.block)
            ticket.session.commit(ticket, self._limits, now_s)
            left.add(ticket.session.state.block)
        # Sessions of one message arrive and begin together, and are counted together.
        alike = Counter(
            [(one.submitted_s, one.started_s, one.steps) for one in done if not (one.recalled or one.silent)]
        )
        for (submitted_s, started_s, steps), sessions in alike.items():
            self._observer.steps_settled(
                self.key,
                outcome="ok",
                sessions=sessions,
                steps=steps,
                latency_s=now_s - submitted_s,
                queue_wait_s=None if started_s is None else started_s - submitted_s,
            )
        for ticket in done:
            ticket.settle()
        for block in left:
            block.compact()

    def _settled(self, ticket: Ticket) -> None:
        room = self._room
        room.waiting -= ticket.steps
        room.total.waiting -= ticket.steps
        account = ticket.session.account
        if account is not None:
            account.settle(ticket.steps, answered=ticket.error is None)
        if not room.waiting:
            self._idle.set()


def scheduler_of(schedulers: Mapping[ModelKey, Scheduler], session: Session) -> Scheduler:
    """Who runs a session that is in memory."""
    return schedulers[session.model].of(session.sizes)
