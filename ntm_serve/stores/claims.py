"""Who has which session, where one process is all there is: claims, leases and words left, in memory.

A store that lets one process in at a time need not write claims down: they end with the process, and the
next one begins with a higher first epoch.
"""

from collections.abc import Iterable, Sequence

from ntm_serve.store import Claim
from ntm_serve.stores.rules import owned_elsewhere


class Claims:
    """What `Store` says about claims, without the sessions."""

    def __init__(self, *, first_epoch: int) -> None:
        self._next_epoch = first_epoch
        self._claims: dict[str, Claim] = {}
        self._alive_until_s: dict[str, float] = {}
        self._wanted: dict[str, dict[str, None]] = {}

    def keep_alive(self, owner: str, until_s: float) -> None:
        self._alive_until_s[owner] = until_s

    def expect_free(self, session_id: str, owner: str, now_s: float) -> None:
        """Raises OwnedElsewhere, and leaves word, where another owner that lives has it."""
        holder = self.newest(session_id).owner
        if holder != owner and self.is_alive(session_id, now_s):
            self._wanted.setdefault(holder, {})[session_id] = None
            raise owned_elsewhere(session_id, holder)

    def grant(self, session_id: str, owner: str) -> Claim:
        """A claim in a new epoch."""
        claim = self._claims[session_id] = Claim(session_id, owner, self._next_epoch)
        self._next_epoch += 1
        # Who wanted it before has it, or asks again: were it to come back to the owner of then, it would go at once.
        for words in self._wanted.values():
            words.pop(session_id, None)
        return claim

    def is_held(self, claim: Claim) -> bool:
        held = self._claims.get(claim.session_id)
        return held is claim or held == claim

    def is_alive(self, session_id: str, now_s: float) -> bool:
        """Whether somebody has it whose lease is not over."""
        return now_s < self._alive_until_s.get(self.newest(session_id).owner, 0.0)

    def newest(self, session_id: str) -> Claim:
        """The claim that holds; where none does, one of nobody."""
        return self._claims.get(session_id) or Claim(session_id, "", 0)

    def release(self, claims: Iterable[Claim]) -> None:
        for claim in claims:
            if self.is_held(claim):
                self.drop(claim.session_id)

    def drop(self, session_id: str) -> None:
        self._claims.pop(session_id, None)

    def wanted(self, owner: str) -> Sequence[str]:
        words = self._wanted.pop(owner, {})
        return [session_id for session_id in words if self.newest(session_id).owner == owner]
