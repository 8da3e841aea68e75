"""Eviction: which sessions leave memory when their states do not fit. Pure.

Rules of this file: what is too much is made free by the tenants that hold the most, until they hold as much as the next
(max-min fairness), so whoever holds less than an equal share of memory makes no room for others; of one tenant's
sessions those go first of which a store has all, then the least recently used; where the tenants that hold the most are
too busy for that, others' sessions rest that come back, and none ends.
"""

import heapq
from collections.abc import Callable, Iterable, Sequence

from ntm_serve.sessions import Session
from ntm_serve.tenants import Account


def leaving(
    sessions: Iterable[Session],
    *,
    newcomer: Session | None,
    over: int,
    spare: int,
    held_by: Callable[[Account | None], int],
    bytes_of: Callable[[Session], int],
    smallest: int,
) -> list[Session]:
    """Sessions without steps in flight that make room together.

    sessions: all that are in memory and have a state. newcomer: the one that stays. over: bytes that are too much.
    spare: bytes to be made free beyond, by those tenants that make room anyway. held_by: bytes of a tenant's states.
    smallest: the fewest that a state has.
    """
    tenants: dict[Account | None, list[Session]] = {}
    for session in sessions:
        theirs = tenants.setdefault(session.account, [])
        if not session.in_flight and session is not newcomer:
            theirs.append(session)
    held = {account: held_by(account) for account in tenants}
    level = level_of(held.values(), over)
    chosen: list[Session] = []
    freed = 0
    for account, theirs in tenants.items():
        share = (held[account] - level) * (over + spare) // over
        if share > 0:
            ours = _least_used(theirs, share, bytes_of, smallest)
            chosen += ours
            freed += sum(map(bytes_of, ours))
    if freed < over:
        gone = set(chosen)
        durable = [one for theirs in tenants.values() for one in theirs if one.kept is not None and one not in gone]
        chosen += _least_used(durable, over - freed, bytes_of, smallest)
    return chosen


def level_of(held: Iterable[int], over: int) -> int:
    """What each may hold at most so that together they hold so much less; 0 where they do not hold so much."""
    ordered, total = sorted(held, reverse=True), 0
    for count, size in enumerate(ordered, start=1):
        total += size
        level = (total - over) // count
        if level >= (ordered[count] if count < len(ordered) else 0):
            return level
    return 0


def _least_used(idle: Sequence[Session], room: int, bytes_of: Callable[[Session], int], smallest: int) -> list[Session]:
    """Of those so many that so much room is made."""
    count, chosen = -(-room // smallest), []
    for session in heapq.nsmallest(count, idle, key=lambda one: (one.kept is None, one.used_s)):
        if room <= 0:
            break
        room -= bytes_of(session)
        chosen.append(session)
    return chosen
