"""Which sessions are in memory, and how they come and go: made, brought back, put to rest, given up, taken back.

Rules of this file:
- a session that is not in memory is asked for in the store, and comes back as it was: the newest snapshot that
  serves, and the records after it run again, through the same scheduler as all other steps;
- of one name there is one coming at a time; whoever goes, goes at once;
- what is in memory is right for as long as this server's lease lasts, and not looked at after;
- without a store, sessions live in memory alone.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import structlog

from ntm_serve.beginning import AS_THE_MODEL, Beginning
from ntm_serve.claims import Claims
from ntm_serve.durability import Durability
from ntm_serve.errors import (
    CallerFault,
    InvalidInput,
    LimitReached,
    ModelRejected,
    NtmServeError,
    OwnedElsewhere,
    SessionClosed,
    SessionEvicted,
    SessionExpired,
    SessionUnknown,
    StepAborted,
    StoreUnavailable,
)
from ntm_serve.eviction import leaving
from ntm_serve.keeping import RECORD_OVERHEAD_BYTES, Kept
from ntm_serve.observer import Observer
from ntm_serve.offload import offloaded
from ntm_serve.replay import Replay, bases_of
from ntm_serve.scheduler import Scheduler, scheduler_of
from ntm_serve.session_log import SessionLog
from ntm_serve.sessions import Session, Sessions
from ntm_serve.sizes import Sizes
from ntm_serve.snapshot import encoded
from ntm_serve.step_model import ModelKey
from ntm_serve.store import Claim, Commit, Ending, Head, Snapshot, StoredSession, StoredSummary, StoreStatistics
from ntm_serve.turns import Turns

# When memory is full, so much of it is made free at once: looking for who is to rest goes through all sessions.
ROOM_SHARE = 0.05
# Where those who could make room are too busy to, whoever comes does not look through all again for so long.
BUSY_S = 0.1
# Snapshots written in one commit when a server stops.
REST_GROUP = 256
log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ResidencySettings:
    """durability: of sessions that do not say. resident_bytes_max: of states in memory; None is no limit.
    log_sessions: whether each change of a session's state is a line of the log.
    """

    durability: Durability = Durability.MEMORY
    resident_bytes_max: int | None = None
    log_sessions: bool = False


class Residency:
    """The sessions of a server, in memory and in its store."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        schedulers: Mapping[ModelKey, Scheduler],
        replay: Replay,
        claims: Claims | None,
        settings: ResidencySettings,
        observer: Observer,
        clock: Callable[[], float],
    ) -> None:
        self._sessions = sessions
        self._schedulers = schedulers
        self._replay = replay
        self._claims = claims
        self._settings = settings
        self._observer = observer
        self._clock = clock
        self._turns = Turns()
        self._log = SessionLog(on=settings.log_sessions)
        # How many sessions are being made: there is to be room for all of them.
        self._coming = 0
        # Till when there was nobody to make room.
        self._busy_until_s = -math.inf
        # The lease that was found to be over, so that it is dealt with once.
        self._lapsed_s = -math.inf
        self._lapses = 0
        # Sessions that had steps in flight when it was over; not in the table any more.
        self._aside: dict[str, Session] = {}
        # Sessions that leave when what they have in flight is over; they take no more.
        self.leaving: set[str] = set()
        if claims is not None:
            claims.listen(on_lost=self.lose, on_wanted=self.give_up, on_lapsed=self._lapse)

    @property
    def has_store(self) -> bool:
        return self._claims is not None

    @property
    def store_statistics(self) -> StoreStatistics | None:
        """What the store has, as of not long ago; None without a store."""
        return None if self._claims is None else self._claims.statistics

    def expect_lease(self, now_s: float) -> None:
        """To be called before sessions are looked at. Where this server was not heard of for longer than its lease,
        what it has may be another's by now: its sessions leave memory, and come back from the store.
        """
        claims = self._claims
        if claims is None or now_s <= claims.lease_until_s or claims.lease_until_s == self._lapsed_s:
            return
        self._lapsed_s = claims.lease_until_s
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
                self._tell_left(session, "lease")
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
            if self._claims is not None and session.kept is not None:
                self._claims.release([session.kept.claim])

    async def _until_not_aside(self, session_id: str) -> int | None:
        """Until what its session had in flight when the lease was over is in the store, or refused. The first such
        step, whose reply may be asked for again.
        """
        first_step: int | None = None
        while (session := self._aside.get(session_id)) is not None:
            first_step = session.next_step if first_step is None else first_step
            await until_nothing_in_flight(session)
        return first_step

    def _leave(self, session: Session, *, reason: str) -> None:
        """The session leaves memory, as soon as it has nothing in flight."""
        if not session.in_flight:
            self.leaving.discard(session.id)
            self.put_to_rest([session], reason=reason)
        elif session.id not in self.leaving:  # Others ask many times while it is busy.
            self.leaving.add(session.id)
            session.in_flight[-1].add_follower(partial(self._leave_now, session, reason=reason))

    def _leave_now(self, session: Session, *, reason: str) -> None:
        """What it had in flight is over; it may have more by now."""
        self.leaving.discard(session.id)
        self._leave(session, reason=reason)

    # Coming

    def expect_free(self, model: ModelKey, state_bytes: int, session_id: str | None) -> str:
        """The name, or a random one, for one session more. Raises SessionExists, InvalidInput, LimitReached."""
        try:
            return self._sessions.expect_free(session_id, coming=self._coming, state_bytes=state_bytes)
        except LimitReached:
            self._observer.rejected(model, reason="sessions")
            raise

    @contextmanager
    def making(self, served: Scheduler, sizes: Sizes, session_id: str | None) -> Iterator[None]:
        """A session of these sizes is being made until the block is left, and what its sizes need is made: whoever
        leaves does not end that. Raises LimitReached.
        """
        account = self._sessions.account_of(session_id or "")
        if account is None:
            yield
            return
        made = ExitStack()
        try:
            made.enter_context(account.making(served.key, sizes))
        except LimitReached:
            self._observer.rejected(served.key, reason="sizes")
            raise
        try:
            yield
        finally:
            served.once_sized(sizes, made.close)

    async def create(
        self,
        scheduler: Scheduler,
        session_id: str | None,
        durability: Durability | None,
        *,
        beginning: Beginning = AS_THE_MODEL,
    ) -> Session:
        """A new session of this model, at step 0 or where its beginning says. scheduler: the one of its sizes. Raises
        SessionExists, InvalidInput, LimitReached, StoreUnavailable.
        """
        durability = durability or self._settings.durability
        state_bytes, lapses = scheduler.model.spec.state_bytes, self._lapses
        name = self.expect_free(scheduler.key, state_bytes, session_id)
        async with self._turns(name):
            self.expect_free(scheduler.key, state_bytes, name)
            session = self._replay.begun(name, scheduler, beginning.start, beginning.options)
            self._coming += 1
            self._sessions.come(name, 1, state_bytes)
            try:
                if durability is not Durability.MEMORY:
                    claims = self._expect_store(durability)
                    await claims.expect_lease()
                    lapses = self._lapses
                    session.kept = await _begin(claims, session, scheduler, durability)
                elif session_id is not None and self._claims is not None:
                    await self._claims.expect_unused(name)
            finally:
                self._coming -= 1
                self._sessions.come(name, -1, -state_bytes)
            served = self._schedulers.get(scheduler.key)
            if served is None or scheduler not in served.sized_alike:
                if self._claims is not None and session.kept is not None:
                    self._claims.unbegin(session.kept.claim)
                raise ModelRejected(f"model {scheduler.key}: was taken out while the session was opened")
            self._sessions.add(session)
            self._observer.session_opened(session.model)
            self._log.changed("opened", name, session.model, session.next_step, durability=durability.value)
        if session.kept is not None and self._lapsed_since(lapses):
            self.put_to_rest([session], reason="lease")
        self.make_room(session)
        return session

    def create_here(self, scheduler: Scheduler, session_id: str) -> Session:
        """A new session at step 0, of a server without a store: nothing is waited for. Raises as `create`."""
        assert self._claims is None, "a store is to be asked first"
        name = self.expect_free(scheduler.key, scheduler.model.spec.state_bytes, session_id)
        session = self._replay.begun(name, scheduler, None)
        self._sessions.add(session)
        self._observer.session_opened(session.model)
        self.make_room(session)
        return session

    def close_here(self, session: Session) -> None:
        """End a session of a server without a store at once."""
        assert self._claims is None, "a store is to be told"
        fault = SessionClosed(f"session {session.id}: was closed after {session.next_step} steps")
        self._sessions.end(session, fault)
        lived_s = self._clock() - session.opened_s
        self._observer.session_ended(session.model, reason="client", lived_s=lived_s, steps=session.next_step)

    async def find(self, session_id: str, *, from_step: int | None = 0) -> Session:
        """The session, brought back where it is not in memory. from_step: the lowest step whose reply may be asked for,
        None where none is; the further back, the more is run again.

        Raises SessionUnknown, SessionClosed, SessionExpired, SessionEvicted, OwnedElsewhere, StoreUnavailable,
        StoreDamaged, ModelUnknown.
        """
        session = self.here(session_id)
        if session is not None:
            return session
        self._expect_storable(session_id)
        async with self._turns(session_id):
            return await self._find(session_id, from_step)

    async def _find(self, session_id: str, from_step: int | None) -> Session:
        """As `find`, for who has the session's turn."""
        session = self.here(session_id)
        if session is not None:
            return session
        return await self._bring(self._expect_storable(session_id), session_id, from_step)

    def _expect_storable(self, session_id: str) -> Claims:
        """The store, which may have a session of this name. Raises SessionUnknown and the like where none can."""
        if self._claims is None or not self._sessions.may_be(session_id):
            raise self._sessions.why_not(session_id)
        return self._claims

    async def reach(self, session_id: str, from_step: int | None) -> Session:
        """As `find`, with the replies from from_step on also where the session is in memory and its window does not
        reach so far, as after coming back for a later step: while the store can tell them, it comes back once more.
        """
        async with self._turns(session_id):
            session = self.here(session_id)
            if session is not None and from_step is not None and self.reaches_further(session, from_step):
                await until_nothing_in_flight(session)
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

    async def _bring(self, claims: Claims, session_id: str, from_step: int | None) -> Session:
        started_s = self._clock()
        was_in_flight = await self._until_not_aside(session_id)
        if was_in_flight is not None and from_step is not None:
            from_step = min(from_step, was_in_flight)
        await claims.expect_lease()
        lapses = self._lapses
        claim, stored = await self._claim(claims, session_id)
        claimed_s = self._clock()
        try:
            session = await self._replay.replayed(stored, from_step=from_step)
            if self._lapsed_since(lapses):
                raise OwnedElsewhere(f"session {session_id}: this server's lease was over while it came back")
        except BaseException:
            claims.release([claim])
            raise
        bases = bases_of(stored)
        log_bytes = sum(len(one.payload) + RECORD_OVERHEAD_BYTES for one in stored.records if one.end_step > bases[-1])
        session.kept = Kept(claim, Durability(stored.head.durability), bases, log_bytes)
        session.kept.back_from = session.oldest_step
        session.opened_s = self._clock() - max(0.0, time.time() - stored.head.opened_at_s)
        self._sessions.add(session)
        now_s = self._clock()
        self._observer.session_restored(session.model, took_s=now_s - started_s)
        self._log.changed(
            "woken", session_id, session.model, session.next_step,
            steps_run_again=session.next_step - session.oldest_step,
            claim_s=round(claimed_s - started_s, 4), replay_s=round(now_s - claimed_s, 4),
        )  # fmt: skip
        self.make_room(session)
        return session

    async def _claim(self, claims: Claims, session_id: str) -> tuple[Claim, StoredSession]:
        try:
            return await claims.claim(session_id)
        except SessionUnknown:
            raise self._sessions.why_not(session_id) from None

    # Going

    async def close(self, session_id: str) -> Session | StoredSession:
        """End a session at the caller's wish, also one that could not come back. Raises as `find`."""
        session = self.here(session_id)
        if session is None:
            return await self._close_stored(session_id)
        fault = SessionClosed(f"session {session_id}: was closed after {session.next_step} steps")
        await self._end(session, Ending.CLOSED, fault, reason="client")
        return session

    async def _close_stored(self, session_id: str) -> Session | StoredSession:
        """End a session that is not in memory: nothing of it is run again for that. Raises as `find`."""
        claims = self._expect_storable(session_id)
        async with self._turns(session_id):
            session = self.here(session_id)
            if session is not None:  # It came back meanwhile.
                fault = SessionClosed(f"session {session_id}: was closed after {session.next_step} steps")
                await self._end(session, Ending.CLOSED, fault, reason="client")
                return session
            await claims.expect_lease()
            claim, stored = await self._claim(claims, session_id)
            message = f"session {session_id}: was closed after {stored.next_step} steps"
            await claims.end(claim, Ending.CLOSED, message, Durability(stored.head.durability))
            self._log.changed("closed", session_id, ModelKey(stored.head.model, stored.head.version), stored.next_step)
            return stored

    async def expire(self) -> int:
        """End the sessions whose idle life is over, in memory and in the store; how many."""
        life_s, claims = self._sessions.limits.idle_life_s, self._claims
        self.expect_lease(self._clock())
        self.make_room()  # For those that had steps in flight when others came.
        if claims is not None:
            claims.forget()
        if life_s is None:
            return 0
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
                log.warning("a session did not expire", session=session.id, reason=error.reason, fault=error.detail)
        try:
            expired = [] if claims is None else await claims.expire(life_s)
        except StoreUnavailable as error:  # They expire the next time.
            log.warning("sessions of the store did not expire", reason=error.reason, fault=error.detail)
            return ended
        self._log.expired_in_store(expired)
        return ended + len(expired)

    async def _end(self, session: Session, ending: Ending, fault: CallerFault, *, reason: str) -> None:
        """The session is no more, here and in the store. Raises OwnedElsewhere, StoreUnavailable."""
        self._sessions.end(session, fault)
        self._observer.session_ended(
            session.model, reason=reason, lived_s=self._clock() - session.opened_s, steps=session.next_step
        )
        if self._claims is not None and session.kept is not None:
            await self._claims.end(session.kept.claim, ending, fault.message, session.kept.durability)
        self._log.changed(ending.value.lower(), session.id, session.model, session.next_step)

    def lose(self, session: Session, error: NtmServeError) -> None:
        """The store has it otherwise, or did not say: what is here is worth nothing; its next use asks the store."""
        if self._sessions.get(session.id) is session:
            log.warning(
                "session is not here any more", session=session.id, model=str(session.model), step=session.next_step,
                reason=error.reason, fault=error.detail,
            )  # fmt: skip
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
                self._log.changed("evicted", session.id, session.model, session.next_step)
            else:
                claims.append(session.kept.claim)
                self._sessions.put_out(session, StepAborted(f"session {session.id}: left memory"))
                self._tell_left(session, reason)
        if claims and self._claims is not None:
            self._claims.release(claims)

    def _tell_left(self, session: Session, reason: str) -> None:
        self._observer.session_left(session.model, reason=reason)
        self._log.left(session.id, session.model, session.next_step, reason=reason)

    def give_up(self, session_ids: Sequence[str]) -> None:
        """Others ask for these: they leave, each as soon as it has nothing in flight."""
        for session_id in session_ids:
            session = self._sessions.get(session_id)
            if session is None:
                if self._claims is not None and session_id not in self._turns and session_id not in self._aside:
                    self._claims.disown(session_id)
            elif session.kept is not None:
                self._leave(session, reason="wanted")

    def make_room(self, newcomer: Session | None = None) -> None:
        """Have sessions leave memory until their states fit into it; not the newcomer."""
        most = self._settings.resident_bytes_max
        if most is None:
            return
        over, now_s = self._resident_bytes() - most, self._clock()
        if over <= 0 or (newcomer is not None and now_s < self._busy_until_s):
            return
        # Sessions of models without state take no room that they could make, and are looked past.
        without = {key for key, one in self._schedulers.items() if not _bytes_of(one)}
        those = leaving(
            (one for one in self._sessions if one.model not in without),
            newcomer=newcomer,
            over=over,
            spare=int(ROOM_SHARE * most),
            held_by=lambda account: self._resident_bytes() if account is None else account.state_bytes,
            bytes_of=lambda session: _bytes_of(scheduler_of(self._schedulers, session)),
            smallest=min(
                size for of in self._schedulers.values() for one in of.sized_alike if (size := _bytes_of(one))
            ),
        )
        self.put_to_rest(those, reason="room")
        if self._resident_bytes() > most:
            self._busy_until_s = now_s + BUSY_S

    def _resident_bytes(self) -> int:
        return self._sessions.state_bytes_by_model.total()

    async def leave_all(self) -> None:
        """This server stops: every state is written, and every claim given up."""
        claims = self._claims
        if claims is None:
            return
        sessions = [session for session in self._sessions if session.kept is not None]
        for start in range(0, len(sessions), REST_GROUP):
            group = sessions[start : start + REST_GROUP]
            commits = [commit for session in group if (commit := self._last_commit(session)) is not None]
            if commits:
                await claims.commit(commits)
            # Some may have gone while the store wrote.
            self.put_to_rest(group, reason="drain")

    def _last_commit(self, session: Session) -> Commit | None:
        """Its state, so that whoever takes it over runs nothing again, with whatever engine."""
        kept = session.kept
        if kept is None or session.in_flight or kept.snapshot_steps[-1] == session.next_step:
            return None
        snapshot = kept.snapshot_of(
            session.next_step, session.state.arrays(), scheduler_of(self._schedulers, session).model
        )
        return Commit(kept.claim, time.time(), snapshot=snapshot)

    async def replace(
        self,
        session_id: str,
        make: Callable[[Session], Awaitable[Session]],
        *,
        expect: Callable[[Session], None],
        fault: NtmServeError,
    ) -> Session:
        """Have another take a session's place, which `make` makes of it. expect: may refuse, and then nothing changed.
        fault: answers what the session has in flight. Raises as `find`, and what the others raise.
        """
        async with self._turns(session_id):
            session = await self._find(session_id, 0)
            lapses = self._lapses
            expect(session)
            # From here on messages wait for their turn.
            self._sessions.put_out(session, fault)
            other = await make(session)
            other.opened_s = session.opened_s
            self._sessions.add(other)
            self._log.changed("rewound", session_id, other.model, other.next_step, from_step=session.next_step)
            if self._lapsed_since(lapses) and other.kept is not None:
                self.put_to_rest([other], reason="lease")
            return other

    # What is not in memory

    async def read(self, session_id: str) -> StoredSession:
        """A session as the store has it; it stays there. Raises as `find`."""
        claims = self._expect_storable(session_id)
        try:
            return await claims.read(session_id)
        except SessionUnknown:
            raise self._sessions.why_not(session_id) from None

    def is_elsewhere(self, stored: StoredSession) -> bool:
        """Whether another server has the session, or had it when it was last heard of."""
        return self._claims is not None and stored.owner not in ("", self._claims.owner)

    async def list_stored(self, *, model: str, after: str, limit: int) -> Sequence[StoredSummary]:
        """Sessions of the store, in the order of their ids."""
        self.expect_lease(self._clock())
        return [] if self._claims is None else await self._claims.list(model=model, after=after, limit=limit)

    async def is_stored(self, key: ModelKey) -> bool:
        """Whether the store has a session of this model."""
        self.expect_lease(self._clock())
        return self._claims is not None and await self._claims.has_any(model=key.name, version=key.version)

    # Parts of the above

    def _expect_store(self, durability: Durability) -> Claims:
        if self._claims is None:
            raise InvalidInput(
                f"durability: expected memory, as this server has no store, got {durability}; start it with --store"
            )
        return self._claims


def _bytes_of(scheduler: Scheduler) -> int:
    """Of the state of one of its sessions."""
    return scheduler.model.spec.state_bytes


async def _begin(claims: Claims, session: Session, scheduler: Scheduler, durability: Durability) -> Kept:
    """Have the store begin a session where it stands."""
    card = scheduler.model.card
    head = Head(card.name, card.version, card.digest, durability.value, time.time(), session.options)
    start = None
    if session.state is not scheduler.initial_state:
        spec, step = scheduler.model.spec, session.next_step
        write = partial(encoded, card, spec.state, session.id, step, session.state.arrays())
        start = Snapshot(step, await offloaded(spec.state_bytes, write))
    return Kept(await claims.begin(session.id, head, start), durability, [session.next_step], 0)


async def until_nothing_in_flight(session: Session) -> None:
    """Until all of its steps are answered, those that come meanwhile too."""
    while session.in_flight:
        settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        session.in_flight[-1].add_follower(partial(_settle, settled))
        await settled


def _settle(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():  # Nobody waits any more.
        waiting.set_result(None)
