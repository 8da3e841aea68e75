"""Search: sessions by the beginning of their ids, by model and by tier, in several orders, a page at a time.

Rules of this file: a page goes on after the place where the one before ended, so it costs the same however far it is;
the event loop is never held for longer than a slice of the table; the store is in the order of ids alone, so for other
orders a bounded part of it is looked through, and the answer says whether that was all.
"""

import asyncio
import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from ntm_serve.beginning import shown
from ntm_serve.bundle import NAME
from ntm_serve.caller import AFTER_MARK, KEY_BEGINNING, tenant_of
from ntm_serve.residency import Residency
from ntm_serve.scheduler import Scheduler
from ntm_serve.sessions import Session, Sessions
from ntm_serve.sizes import sized_spec
from ntm_serve.step_model import ModelKey
from ntm_serve.store import StoredSummary

# Sessions looked at in one turn of the loop: about a millisecond.
SLICE = 2_000
# Sessions of the store looked at in one go, and for one page in an order other than that of ids.
STORED_SLICE = 1_000
STORED_MAX = 10_000


class Order(StrEnum):
    """By what sessions are sorted."""

    ID = "id"
    STEPS = "steps"
    # From the one that was used last.
    IDLE = "idle"
    BYTES = "bytes"


class Tier(StrEnum):
    """Where a session's state is."""

    RESIDENT = "resident"
    STORED = "stored"


class Place(NamedTuple):
    """Where a session stands in an order: what it is sorted by, and its key where that is the same."""

    value: float
    key: str


@dataclass(frozen=True, slots=True)
class Query:
    """Which sessions. prefix: of their keys; model, tier: "" and None are all. after: the last place of the page
    before. tenant: whose; None where there is one alone.
    """

    prefix: str = ""
    model: str = ""
    tier: Tier | None = None
    order: Order = Order.ID
    descending: bool = False
    page_size: int = 100
    after: Place | None = None
    tenant: str | None = None


class Found(NamedTuple):
    """A page. rows: sessions in memory, and summaries of others. last: the place of the last, where there are more.
    complete: whether all of the store was looked through that might belong here.
    """

    rows: list[Session | StoredSummary]
    last: Place | None
    complete: bool


class Search:
    """Of the sessions of a server."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        residency: Residency,
        schedulers: Mapping[ModelKey, Scheduler],
        clock: Callable[[], float],
    ) -> None:
        self._sessions = sessions
        self._residency = residency
        self._schedulers = schedulers
        # From this server's clock to the time of day, once: a page goes on where the one before ended.
        self._epoch_s = time.time() - clock()

    async def find(self, query: Query) -> Found:
        """Raises StoreUnavailable."""
        if not KEY_BEGINNING.fullmatch(query.prefix) or (query.model and not NAME.fullmatch(query.model)):
            return Found([], None, complete=True)  # There is none, and not every store takes every character.
        best: dict[Place, Session | StoredSummary] = {}
        complete = True
        if query.tier is not Tier.RESIDENT:
            complete = await self._look_stored(query, best)
        if query.tier is not Tier.STORED:
            await self._look_resident(query, best)
        places = _first(query, best, query.page_size + 1)
        more = len(places) > query.page_size
        places = places[: query.page_size]
        return Found([best[place] for place in places], places[-1] if more else None, complete)

    async def _look_resident(self, query: Query, best: dict[Place, Session | StoredSummary]) -> None:
        sessions = list(self._sessions)
        for start in range(0, len(sessions), SLICE):
            if start:
                await asyncio.sleep(0)
            wanted = (one for one in sessions[start : start + SLICE] if _fits(query, one.id, one.model.name))
            self._keep(query, best, ((self._place(query, one), one) for one in wanted))

    async def _look_stored(self, query: Query, best: dict[Place, Session | StoredSummary]) -> bool:
        """Whether all that might belong here was looked at."""
        by_id = query.order is Order.ID and not query.descending
        after, looked = _before(query.prefix), 0
        if by_id and query.after is not None:
            after = max(after, query.after.key)
        while looked < STORED_MAX:
            page = await self._residency.list_stored(model=query.model, after=after, limit=STORED_SLICE)
            wanted = [
                one
                for one in page
                if _fits(query, one.session_id, one.head.model) and self._sessions.get(one.session_id) is None
            ]
            self._keep(query, best, ((self._stored_place(query, one), one) for one in wanted))
            if len(page) < STORED_SLICE or (by_id and len(best) > query.page_size):
                return True
            after = page[-1].session_id
            if not after.startswith(query.prefix):
                return True
            tenant = tenant_of(after)
            if tenant != (query.tenant or ""):  # Those of another stand side by side, and are passed over.
                after = f"{tenant}{AFTER_MARK}"
            looked += 0 if by_id else sum(tenant_of(one.session_id) == (query.tenant or "") for one in page)
        return False

    @staticmethod
    def _keep(
        query: Query,
        best: dict[Place, Session | StoredSummary],
        rows: Iterable[tuple[Place, Session | StoredSummary]],
    ) -> None:
        """Of these and those before, as many as a page takes and one more."""
        best.update(_beyond(query, rows))
        for place in best.keys() - set(_first(query, best, query.page_size + 1)):
            del best[place]

    def _place(self, query: Query, session: Session) -> Place:
        if query.order is Order.STEPS:
            return Place(session.next_step, session.id)
        if query.order is Order.IDLE:
            return Place(-(self._epoch_s + session.used_s), session.id)
        return Place(session.state_bytes if query.order is Order.BYTES else 0, session.id)

    def _stored_place(self, query: Query, stored: StoredSummary) -> Place:
        if query.order is Order.STEPS:
            return Place(stored.next_step, stored.session_id)
        if query.order is Order.IDLE:
            return Place(-stored.used_at_s, stored.session_id)
        return Place(self._stored_bytes(stored) if query.order is Order.BYTES else 0, stored.session_id)

    def _stored_bytes(self, stored: StoredSummary) -> int:
        """Of its state; 0 where its model is not served."""
        scheduler = self._schedulers.get(ModelKey(stored.head.model, stored.head.version))
        if scheduler is None:
            return 0
        return sized_spec(scheduler.model.spec, shown(stored.head.options)[1]).state_bytes


def _fits(query: Query, key: str, model: str) -> bool:
    return (
        key.startswith(query.prefix)
        and query.model in ("", model)
        and (query.tenant is None or tenant_of(key) == query.tenant)
    )


def _beyond(
    query: Query, rows: Iterable[tuple[Place, Session | StoredSummary]]
) -> Iterator[tuple[Place, Session | StoredSummary]]:
    """Those that come after the page before."""
    after = query.after
    for place, row in rows:
        if after is None or (place < after if query.descending else place > after):
            yield place, row


def _first(query: Query, places: Iterable[Place], count: int) -> list[Place]:
    return heapq.nlargest(count, places) if query.descending else heapq.nsmallest(count, places)


def _before(prefix: str) -> str:
    """What comes before all that begins so, and after all that comes before that."""
    return f"{prefix[:-1]}{chr(ord(prefix[-1]) - 1)}\x7f" if prefix else ""
