"""What is asked of the store about the sessions of a server: to begin one, claim it, give it up, end it, read and list.

Rules of this file:
- which sessions are in memory is not known here;
- a session is claimed only while others take this server to be alive: without a lease it would be anybody's at once,
  and nobody would notice here;
- one that another server has is asked for again and again, until patience ends.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from ntm_serve.durability import Durability
from ntm_serve.errors import (
    CallerFault,
    NtmServeError,
    OwnedElsewhere,
    SessionClosed,
    SessionEvicted,
    SessionExists,
    SessionExpired,
    SessionUnknown,
    StoreUnavailable,
)
from ntm_serve.keeper import Keeper
from ntm_serve.sessions import Session
from ntm_serve.store import Claim, Commit, Ending, Head, Snapshot, StoredSession, StoredSummary, StoreStatistics

# Between two questions whether another server has given up a session that it was asked for: at first, as one that
# lives does so soon, and later, when it is busy, or gone and its lease runs out.
ASK_AGAIN_S = 0.025
ASK_LATER_S = 0.1
ASK_LATER_AFTER = 6
# Sessions claimed in one go: what else is asked of the store waits behind them.
CLAIMS_AT_ONCE = 64
# Sessions looked at in the store in one go.
LIST_PAGE = 1000
# Sessions ended in the store in one go.
EXPIRE_GROUP = 1000

_Claimed = tuple[Claim, StoredSession]


class Claims:
    """All methods that wait raise StoreUnavailable when patience with the store ends."""

    def __init__(
        self,
        keeper: Keeper,
        *,
        handover_s: float = 3.0,
        ended_life_s: float = 7 * 24 * 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """handover_s: how long another server that has a session is waited for. ended_life_s: how long it is remembered
        why a session ended.
        """
        self._keeper = keeper
        self._store = keeper.store
        self._handover_s = handover_s
        self._ended_life_s = ended_life_s
        self._clock = clock
        # Those to be claimed, asked for in one go as soon as the answer to those before is there.
        self._asked: list[tuple[str, asyncio.Future[_Claimed]]] = []
        self._asking: asyncio.Task[None] | None = None
        # Those who wait, by the server that has what they ask for.
        self._waiting: dict[str, set[asyncio.Event]] = {}

    def listen(
        self,
        *,
        on_lost: Callable[[Session, NtmServeError], None],
        on_wanted: Callable[[Sequence[str]], None],
        on_lapsed: Callable[[], None],
    ) -> None:
        """Who is told of sessions that the store has otherwise, or did not say; of those that others ask for; and when
        this server's lease was over.
        """
        self._keeper.on_lost, self._keeper.on_wanted, self._keeper.on_lapsed = on_lost, on_wanted, on_lapsed

    @property
    def owner(self) -> str:
        """What the store calls this server."""
        return self._keeper.owner

    @property
    def lease_until_s(self) -> float:
        """Until when nobody takes a session without asking."""
        return self._keeper.lease_until_s

    @property
    def statistics(self) -> StoreStatistics | None:
        """What the store has, as of not long ago."""
        return self._keeper.statistics

    async def expect_lease(self) -> None:
        """To be called before a session is claimed. Raises StoreUnavailable."""
        if self._clock() > self.lease_until_s:
            await self._keeper.give_word()
            if self._clock() > self.lease_until_s:
                raise StoreUnavailable("store: it did not take this server's word that it lives, or not in time")

    async def begin(self, session_id: str, head: Head, start: Snapshot | None) -> Claim:
        """Have the store begin a session, at step 0 or at `start`. Raises SessionExists, SettingsFault."""
        keeper, durability = self._keeper, Durability(head.durability)

        def create() -> Claim:
            self._sync_where_asked(durability)  # Refused where the store cannot.
            claim = self._store.create(session_id, head, owner=keeper.owner, now_s=head.opened_at_s, start=start)
            self._sync_where_asked(durability)
            return claim

        def undo(claim: Claim) -> None:
            message = f"session {session_id}: whoever opened it left before it was open"
            self._store.end([claim], Ending.CLOSED, message, now_s=time.time())

        return await keeper.call(create, undo=undo)

    def unbegin(self, claim: Claim) -> None:
        """A session that was begun, and is not to be."""
        message = f"session {claim.session_id}: was never open"
        self._keeper.tell(lambda: self._store.end([claim], Ending.CLOSED, message, now_s=time.time()))

    async def claim(self, session_id: str) -> tuple[Claim, StoredSession]:
        """Claim it, once whoever has it gave it up. Raises OwnedElsewhere, SessionUnknown, SessionClosed, StoreDamaged,
        SessionExpired, SessionEvicted.
        """
        end_s = self._clock() + self._handover_s
        asked, holder = 0, ""
        while True:
            try:
                claimed = await self._claim(session_id)
            except OwnedElsewhere as error:
                if self._clock() > end_s:
                    raise
                asked, holder = asked + 1, error.fields["owner"]
                await self._pause(holder, ASK_AGAIN_S if asked < ASK_LATER_AFTER else ASK_LATER_S)
            else:
                for waiting in self._waiting.get(holder, ()):
                    waiting.set()
                return claimed

    async def _claim(self, session_id: str) -> _Claimed:
        """Ask for it once, together with those that others ask for. Whoever asks has the session's turn, so no
        name is in a group twice.
        """
        answer: asyncio.Future[_Claimed] = asyncio.get_running_loop().create_future()
        self._asked.append((session_id, answer))
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        try:
            return await answer
        except asyncio.CancelledError:
            # The answer may have come in the turn in which its caller left.
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                self.release([answer.result()[0]])
            raise

    async def _ask(self) -> None:
        """Until all are answered that are asked for."""
        try:
            while self._asked:
                group, self._asked = self._asked[:CLAIMS_AT_ONCE], self._asked[CLAIMS_AT_ONCE:]
                outcomes: Sequence[_Claimed | Exception]
                try:
                    outcomes = await self._keeper.call(partial(self._take, [session_id for session_id, _ in group]))
                except Exception as fault:
                    outcomes = [fault] * len(group)
                for (_, answer), outcome in zip(group, outcomes, strict=True):
                    self._answer(answer, outcome)
        finally:
            self._asking = None

    def _answer(self, answer: asyncio.Future[_Claimed], outcome: _Claimed | Exception) -> None:
        if answer.cancelled():  # Nobody waits any more.
            if not isinstance(outcome, Exception):
                self.release([outcome[0]])
        elif isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)

    async def _pause(self, holder: str, longest_s: float) -> None:
        """For so long, or until that server has given up another session, or lost it: it may have done so with many, as
        when it stops.
        """
        woken = asyncio.Event()
        others = self._waiting.setdefault(holder, set())
        others.add(woken)
        try:
            async with asyncio.timeout(longest_s):
                await woken.wait()
        except TimeoutError:
            pass
        finally:
            others.discard(woken)
            if not others:
                self._waiting.pop(holder, None)

    def _take(self, session_ids: Sequence[str]) -> Sequence[_Claimed | NtmServeError]:
        return self._store.claim_all(session_ids, owner=self._keeper.owner, now_s=time.time())

    def release(self, claims: Sequence[Claim]) -> None:
        """These sessions are anybody's, once the store was told."""
        self._keeper.tell(partial(self._store.release, claims))

    def disown(self, session_id: str) -> None:
        """This server has nothing of the session in memory, and is not about to: where the claim is this server's, left
        by an outage, it is given up.
        """

        def ask() -> None:
            with suppress(CallerFault):  # It is no more.
                if self._store.read(session_id).owner == self._keeper.owner:
                    claim, _ = self._store.claim(session_id, owner=self._keeper.owner, now_s=time.time())
                    self._store.release([claim])

        self._keeper.tell(ask)

    async def commit(self, commits: Sequence[Commit]) -> None:
        """Have these kept. What the store refuses was lost before: its session is another's."""
        await self._keeper.call(partial(self._store.commit, commits))

    async def restart(self, claim: Claim, start: Snapshot, durability: Durability) -> None:
        """The session stands there from now on. Raises as `end`."""

        def restart() -> None:
            self._store.restart(claim, start, used_at_s=time.time())
            self._sync_where_asked(durability)

        await self._keeper.call(restart)

    async def end(self, claim: Claim, ending: Ending, message: str, durability: Durability) -> None:
        """The session is no more. Raises OwnedElsewhere, SessionUnknown, SessionClosed and the like."""

        def end() -> None:
            [error] = self._store.end([claim], ending, message, now_s=time.time())
            if error is not None:
                raise error
            self._sync_where_asked(durability)

        await self._keeper.call(end)

    async def expire(self, life_s: float) -> Sequence[str]:
        """End those that nobody alive has, and that were not used for so long; their ids."""
        now_s, message = time.time(), f"expired after {life_s:g} s without a step"

        def expire() -> Sequence[str]:
            unused_since_s = now_s - life_s
            return self._store.expire(unused_since_s=unused_since_s, message=message, now_s=now_s, limit=EXPIRE_GROUP)

        return await self._keeper.call(expire)

    def forget(self) -> None:
        """Why sessions ended is not remembered for ever."""
        self._keeper.tell(partial(self._store.forget, ended_before_s=time.time() - self._ended_life_s))

    async def read(self, session_id: str) -> StoredSession:
        """A session as the store has it; it stays there. Raises as `claim`, but not OwnedElsewhere."""
        return await self._keeper.call(partial(self._store.read, session_id))

    async def expect_unused(self, session_id: str) -> None:
        """A name in memory alone must not hide one in the store. Raises SessionExists."""
        try:
            await self.read(session_id)
        except (SessionUnknown, SessionClosed, SessionExpired, SessionEvicted):
            return
        raise SessionExists(f"session {session_id}: is open; expected a name that is not in use")

    async def list(self, *, model: str, after: str, limit: int) -> Sequence[StoredSummary]:
        """In the order of their ids."""
        return await self._keeper.call(lambda: self._store.list(after=after, limit=limit, model=model))

    async def has_any(self, *, model: str, version: str) -> bool:
        """Whether the store has a session of this model."""
        after = ""
        while page := await self.list(model=model, after=after, limit=LIST_PAGE):
            if any(one.head.version == version for one in page):
                return True
            after = page[-1].session_id
        return False

    def _sync_where_asked(self, durability: Durability) -> None:
        """On the store's thread: what was written for a session of durability disk is on the disk before it is told."""
        if durability is Durability.DISK:
            self._store.sync()
