"""Which sessions are in memory, and how they come and go: made, brought back, put to rest, given up, taken back.

Rules of this file:
- a session that is not in memory is asked for in the store, and comes back as it was: the newest snapshot that
  serves, and the records after it run again, through the same scheduler as all other steps;
- of one name there is one coming or going at a time;
- what is in memory is right for as long as this server's lease lasts, and not looked at after;
- without a store, sessions live in memory alone.
"""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import structlog

from ntm_serve.durability import Durability
from ntm_serve.errors import (
    CallerFault,
    InvalidInput,
    LimitReached,
    ModelUnknown,
    NtmServeError,
    OwnedElsewhere,
    SessionClosed,
    SessionEvicted,
    SessionExists,
    SessionExpired,
    SessionUnknown,
    SnapshotRejected,
    StepAborted,
    StepForgotten,
    StoreDamaged,
    StoreUnavailable,
)
from ntm_serve.keeper import Keeper
from ntm_serve.keeping import RECORD_OVERHEAD_BYTES, Kept
from ntm_serve.observer import Observer
from ntm_serve.record import Committed, Recorded, crc_of, read_record
from ntm_serve.scheduler import Scheduler
from ntm_serve.sessions import Session, Sessions
from ntm_serve.snapshot import SavedState, decoded, encoded, expect_state
from ntm_serve.spec import expect_finite
from ntm_serve.state import StateBlock
from ntm_serve.step_model import ModelKey, StepModel
from ntm_serve.store import Claim, Commit, Ending, Head, Snapshot, StoredSession, StoredSummary, StoreStatistics
from ntm_serve.ticket import Ticket
from ntm_serve.turns import Turns

# Between two questions whether another server has given up a session that it was asked for.
ASK_AGAIN_S = 0.025
# When memory is full, so much of it is made free at once: looking for who is to rest goes through all sessions.
ROOM_SHARE = 0.05
# Snapshots written in one commit when a server stops.
REST_GROUP = 256
# Sessions looked at in the store in one go.
LIST_PAGE = 1000
# Sessions ended in the store in one go.
EXPIRE_GROUP = 1000

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ResidencySettings:
    """durability: of sessions that do not say. resident_bytes_max: of states in memory; None is no limit.
    handover_s: how long another server that has a session is waited for. ended_life_s: how long it is remembered why
    a session ended.
    """

    durability: Durability = Durability.MEMORY
    resident_bytes_max: int | None = None
    handover_s: float = 3.0
    ended_life_s: float = 7 * 24 * 3600.0


class Residency:
    """The sessions of a server, in memory and in its store."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        schedulers: Mapping[ModelKey, Scheduler],
        keeper: Keeper | None,
        settings: ResidencySettings,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._sessions = sessions
        self._schedulers = schedulers
        self._keeper = keeper
        self._settings = settings
        self._observer = observer
        self._clock = clock
        self._turns = Turns()
        # How many sessions are being made: there is to be room for all of them.
        self._coming = 0
        # The lease that was found to be over, so that it is dealt with once.
        self._lapsed_s = -math.inf
        self._lapses = 0
        # Sessions that had steps in flight when it was over; not in the table any more.
        self._aside: dict[str, Session] = {}
        # Sessions that leave when what they have in flight is over.
        self._leaving: set[str] = set()
        if keeper is not None:
            keeper.on_lost = self.lose
            keeper.on_wanted = self.give_up
            keeper.on_lapsed = self._lapse

    @property
    def has_store(self) -> bool:
        return self._keeper is not None

    @property
    def store_statistics(self) -> StoreStatistics | None:
        """What the store has, as of not long ago; None without a store."""
        return None if self._keeper is None else self._keeper.statistics

    def expect_lease(self, now_s: float) -> None:
        """To be called before sessions are looked at. Where this server was not heard of for longer than its lease,
        what it has may be another's by now: its sessions leave memory, and come back from the store.
        """
        keeper = self._keeper
        if keeper is None or now_s <= keeper.lease_until_s or keeper.lease_until_s == self._lapsed_s:
            return
        self._lapsed_s = keeper.lease_until_s
        self._lapse()

    def _lapse(self) -> None:
        """What is in memory may be another's. Steps in flight go on, and learn it from the store, with their commit;
        till then nothing is answered from what their sessions were.
        """
        self._lapses += 1
        mine = [session for session in self._sessions if session.kept is not None]
        self.put_to_rest(mine, reason="lease")
        for session in mine:
            if session.in_flight:
                self._sessions.set_aside(session)
                self._observer.session_left(session.model, reason="lease")
                self._aside[session.id] = session
                self._end_aside(session)

    def _lapsed_since(self, lapses: int) -> bool:
        """Whether the lease was over after it had been so often: what was claimed before may be another's."""
        self.expect_lease(self._clock())
        return self._lapses != lapses

    def _end_aside(self, session: Session) -> None:
        """Once it has nothing in flight."""
        if session.in_flight:
            session.in_flight[-1].add_follower(partial(self._end_aside, session))
        elif self._aside.get(session.id) is session:
            del self._aside[session.id]
            session.end(StepAborted(f"session {session.id}: left memory"))
            if self._keeper is not None and session.kept is not None:
                self._keeper.release([session.kept.claim])

    async def _until_not_aside(self, session_id: str) -> int | None:
        """Until what its session had in flight when the lease was over is in the store, or refused. The first such
        step, whose reply may be asked for again.
        """
        first_step: int | None = None
        while (session := self._aside.get(session_id)) is not None:
            first_step = session.next_step if first_step is None else first_step
            await _until_nothing_in_flight(session)
        return first_step

    def _leave(self, session: Session, *, reason: str) -> None:
        """The session leaves memory, as soon as it has nothing in flight."""
        if not session.in_flight:
            self._leaving.discard(session.id)
            self.put_to_rest([session], reason=reason)
        elif session.id not in self._leaving:  # Others ask many times while it is busy.
            self._leaving.add(session.id)
            session.in_flight[-1].add_follower(partial(self._leave_now, session, reason=reason))

    def _leave_now(self, session: Session, *, reason: str) -> None:
        """What it had in flight is over; it may have more by now."""
        self._leaving.discard(session.id)
        self._leave(session, reason=reason)

    # Coming

    async def create(
        self,
        scheduler: Scheduler,
        session_id: str | None,
        durability: Durability | None,
        *,
        start: SavedState | None = None,
    ) -> Session:
        """A new session of this model, at step 0 or where `start` is. Raises SessionExists, InvalidInput,
        LimitReached, StoreUnavailable.
        """
        durability = durability or self._settings.durability
        name = self._free(scheduler, session_id)
        async with self._turns(name):
            self._free(scheduler, name)
            session = self._session(name, scheduler, start)
            self._coming += 1
            try:
                if durability is not Durability.MEMORY and self._keeper is not None:
                    await self._expect_word_taken(self._keeper)
                lapses = self._lapses
                if durability is not Durability.MEMORY:
                    session.kept = await self._begin(session, scheduler, durability)
                elif session_id is not None:
                    await self._expect_not_stored(name)
            finally:
                self._coming -= 1
            self._sessions.add(session)
            self._observer.session_opened(session.model)
        if self._lapsed_since(lapses) and session.kept is not None:
            self.put_to_rest([session], reason="lease")
        self.make_room(session)
        return session

    async def find(self, session_id: str, *, from_step: int | None = 0) -> Session:
        """The session, brought back where it is not in memory. from_step: the lowest step whose reply may be asked for,
        None where none is; the further back, the more is run again.

        Raises SessionUnknown, SessionClosed, SessionExpired, SessionEvicted, OwnedElsewhere, StoreUnavailable,
        StoreDamaged, ModelUnknown.
        """
        session = self.here(session_id)
        if session is not None:
            return session
        if self._keeper is None:
            raise self._sessions.why_not(session_id)
        async with self._turns(session_id):
            return await self._find(session_id, from_step)

    async def _find(self, session_id: str, from_step: int | None) -> Session:
        """As `find`, for who has the session's turn."""
        session = self.here(session_id)
        if session is not None:
            return session
        if self._keeper is None:
            raise self._sessions.why_not(session_id)
        return await self._bring(self._keeper, session_id, from_step)

    async def reach(self, session_id: str, from_step: int | None) -> Session:
        """As `find`, with the replies from from_step on also where the session is in memory and its window does not
        reach so far, as after coming back for a later step: while the store can tell them, it comes back once more.
        """
        async with self._turns(session_id):
            session = self.here(session_id)
            if session is not None and from_step is not None and self.reaches_further(session, from_step):
                await _until_nothing_in_flight(session)
                self.put_to_rest([one for one in [self.here(session_id)] if one is session], reason="retry")
            return await self._find(session_id, from_step)

    @staticmethod
    def reaches_further(session: Session, step: int) -> bool:
        """Whether the store can tell the reply to this step, and the session's window cannot."""
        return session.kept is not None and session.kept.oldest_step <= step < session.oldest_step

    def here(self, session_id: str) -> Session | None:
        """The session where it is in memory, and right."""
        self.expect_lease(self._clock())
        return self._sessions.get(session_id)

    async def _bring(self, keeper: Keeper, session_id: str, from_step: int | None) -> Session:
        started_s = self._clock()
        was_in_flight = await self._until_not_aside(session_id)
        if was_in_flight is not None and from_step is not None:
            from_step = min(from_step, was_in_flight)
        await self._expect_word_taken(keeper)
        lapses = self._lapses
        claim, stored = await self._claim(keeper, session_id)
        try:
            scheduler = self._scheduler_of(stored)
            session = await self._replayed(scheduler, stored, from_step=from_step)
            if self._lapsed_since(lapses):
                raise OwnedElsewhere(f"session {session_id}: this server's lease was over while it came back")
        except BaseException:
            keeper.release([claim])
            raise
        bases = bases_of(stored)
        log_bytes = sum(len(one.payload) + RECORD_OVERHEAD_BYTES for one in stored.records if one.end_step > bases[-1])
        session.kept = Kept(claim, Durability(stored.head.durability), bases, log_bytes)
        session.kept.back_from = session.oldest_step
        session.opened_s = self._clock() - max(0.0, time.time() - stored.head.opened_at_s)
        self._sessions.add(session)
        self._observer.session_restored(session.model, took_s=self._clock() - started_s)
        log.debug("session came back", session=session_id, step=session.next_step)
        self.make_room(session)
        return session

    async def _expect_word_taken(self, keeper: Keeper) -> None:
        """To be called before a session is claimed: without a lease it would be anybody's at once, and nobody would
        notice here. Raises StoreUnavailable.
        """
        if self._clock() > keeper.lease_until_s:
            await keeper.give_word()
            if self._clock() > keeper.lease_until_s:
                raise StoreUnavailable("store: it did not take this server's word that it lives, or not in time")

    async def _claim(self, keeper: Keeper, session_id: str) -> tuple[Claim, StoredSession]:
        """Claim it, once whoever has it gave it up. Raises as `find`."""
        end_s = self._clock() + self._settings.handover_s

        def release(claimed: tuple[Claim, StoredSession]) -> None:
            keeper.store.release([claimed[0]])

        while True:
            try:
                return await keeper.call(
                    lambda: keeper.store.claim(session_id, owner=keeper.owner, now_s=time.time()), undo=release
                )
            except OwnedElsewhere:
                if self._clock() > end_s:
                    raise
                await asyncio.sleep(ASK_AGAIN_S)
            except SessionUnknown:
                raise self._sessions.why_not(session_id) from None

    async def _replayed(
        self, scheduler: Scheduler, stored: StoredSession, *, from_step: int | None, to_step: int | None = None
    ) -> Session:
        """The session as it stood before to_step, or as it stands; in no table. Its window reaches back to from_step,
        where the store does. Raises StoreDamaged.
        """
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
        session = self._session(stored.session_id, scheduler, saved)
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

    # Going

    async def close(self, session_id: str) -> Session | StoredSession:
        """End a session at the caller's wish, also one that could not come back. Raises as `find`."""
        try:
            session = await self.find(session_id)
        except (StoreDamaged, ModelUnknown):
            return await self._close_stored(session_id)
        fault = SessionClosed(f"session {session_id}: was closed after {session.next_step} steps")
        await self._end(session, Ending.CLOSED, fault, reason="client")
        return session

    async def _close_stored(self, session_id: str) -> StoredSession:
        """End a session that stays in the store. Raises StoreDamaged where it cannot even be claimed."""
        keeper = self._keeper
        assert keeper is not None, "only what a store has may not come back"
        async with self._turns(session_id):
            claim, stored = await self._claim(keeper, session_id)
            message = f"session {session_id}: was closed after {stored.next_step} steps"
            await keeper.call(lambda: keeper.store.end([claim], Ending.CLOSED, message, now_s=time.time()))
            return stored

    async def expire(self) -> int:
        """End the sessions whose idle life is over, in memory and in the store; how many."""
        life_s, keeper = self._sessions.limits.idle_life_s, self._keeper
        if life_s is None:
            return 0
        self.expect_lease(self._clock())
        ended = 0
        for session in self._sessions.idle(self._clock()):
            # While the store was asked to end the ones before, this one may have gone, or been used.
            if self._sessions.get(session.id) is not session or not session.is_idle(self._clock(), life_s):
                continue
            ended += 1
            message = f"session {session.id}: expired after {life_s:g} s without a step, at step {session.next_step}"
            try:
                await self._end(session, Ending.EXPIRED, SessionExpired(message), reason="idle")
            except NtmServeError as error:  # Another has it by now, or nobody knows: it is not this server's to end.
                log.warning("a session did not expire", session=session.id, reason=error.reason, fault=error.message)
        if keeper is None:
            return ended
        message = f"expired after {life_s:g} s without a step"
        now_s = time.time()

        def expire() -> int:
            expired = keeper.store.expire(
                unused_since_s=now_s - life_s, message=message, now_s=now_s, limit=EXPIRE_GROUP
            )
            keeper.store.forget(ended_before_s=now_s - self._settings.ended_life_s)
            return len(expired)

        try:
            return ended + await keeper.call(expire)
        except StoreUnavailable as error:  # They expire the next time.
            log.warning("sessions of the store did not expire", reason=error.reason, fault=error.message)
            return ended

    async def _end(self, session: Session, ending: Ending, fault: CallerFault, *, reason: str) -> None:
        """The session is no more, here and in the store. Raises OwnedElsewhere, StoreUnavailable."""
        self._sessions.end(session, fault)
        self._observer.session_ended(
            session.model, reason=reason, lived_s=self._clock() - session.opened_s, steps=session.next_step
        )
        keeper, kept = self._keeper, session.kept
        if keeper is None or kept is None:
            return

        def end() -> None:
            [error] = keeper.store.end([kept.claim], ending, fault.message, now_s=time.time())
            if error is not None:
                raise error
            _sync(keeper, kept.durability)

        await keeper.call(end)

    def lose(self, session: Session, error: NtmServeError) -> None:
        """The store has it otherwise, or did not say: what is here is worth nothing; its next use asks the store."""
        if self._sessions.get(session.id) is session:
            log.warning("session is not here any more", session=session.id, reason=error.reason, fault=error.message)
            self._observer.session_left(session.model, reason=error.reason)
            self._sessions.put_out(session, error)
        elif self._aside.get(session.id) is session:
            del self._aside[session.id]
            session.end(error)

    def put_to_rest(self, sessions: Sequence[Session], *, reason: str) -> None:
        """They leave memory, and come back at their next use; but not those with steps in flight, and those that went
        already.
        """
        claims: list[Claim] = []
        for session in sessions:
            if session.in_flight or self._sessions.get(session.id) is not session:
                continue
            if session.kept is None:
                message = f"session {session.id}: made room at step {session.next_step}; it lived in memory alone"
                self._sessions.end(session, SessionEvicted(message))
                lived_s = self._clock() - session.opened_s
                self._observer.session_ended(session.model, reason="evicted", lived_s=lived_s, steps=session.next_step)
            else:
                claims.append(session.kept.claim)
                self._sessions.put_out(session, StepAborted(f"session {session.id}: left memory"))
                self._observer.session_left(session.model, reason=reason)
        if claims and self._keeper is not None:
            self._keeper.release(claims)

    def give_up(self, session_ids: Sequence[str]) -> None:
        """Others ask for these: they leave, each as soon as it has nothing in flight."""
        for session_id in session_ids:
            session = self._sessions.get(session_id)
            if session is None:
                if self._keeper is not None and session_id not in self._turns and session_id not in self._aside:
                    self._keeper.disown(session_id)
            elif session.kept is not None:
                self._leave(session, reason="wanted")

    def make_room(self, newcomer: Session) -> None:
        """Have sessions leave memory until their states fit into it; not the newcomer."""
        most = self._settings.resident_bytes_max
        if most is None:
            return
        over = self._resident_bytes() - most
        if over <= 0:
            return
        smallest = max(1, min(one.model.spec.state_bytes for one in self._schedulers.values()))
        leaving: list[Session] = []
        over += int(ROOM_SHARE * most)
        for session in self._sessions.least_used(-(-over // smallest)):
            if over <= 0:
                break
            if session is newcomer:
                continue
            over -= self._schedulers[session.model].model.spec.state_bytes
            leaving.append(session)
        self.put_to_rest(leaving, reason="room")

    def _resident_bytes(self) -> int:
        counts = self._sessions.open_by_model
        return sum(counts[key] * one.model.spec.state_bytes for key, one in self._schedulers.items())

    async def leave_all(self) -> None:
        """This server stops: every state is written, and every claim given up."""
        keeper = self._keeper
        if keeper is None:
            return
        sessions = [session for session in self._sessions if session.kept is not None]
        for start in range(0, len(sessions), REST_GROUP):
            group = sessions[start : start + REST_GROUP]
            commits = [commit for session in group if (commit := self._last_commit(session)) is not None]
            if commits:
                await keeper.call(partial(keeper.store.commit, commits))
            # Some may have gone while the store wrote.
            self.put_to_rest(group, reason="drain")

    def _last_commit(self, session: Session) -> Commit | None:
        """Its state, so that whoever takes it over runs nothing again, with whatever engine."""
        kept = session.kept
        if kept is None or session.in_flight or kept.snapshot_steps[-1] == session.next_step:
            return None
        snapshot = kept.snapshot_of(session.next_step, session.state.arrays(), self._schedulers[session.model].model)
        return Commit(kept.claim, time.time(), snapshot=snapshot)

    # States

    async def saved_state(self, session_id: str, step: int | None) -> tuple[Session, SavedState]:
        """A session, and its state before that step, or as it stands. Raises as `find`, and StepForgotten and
        InvalidInput for a step that it cannot be taken back to.
        """
        session = await self.find(session_id)
        if step is None or step == session.next_step:
            return session, self._saved(session)
        self._expect_retained(session, step)
        past = await self._past(session, step)
        return session, self._saved(past)

    async def fork(
        self, session_id: str, fork_id: str | None, step: int | None, durability: Durability | None
    ) -> Session:
        """A new session where another stands, or stood before that step. Raises as `saved_state` and `create`."""
        session, saved = await self.saved_state(session_id, step)
        if durability is None:
            durability = Durability.MEMORY if session.kept is None else session.kept.durability
        return await self.create(self._schedulers[session.model], fork_id, durability, start=saved)

    async def restore(self, saved: SavedState, session_id: str | None, durability: Durability | None) -> Session:
        """A new session where a snapshot was taken. Raises SnapshotRejected where no model that is served made it,
        InvalidInput where the state is not finite, and as `create`.
        """
        for scheduler in self._schedulers.values():
            card = scheduler.model.card
            if (card.digest, card.name) == (saved.digest, saved.model) or (
                saved.digest and card.digest == saved.digest
            ):
                expect_state(saved, card, scheduler.model.spec.state, what="snapshot", fault=SnapshotRejected)
                for spec, array in zip(scheduler.model.spec.state, saved.state, strict=True):
                    expect_finite(f"snapshot: {spec.name}", array)
                return await self.create(scheduler, session_id, durability, start=saved)
        served = ", ".join(f"{key} with digest {one.model.card.digest}" for key, one in self._schedulers.items())
        raise SnapshotRejected(
            f"snapshot: expected one of a model that is served here ({served}), "
            f"got one of {saved.model}/{saved.version} with digest {saved.digest}"
        )

    async def rewind(self, session_id: str, step: int) -> Session:
        """Take a session back to that step. Steps in flight are answered with StepAborted. Raises as `saved_state`."""
        async with self._turns(session_id):
            session = await self._find(session_id, 0)
            lapses = self._lapses
            if step != session.next_step:
                self._expect_retained(session, step)
            # From here on messages wait for their turn.
            self._sessions.put_out(session, StepAborted(f"session {session_id}: was rewound to step {step}"))
            keeper, kept = self._keeper, session.kept
            if keeper is None or kept is None:
                past = self._session(session_id, self._schedulers[session.model], self._saved(session))
            else:
                past = await self._past(session, step)
                start = kept.snapshot_of(step, past.state.arrays(), self._schedulers[session.model].model)
                claim, durability = kept.claim, kept.durability

                def restart() -> None:
                    keeper.store.restart(claim, start, used_at_s=time.time())
                    _sync(keeper, durability)

                await keeper.call(restart)
                past.kept = Kept(claim, durability, [step], 0)
                past.window.clear()
            past.opened_s = session.opened_s
            self._sessions.add(past)
            if self._lapsed_since(lapses) and past.kept is not None:
                self.put_to_rest([past], reason="lease")
            return past

    async def _past(self, session: Session, step: int) -> Session:
        """The session as it stood before that step, in no table."""
        keeper = self._keeper
        assert keeper is not None, "only a store knows the past"
        stored = await keeper.call(partial(keeper.store.read, session.id))
        # Since it was found to be retained, others may have gone on with the session, or rewound it.
        self._expect_between(session, bases_of(stored)[0], step, stored.next_step)
        return await self._replayed(self._scheduler_of(stored), stored, from_step=None, to_step=step)

    def _expect_retained(self, session: Session, step: int) -> None:
        self._expect_between(session, session.oldest_retained_step, step, session.next_step)

    def _expect_between(self, session: Session, oldest: int, step: int, newest: int) -> None:
        if oldest <= step <= newest:
            return
        why = "it lives in memory alone" if session.kept is None else "what led there was let go"
        message = f"session {session.id}: expected a step from {oldest} to {newest}, got {step}"
        if step < oldest:
            raise StepForgotten(f"{message}: {why}", fields={"oldest_step": str(oldest)})
        raise InvalidInput(message)

    def _saved(self, session: Session) -> SavedState:
        """Its state by itself: a session's is a row of a block with others'."""
        card = self._schedulers[session.model].model.card
        state = tuple([array.copy() for array in session.state.arrays()])
        return SavedState(card.name, card.version, card.digest, card.engine, session.id, session.next_step, state)

    # What is not in memory

    async def read(self, session_id: str) -> StoredSession:
        """A session as the store has it; it stays there. Raises as `find`."""
        keeper = self._keeper
        if keeper is None:
            raise self._sessions.why_not(session_id)
        try:
            return await keeper.call(partial(keeper.store.read, session_id))
        except SessionUnknown:
            raise self._sessions.why_not(session_id) from None

    async def list_stored(self, *, model: str, after: str, limit: int) -> Sequence[StoredSummary]:
        """Sessions of the store, in the order of their ids."""
        self.expect_lease(self._clock())
        keeper = self._keeper
        if keeper is None:
            return []
        return await keeper.call(lambda: keeper.store.list(after=after, limit=limit, model=model))

    async def is_stored(self, key: ModelKey) -> bool:
        """Whether the store has a session of this model."""
        after = ""
        while page := await self.list_stored(model=key.name, after=after, limit=LIST_PAGE):
            if any(one.head.version == key.version for one in page):
                return True
            after = page[-1].session_id
        return False

    # Parts of the above

    def _free(self, scheduler: Scheduler, session_id: str | None) -> str:
        try:
            return self._sessions.expect_free(session_id, coming=self._coming)
        except LimitReached:
            self._observer.rejected(scheduler.key, reason="sessions")
            raise

    def _session(self, name: str, scheduler: Scheduler, start: SavedState | None) -> Session:
        """A session in no table."""
        row = scheduler.initial_state if start is None else StateBlock.of_one(start.state)
        step_bytes = scheduler.model.spec.step_bytes
        session = Session(name, scheduler.key, row, self._clock(), step_bytes=step_bytes)
        session.next_step = 0 if start is None else start.step
        return session

    async def _begin(self, session: Session, scheduler: Scheduler, durability: Durability) -> Kept:
        """Have the store begin a session where it stands."""
        keeper = self._keeper
        if keeper is None:
            raise InvalidInput(f"durability: expected memory, as this server has no store, got {durability}")
        card, now_s = scheduler.model.card, time.time()
        head = Head(card.name, card.version, card.digest, durability.value, now_s)
        start = None
        if session.state is not scheduler.initial_state:
            payload = encoded(card, scheduler.model.spec.state, session.id, session.next_step, session.state.arrays())
            start = Snapshot(session.next_step, payload)

        def create() -> Claim:
            _sync(keeper, durability)  # Refused where the store cannot.
            claim = keeper.store.create(session.id, head, owner=keeper.owner, now_s=now_s, start=start)
            _sync(keeper, durability)
            return claim

        def undo(claim: Claim) -> None:
            message = f"session {session.id}: whoever opened it left before it was open"
            keeper.store.end([claim], Ending.CLOSED, message, now_s=time.time())

        return Kept(await keeper.call(create, undo=undo), durability, [session.next_step], 0)

    async def _expect_not_stored(self, session_id: str) -> None:
        """A name in memory alone must not hide one in the store. Raises SessionExists."""
        keeper = self._keeper
        if keeper is None:
            return
        try:
            await keeper.call(partial(keeper.store.read, session_id))
        except (SessionUnknown, SessionClosed, SessionExpired, SessionEvicted):
            return
        raise SessionExists(f"session {session_id}: is open; expected a name that is not in use")

    def _scheduler_of(self, stored: StoredSession) -> Scheduler:
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


def _sync(keeper: Keeper, durability: Durability) -> None:
    """On the store's thread: what was written for a session of durability disk is on the disk before it is told."""
    if durability is Durability.DISK:
        keeper.store.sync()


async def _until_nothing_in_flight(session: Session) -> None:
    while session.in_flight:
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        session.in_flight[-1].add_follower(partial(_settle, settled))
        await settled


def _settle(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():  # Nobody waits any more.
        waiting.set_result(None)


def bases_of(stored: StoredSession) -> list[int]:
    """The steps that the store has a state of; the initial state is one where nothing was let go."""
    steps = [snapshot.step for snapshot in stored.snapshots]
    from_the_start = stored.records[0].first_step == 0 if stored.records else not steps
    return [0, *steps] if from_the_start and 0 not in steps else steps


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
