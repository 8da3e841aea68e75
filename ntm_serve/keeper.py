"""The keeper: talks to the store, on one thread and in the order of asking, but for two things.

Rules of this file: nobody else calls the store; a commit to a local store is written by the event loop itself, while
the thread does nothing that it could wait for; otherwise messages that were done while one was written are the next
together; that this server lives is said on a thread of its own; what the store did not answer is asked again, as it
was, until patience ends.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import NamedTuple, TypeVar

import structlog

from ntm_serve.durability import Durability
from ntm_serve.errors import NtmServeError, StoreUnavailable
from ntm_serve.keeping import Kept, Retention
from ntm_serve.observer import Observer
from ntm_serve.scheduler import Post, Scheduler
from ntm_serve.sessions import Session
from ntm_serve.store import Commit, Store, StoreStatistics
from ntm_serve.ticket import Ticket

# What a commit on the event loop may be of, as bytes of its sessions' states: now and then they are all in it.
HERE_BYTES_MAX = 4 << 20

# How old statistics of the store may be.
STATISTICS_S = 5.0

# Between two attempts, when the store did not answer.
RETRY_S = 0.05

log = structlog.get_logger()

Answer = TypeVar("Answer")

Lost = Callable[[Session, NtmServeError], None]


class _Done(NamedTuple):
    """A ticket whose steps are done, and the oldest step that a retry of its session may ask for."""

    ticket: Ticket
    kept: Kept
    scheduler: Scheduler
    window_step: int


class _Groups:
    """What the thread is given to do: all that came while it was at work is the next group."""

    def __init__(self, begin: Callable[[Sequence[_Done]], object]) -> None:
        self._begin = begin
        self._waiting: list[_Done] = []
        self.at_work = False

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def add(self, group: Sequence[_Done]) -> None:
        self._waiting += group
        if not self.at_work:
            self.go_on()

    def go_on(self) -> None:
        """To be called when a group is over."""
        group, self._waiting = self._waiting, []
        self.at_work = bool(group)
        if group:
            self._begin(group)


class Keeper:
    """Whoever makes it owns `run`, and awaits `close`."""

    def __init__(
        self,
        store: Store,
        *,
        owner: str,
        retention: Retention,
        lease_s: float,
        poll_s: float,
        patience_s: float,
        observer: Observer,
        post: Post,
    ) -> None:
        """owner: this server, a name that no other has and that it does not have again. lease_s: for how long after
        its last word others take it to be alive. poll_s: how often it gives word, and looks who is wanted elsewhere.
        patience_s: how long the store may not answer, until what waits for it fails.
        """
        self.store = store
        self.owner = owner
        self.retention = retention
        self._lease_s = lease_s
        self._poll_s = poll_s
        self._patience_s = patience_s
        self._observer = observer
        self._post = post
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        # That this server lives must not wait behind what is asked of the store.
        self._word = ThreadPoolExecutor(1, thread_name_prefix="word")
        self._is_silent = False
        # Done, and to be written on the thread; and written, and not known to be on the disk.
        self._unwritten = _Groups(lambda group: self._thread.submit(self._write, group, self._patience_end_s()))
        self._unsynced = _Groups(lambda group: self._thread.submit(self._sync, group, self._patience_end_s()))
        # What was asked on the thread and is not answered, but for the disk.
        self._asked = 0
        self._closing = threading.Event()
        self._died: asyncio.Future[None] = self._loop.create_future()
        # Until when, on the monotonic clock, nobody takes a session without asking.
        self.lease_until_s = 0.0
        # What the store has, as of not long ago.
        self.statistics: StoreStatistics | None = None
        self._counted_s = -STATISTICS_S
        # Told of sessions that are not this server's any more, and of those that others ask for.
        self.on_lost: Lost = lambda _session, _error: None
        self.on_wanted: Callable[[Sequence[str]], None] = lambda _session_ids: None
        # Told when this server gives word again after its lease was over: till then its sessions were anybody's.
        self.on_lapsed: Callable[[], None] = lambda: None

    def silent_s(self) -> float:
        """Seconds since the store last took this server's word."""
        return time.monotonic() - (self.lease_until_s - self._lease_s)

    # The path of a step

    def keep(self, tickets: Sequence[Ticket], scheduler: Scheduler) -> None:
        """Have the store keep what these tickets made; the scheduler is told, at once where the store is quick."""
        group = [
            _Done(ticket, kept := _kept_of(ticket.session), scheduler, kept.window_step(ticket.session.oldest_step))
            for ticket in tickets
        ]
        if self.store.is_local and not (self._asked or self._unwritten.at_work) and self._is_light(group):
            self._write_here(group)
        else:
            self._unwritten.add(group)

    def _is_light(self, group: Sequence[_Done]) -> bool:
        return len(group) * group[0].scheduler.model.spec.state_bytes <= HERE_BYTES_MAX

    def _write_here(self, group: Sequence[_Done]) -> None:
        """On the event loop: to write is less than to hand it to a thread and hear of it."""
        started_s = time.perf_counter()
        commits = self._commits_of(group)
        try:
            errors = self.store.commit(commits)
        except StoreUnavailable:  # It takes its time: on its thread it is waited for.
            self._unwritten.add(group)
            return
        except NtmServeError as error:
            errors = [error] * len(commits)
        except Exception as fault:  # Nobody knows what the store has: the server ends, and what it kept is there.
            self._die(fault)
            return
        kept = self._conclude(group, commits, errors, time.perf_counter() - started_s)
        if unsynced := [done for done in kept if done.kept.durability is Durability.DISK]:
            kept = [done for done in kept if done.kept.durability is not Durability.DISK]
            self._unsynced.add(unsynced)
        _tell(kept)

    def _sync(self, group: Sequence[_Done], end_s: float) -> None:
        """On the store's thread."""
        error: NtmServeError | None = None
        try:
            self._insist(self.store.sync, end_s)
        except NtmServeError as refusal:
            error = refusal
        except BaseException as fault:  # What a disk failed to take it says to have taken when asked again.
            self._post(partial(self._die, fault))
            return
        self._post(partial(self._synced, group, error))

    def _synced(self, group: Sequence[_Done], error: NtmServeError | None) -> None:
        # First, so that the disk works while replies are written.
        self._unsynced.go_on()
        if error is None:
            _tell(group)
        else:
            for done in group:
                self.on_lost(done.ticket.session, error)

    def _write(self, group: Sequence[_Done], end_s: float) -> None:
        """On the store's thread."""
        try:
            started_s = time.perf_counter()
            commits = self._commits_of(group)
            errors: Sequence[NtmServeError | None]
            try:
                errors = self._insist(partial(self.store.commit, commits), end_s)
                if any(done.kept.durability is Durability.DISK for done in group):
                    self._insist(self.store.sync, end_s)
            except NtmServeError as error:
                errors = [error] * len(commits)
            took_s = time.perf_counter() - started_s
        except BaseException as fault:
            self._post(partial(self._die, fault))
        else:
            self._post(partial(self._written, group, commits, errors, took_s))

    def _written(
        self, group: Sequence[_Done], commits: Sequence[Commit], errors: Sequence[NtmServeError | None], took_s: float
    ) -> None:
        # First, so that the store works while replies are written.
        self._unwritten.go_on()
        _tell(self._conclude(group, commits, errors, took_s))

    def _commits_of(self, group: Sequence[_Done]) -> list[Commit]:
        now_s, retention = time.time(), self.retention
        return [
            kept.commit_of(
                ticket.message(), ticket.state, scheduler.model, retention, window_step=window_step, used_at_s=now_s
            )
            for ticket, kept, scheduler, window_step in group
            if ticket.state is not None  # As it is, of all that are done.
        ]

    def _conclude(
        self, group: Sequence[_Done], commits: Sequence[Commit], errors: Sequence[NtmServeError | None], took_s: float
    ) -> list[_Done]:
        """Those that the store has now. The sessions of the others are lost here."""
        self._observer.store_wrote(sessions=len(group), took_s=took_s)
        kept: list[_Done] = []
        for done, commit, error in zip(group, commits, errors, strict=True):
            if error is None:
                done.kept.advance(commit)
                kept.append(done)
            else:
                self.on_lost(done.ticket.session, error)
        return kept

    # What is asked now and then

    async def call(self, ask: Callable[[], Answer], *, undo: Callable[[Answer], object] | None = None) -> Answer:
        """The store's answer, after all that was asked of its thread before. Raises what it raises. undo: what the
        store is asked to do with an answer that nobody waits for any more.
        """
        answer: asyncio.Future[Answer] = self._loop.create_future()
        self._asked += 1
        self._thread.submit(self._ask, ask, answer, undo, self._patience_end_s())
        try:
            return await answer
        except asyncio.CancelledError:
            # The answer may have come in the turn in which its caller left.
            if undo and answer.done() and not answer.cancelled() and answer.exception() is None:
                self.tell(partial(undo, answer.result()))
            raise

    def tell(self, ask: Callable[[], object]) -> None:
        """Ask the store, and do not wait for its answer; what it refuses is logged."""
        end_s = self._patience_end_s()

        def told() -> None:
            try:
                self._insist(ask, end_s)
            except NtmServeError as error:
                log.warning("the store refused", reason=error.reason, fault=error.detail)

        with suppress(RuntimeError):  # It is closed.
            self._thread.submit(told)

    def _ask(
        self,
        ask: Callable[[], Answer],
        answer: asyncio.Future[Answer],
        undo: Callable[[Answer], object] | None,
        end_s: float,
    ) -> None:
        """On the store's thread."""
        try:
            given = self._insist(ask, end_s)
        except BaseException as fault:
            if isinstance(fault, OSError):  # The disk failed: see _sync.
                self._post(partial(self._die, fault))
            self._post(partial(self._answered, answer, partial(answer.set_exception, fault)))
        else:
            missed = partial(undo, given) if undo else None
            self._post(partial(self._answered, answer, partial(answer.set_result, given), missed))

    def _answered(
        self,
        answer: asyncio.Future[Answer],
        settle: Callable[[], None],
        missed: Callable[[], object] | None = None,
    ) -> None:
        self._asked -= 1
        if not answer.cancelled():
            settle()
        elif missed is not None:
            self.tell(missed)

    def _patience_end_s(self) -> float:
        """Of what is asked now. Those who wait for their turn on the thread are patient meanwhile: in an outage all
        are told at the same time, and not one after another.
        """
        return time.monotonic() + self._patience_s

    def _insist(self, ask: Callable[[], Answer], end_s: float) -> Answer:
        """Ask again, as it was, while the store does not answer. Raises StoreUnavailable when patience ends."""
        while True:
            try:
                return ask()
            except StoreUnavailable:
                if time.monotonic() > end_s or self._closing.wait(RETRY_S):
                    raise

    # Life

    async def run(self) -> None:
        """Give word that this server lives, and look who is wanted elsewhere, until cancelled. Raises what no boundary
        caught.
        """
        while True:
            await self.give_word()
            done, _ = await asyncio.wait([self._died], timeout=self._poll_s)
            if done:
                self._died.result()

    async def give_word(self) -> None:
        """This server lives. What others want of it, it is told."""
        started_s = time.monotonic()

        def ask() -> Sequence[str]:
            self.store.keep_alive(self.owner, now_s=time.time(), lease_s=self._lease_s)
            return self.store.wanted(self.owner)

        try:
            wanted = await self._answer(self._word, ask)
        except NtmServeError as error:
            if not self._is_silent:
                log.warning("the store does not take this server's word", reason=error.reason, fault=error.detail)
            self._is_silent = True
            return
        self._is_silent = False
        if started_s >= self._counted_s + STATISTICS_S:
            self._counted_s = started_s
            self.tell(self._count)
        if time.monotonic() > self.lease_until_s:
            self.on_lapsed()
        self.lease_until_s = started_s + self._lease_s
        self.tell(self.store.tidy)
        if wanted:
            self.on_wanted(wanted)

    def _count(self) -> None:
        self.statistics = self.store.statistics()

    async def _answer(self, thread: ThreadPoolExecutor, ask: Callable[[], Answer]) -> Answer:
        """The answer of one try, on that thread."""
        answer: asyncio.Future[Answer] = self._loop.create_future()

        def settle(set_it: Callable[[], None]) -> None:
            if not answer.cancelled():
                set_it()

        def answered() -> None:
            try:
                given = ask()
            except BaseException as fault:
                self._post(partial(settle, partial(answer.set_exception, fault)))
            else:
                self._post(partial(settle, partial(answer.set_result, given)))

        thread.submit(answered)
        return await answer

    async def close(self) -> None:
        """What was asked before is done; then the store is closed."""

        def over() -> None:
            with suppress(NtmServeError):
                self.store.keep_alive(self.owner, now_s=time.time(), lease_s=0.0)
            with suppress(NtmServeError):
                self.store.close()

        self._closing.set()
        # First, so that no word is given after the last.
        await asyncio.to_thread(self._word.shutdown)
        self._thread.submit(over)
        await asyncio.to_thread(self._thread.shutdown)

    def _die(self, fault: BaseException) -> None:
        if not self._died.done():
            self._died.set_exception(fault)


def _tell(group: Sequence[_Done]) -> None:
    """The store has these: their schedulers go on."""
    tickets: dict[Scheduler, list[Ticket]] = {}
    for done in group:
        tickets.setdefault(done.scheduler, []).append(done.ticket)
    for scheduler, kept in tickets.items():
        scheduler.kept(kept)


def _kept_of(session: Session) -> Kept:
    assert session.kept is not None, "only sessions that a store has are kept"
    return session.kept
