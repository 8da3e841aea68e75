"""The names of sessions in redis: open ones by name (`ids`) and by time of use (`used`), ended ones by time (`ended`).

Rules of this file:
- An index is a key of its own, on a cluster on a node of its own, so it is not written in one go with the
  session. What it says is asked of the session again by whoever reads it.
- It names too much rather than too little: a name is put in before its session is made, and taken out after it
  has ended; who takes it out looks whether the name has begun another life meanwhile. A process that dies in
  between leaves a name too many, which `RedisStore.expire` comes by; what else is missing, a claim puts in.
- A time of use in it may be earlier than the truth, never later.
- One key is on one node, so one node holds all names: some 300 B each, 10,000,000 sessions in 3 GB.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from ntm_serve.errors import StoreUnavailable
from ntm_serve.stores.redis_link import Command, RedisLink


def session_key(prefix: str, session_id: str, part: str = "session") -> str:
    """One of the keys of a session. What is in braces is its hash tag: they are on one node of a cluster."""
    return f"{prefix}:{{{session_id}}}:{part}"


class RedisIndexes:
    """Commands for others to run along with theirs, and what takes a trip of its own."""

    def __init__(self, link: RedisLink, prefix: str) -> None:
        self._link = link
        self._prefix = prefix
        self._ids, self._used, self._ended = (f"{prefix}:{name}" for name in ("ids", "used", "ended"))

    def put_in(self, session_id: str, used_at_s: Any) -> tuple[Command, Command]:
        """Among the open ones. A time that is there already stays: later ones come by commits."""
        return ("ZADD", self._ids, 0, session_id), ("ZADD", self._used, "NX", used_at_s, session_id)

    def used(self, used_at_s: Mapping[str, Any]) -> Command:
        """Times of use by name, of those that are in the index."""
        return ("ZADD", self._used, "XX", *_scores(used_at_s))

    def not_ended(self, *ids: str) -> Command:
        return ("ZREM", self._ended, *ids)

    def counts(self) -> tuple[Command, Command]:
        """How many are open, and ended."""
        return ("ZCARD", self._ids), ("ZCARD", self._ended)

    def ids_after(self, after: str, limit: int) -> Sequence[str]:
        return self._names("ZRANGEBYLEX", self._ids, f"({after}", "+", "LIMIT", 0, limit)

    def unused_since(self, since_s: float, offset: int, limit: int) -> Sequence[str]:
        return self._names("ZRANGEBYSCORE", self._used, "-inf", f"({since_s}", "LIMIT", offset, limit)

    def ended_before(self, before_s: float, limit: int) -> Sequence[str]:
        return self._names("ZRANGEBYSCORE", self._ended, "-inf", f"({before_s}", "LIMIT", 0, limit)

    def correct(self, ids: Sequence[str]) -> None:
        """The times of use of these: commits put theirs in before they are known to be kept."""
        if ids:
            truth = {one: at_s for one, at_s in self._used_at_s(ids).items() if at_s is not None}
            if truth:
                self._link.run(self.used(truth))

    def take_out(self, ended_at_s: Mapping[str, Any]) -> None:
        """Of the open ones, by name, and put among the ended; but not if it has begun another life meanwhile."""
        if not ended_at_s:
            return
        # Redis that is out of memory refuses the first. Then they stay where they are, until expire comes by.
        with suppress(StoreUnavailable):
            self._link.run(("ZADD", self._ended, *_scores(ended_at_s)))
            self._link.run(("ZREM", self._used, *ended_at_s), ("ZREM", self._ids, *ended_at_s))
            for session_id, used_at_s in self._used_at_s(ended_at_s).items():
                if used_at_s is not None:
                    self._link.run(*self.put_in(session_id, used_at_s), self.not_ended(session_id))

    def _names(self, *command: Any) -> Sequence[str]:
        [names] = self._link.run(command)
        return [name.decode() for name in names]

    def _used_at_s(self, ids: Iterable[str]) -> dict[str, Any]:
        """What the sessions themselves say; None of one that is not open."""
        asked = list(ids)
        answers = self._link.run(*(("HGET", session_key(self._prefix, one), "used_at_s") for one in asked))
        return dict(zip(asked, answers, strict=True))


def _scores(times_s: Mapping[str, Any]) -> list[Any]:
    return [part for session_id, at_s in times_s.items() for part in (at_s, session_id)]
