"""Replay: a session as it was, from what a store has of it.

Rules of this file: a snapshot and the records after it, run again through the same scheduler as all other steps, are
the state that was lost; what is damaged, or another model's, is refused by name and harms nobody else; a session that
is made here is in no table.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import structlog

from ntm_serve.beginning import recorded_sizes
from ntm_serve.errors import ModelUnknown, StoreDamaged
from ntm_serve.observer import Observer
from ntm_serve.record import Committed, Recorded, crc_of, read_record
from ntm_serve.scheduler import Scheduler
from ntm_serve.sessions import Session
from ntm_serve.snapshot import SavedState, decoded, expect_state
from ntm_serve.state import StateBlock
from ntm_serve.step_model import ModelKey, StepModel
from ntm_serve.store import StoredSession
from ntm_serve.ticket import Ticket

log = structlog.get_logger()


class Replay:
    """Makes sessions of the models that are served."""

    def __init__(
        self, schedulers: Mapping[ModelKey, Scheduler], *, observer: Observer, clock: Callable[[], float]
    ) -> None:
        self._schedulers = schedulers
        self._observer = observer
        self._clock = clock

    def begun(self, name: str, scheduler: Scheduler, start: SavedState | None, options: bytes = b"") -> Session:
        """A session that made no step here: at step 0, or where `start` is. options: what is recorded of its beginning.
        scheduler: the one of its sizes.
        """
        row = scheduler.initial_state if start is None else StateBlock.of_one(start.state)
        step_bytes = scheduler.model.spec.step_bytes
        session = Session(name, scheduler.key, row, self._clock(), step_bytes=step_bytes)
        session.next_step = 0 if start is None else start.step
        session.options, session.sizes = options, recorded_sizes(options)
        session.use = scheduler.use if session.sizes else None
        return session

    async def replayed(self, stored: StoredSession, *, from_step: int | None, to_step: int | None = None) -> Session:
        """The session as it stood before to_step, or as it stands. Its window reaches back to from_step, where the
        store does. Raises ModelUnknown, StoreDamaged, EngineFault, LimitReached.
        """
        served = self.scheduler_of(stored)
        try:
            sizes = recorded_sizes(stored.head.options)
        except StoreDamaged as fault:
            raise StoreDamaged(f"session {stored.session_id}: {fault.message}") from fault
        scheduler = await served.sized(sizes, comes_back=True)
        with scheduler.use.one_more():
            return await self._replayed(scheduler, stored, from_step, to_step)

    async def _replayed(
        self, scheduler: Scheduler, stored: StoredSession, from_step: int | None, to_step: int | None
    ) -> Session:
        spec = scheduler.model.spec
        end = stored.next_step if to_step is None else to_step
        least = end if from_step is None else min(from_step, end)
        bases = [step for step in bases_of(stored) if step <= end]
        base = max([step for step in bases if step <= least], default=bases[0])
        records = [
            read_record(stored.session_id, one, spec)
            for one in stored.records
            if one.end_step > base and one.first_step < end
        ]
        if not scheduler.model.batch_independence.holds:
            # Run again, steps may give other bits: the newest state is taken, and replies as they were given.
            base = bases[-1]
        saved = saved_at(stored, base, scheduler.model)
        session = self.begun(stored.session_id, scheduler, saved, stored.head.options)
        known = [Committed(one.first_step, one.inputs, one.outputs) for one in records if one.outputs is not None]
        session.window.extend(one for one in known if one.end_step <= base)
        again = [one for one in records if one.end_step > base]
        if again:
            await self._run_again(scheduler, session, again, end)
        return session

    async def _run_again(
        self, scheduler: Scheduler, session: Session, records: Sequence[Recorded], end_step: int
    ) -> None:
        """Run what the records say, as one message; it becomes the session's."""
        steps = slice(session.next_step - records[0].first_step, end_step - records[0].first_step)
        inputs = tuple([np.concatenate(arrays)[steps] for arrays in zip(*[one.inputs for one in records], strict=True)])
        count = len(inputs[0])
        outputs = tuple([np.empty((count, *one.shape), one.numpy_dtype) for one in scheduler.model.spec.outputs])
        ticket, _ = session.admit(inputs, outputs, None, now_s=self._clock())
        ticket.recalled = True
        waiter = _Waiter()
        ticket.add_waiter(waiter, 0)
        scheduler.submit(ticket)
        await waiter.done
        first = ticket.first_step
        # Message by message, as they were made: a window lets go whole messages.
        session.window.pop()
        for one in records:
            part = slice(max(0, one.first_step - first), min(count, one.end_step - first))
            rows = [tuple([array[part] for array in arrays]) for arrays in (inputs, outputs)]
            session.window.append(Committed(first + part.start, *rows))
        for one in records:
            begin, end = one.first_step - first, one.end_step - first
            if begin < 0 or end > count:
                continue
            if crc_of([array[begin:end] for array in outputs]) != one.outputs_crc:
                self._observer.replay_differed(session.model)
                log.warning(
                    "steps that were run again gave other bits than they were answered with: another machine, or "
                    "another version of ONNX Runtime",
                    session=session.id, first_step=one.first_step, engine=scheduler.model.card.engine,
                )  # fmt: skip
                break

    def scheduler_of(self, stored: StoredSession) -> Scheduler:
        """Who runs it. Raises ModelUnknown, and StoreDamaged where the model is not the one that it was opened with."""
        head = stored.head
        key = ModelKey(head.model, head.version)
        scheduler = self._schedulers.get(key)
        if scheduler is None:
            served = ", ".join(map(str, self._schedulers)) or "none"
            raise ModelUnknown(
                f"session {stored.session_id}: is one of model {key}, which is not served here: {served}"
            )
        digest = scheduler.model.card.digest
        if digest != head.digest:
            raise StoreDamaged(
                f"session {stored.session_id}: was opened with model {key} of digest {head.digest}, "
                f"this server's is {digest}"
            )
        return scheduler


def bases_of(stored: StoredSession) -> list[int]:
    """The steps that the store has a state of; the initial state is one where nothing was let go."""
    steps = [snapshot.step for snapshot in stored.snapshots]
    from_the_start = stored.records[0].first_step == 0 if stored.records else not steps
    return [0, *steps] if from_the_start and 0 not in steps else steps


def steps_again(bases: Sequence[int], step: int) -> int:
    """How many steps are run again for the state before that step. bases: the steps that the store has a state of."""
    return step - max(base for base in bases if base <= step)


def saved_at(stored: StoredSession, step: int, model: StepModel) -> SavedState | None:
    """The state that the store has of that step; None is the initial one. Raises StoreDamaged."""
    payloads = [snapshot.payload for snapshot in stored.snapshots if snapshot.step == step]
    if not payloads:
        return None
    what = f"session {stored.session_id}: snapshot of step {step}"
    saved = decoded(payloads[0], what=what, fault=StoreDamaged)
    if (saved.session_id, saved.step) != (stored.session_id, step):
        raise StoreDamaged(f"{what}: got one of session {saved.session_id}, step {saved.step}")
    expect_state(saved, model.card, model.spec.state, what=what, fault=StoreDamaged)
    return saved


class _Waiter:
    """Waits for a ticket by itself: see ticket.Waiter."""

    def __init__(self) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def ticket_settled(self, place: int, ticket: Ticket) -> None:  # noqa: ARG002
        if self.done.done():  # Nobody waits any more.
            return
        if ticket.error is not None:
            self.done.set_exception(ticket.error)
        else:
            self.done.set_result(None)
