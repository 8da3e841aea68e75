"""The scheduler of one model: takes batches, has the engine run them, hands out what came back.

Rules of this file: one task runs the batches, one after another; everything but `run_batch` happens on
the event loop; a row that fails fails alone.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from ntm_serve.batcher import Batcher, Place
from ntm_serve.errors import EngineFault, LimitReached, NonFiniteState, NtmServeError
from ntm_serve.observer import Observer
from ntm_serve.sessions import Limits, Session
from ntm_serve.spec import Array
from ntm_serve.step_model import StepModel
from ntm_serve.ticket import Ticket


@dataclass(frozen=True)
class SchedulerStatistics:
    """sessions_waiting: in the line. steps_waiting: admitted and not yet answered. The rest since the start."""

    sessions_waiting: int
    steps_waiting: int
    batches: int
    steps: int


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What a batch gave: outputs and next state `[B, ...]`, and for each row an error or None."""

    outputs: Sequence[Array]
    following: Sequence[Array]
    errors: Sequence[NtmServeError | None]
    compute_s: float


class Scheduler:
    """Runs one model's batches. Whoever makes it owns `run`, and awaits it."""

    def __init__(
        self,
        model: StepModel,
        *,
        executor: Executor,
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
        self._batcher = Batcher(model.batch_max)
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
        ticket.runner = self._settled
        self._batcher.add(session)
        self._wake.set()

    async def until_idle(self) -> None:
        """Until every admitted step is answered."""
        await self._idle.wait()

    async def run(self) -> None:
        """Run batches until cancelled; what is in flight then is the caller's to end."""
        loop = asyncio.get_running_loop()
        while True:
            batch = self._batcher.take()
            if not batch:
                self._wake.clear()
                await self._wake.wait()
                continue
            now_s = self._clock()
            for _, ticket in batch:
                if ticket.started_s is None:
                    ticket.started_s = now_s
            result = await loop.run_in_executor(self._executor, run_batch, self.model, batch)
            self._hand_out(batch, result)
            self._batcher.give_back(batch)

    def _hand_out(self, batch: Sequence[Place], result: BatchResult) -> None:
        self._batches += 1
        self._steps += len(batch)
        self._observer.batch_ran(self.key, rows=len(batch), compute_s=result.compute_s)
        now_s = self._clock()
        for row, (session, ticket) in enumerate(batch):
            if ticket.settled:  # Cancelled, or its session ended, while the batch ran.
                continue
            error = result.errors[row]
            if error is not None:
                session.fail(ticket, error)
                continue
            ticket.take_row(result.outputs, result.following, row)
            if ticket.steps_done == ticket.steps:
                session.commit(ticket, self._limits, now_s)
                ticket.settle()

    def _settled(self, ticket: Ticket) -> None:
        self._steps_waiting -= ticket.steps
        if not self._steps_waiting:
            self._idle.set()


def run_batch(model: StepModel, batch: Sequence[Place]) -> BatchResult:
    """One step of every place: gather, run, check. Runs on a compute thread and changes nothing.

    Raises nothing: what goes wrong is each row's error.
    """
    try:
        return _run_batch(model, batch)
    except Exception as fault:  # The boundary: a fault of ours ends these tickets and not the scheduler.
        error = EngineFault(f"model {model.card.key}: a batch failed: {fault!r}")
        return BatchResult([], [], [error] * len(batch), 0.0)


def _run_batch(model: StepModel, batch: Sequence[Place]) -> BatchResult:
    states = [session.state if ticket.state is None else ticket.state for session, ticket in batch]
    rows_of_inputs = [[array[ticket.steps_done] for array in ticket.inputs] for _, ticket in batch]
    inputs = [np.stack(rows) for rows in zip(*rows_of_inputs, strict=True)]
    state = [np.stack(rows) for rows in zip(*states, strict=True)]
    started_s = time.perf_counter()
    try:
        outputs, following = model.run(inputs, state)
        errors: list[NtmServeError | None] = [None] * len(batch)
    except EngineFault:
        outputs, following, errors = _run_rows_alone(model, inputs, state)
    compute_s = time.perf_counter() - started_s
    for row in _non_finite_rows(following):
        session, ticket = batch[row]
        errors[row] = errors[row] or NonFiniteState(
            f"session {session.id}: step {ticket.first_step + ticket.steps_done}: expected a finite next state, "
            f"got NaN or infinity; the session stays at step {session.next_step}",
            fields={"expected_step": str(session.next_step)},
        )
    return BatchResult(outputs, following, errors, compute_s)


def _run_rows_alone(
    model: StepModel, inputs: Sequence[Array], state: Sequence[Array]
) -> tuple[list[Array], list[Array], list[NtmServeError | None]]:
    """The batch failed: run each row by itself, so that only the rows at fault fail."""
    rows = len(inputs[0])
    outputs = [np.zeros((rows, *spec.shape), spec.numpy_dtype) for spec in model.spec.outputs]
    following = [array.copy() for array in state]
    errors: list[NtmServeError | None] = [None] * rows
    for row in range(rows):
        one = slice(row, row + 1)
        try:
            given, next_state = model.run([array[one] for array in inputs], [array[one] for array in state])
        except EngineFault as row_fault:
            errors[row] = row_fault
            continue
        for kept, array in zip([*outputs, *following], [*given, *next_state], strict=True):
            kept[one] = array
    return outputs, following, errors


def _non_finite_rows(following: Sequence[Array]) -> list[int]:
    """Rows with NaN or infinity in any float tensor of the next state."""
    bad: set[int] = set()
    for array in following:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            bad.update(int(row) for row in np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1)))
    return sorted(bad)
