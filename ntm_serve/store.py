"""What a store is: where sessions outlive the process that serves them. Values and the contract, no storage.

Rules of this file: a store keeps bytes and does not look into them; it is told the time and has no clock;
every write names a claim, and a claim that was lost writes nothing; what one `commit` is given is kept
whole or not at all. The methods block: whoever calls them does so on a thread made for it.

A session in a store is its head (what it is), snapshots of its state (what it was after some step), and
the log of records that lead on from there. The newest snapshot and the records after it give its state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from ntm_serve.errors import NtmServeError


class Claim(NamedTuple):
    """The right to write a session. epoch: grows with every change of owner; a lower one writes nothing."""

    session_id: str
    owner: str
    epoch: int


class LogRecord(NamedTuple):
    """One committed message: steps first_step to end_step - 1, and what brings them back."""

    first_step: int
    end_step: int
    payload: bytes


class Snapshot(NamedTuple):
    """The state before step `step`."""

    step: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Head:
    """What a session is. Times are Unix seconds.

    digest: of the model directory that it was opened with. durability: the word it was opened with.
    options: what else was said when it was opened; the store does not look into it.
    """

    model: str
    version: str
    digest: str
    durability: str
    opened_at_s: float
    options: bytes = b""


@dataclass(frozen=True, slots=True)
class Commit:
    """What one session adds. keep_from_step: records that end at or before it, and snapshots before it, are
    let go, but never the newest snapshot at or below it; None keeps all.
    """

    claim: Claim
    used_at_s: float
    records: Sequence[LogRecord] = ()
    snapshot: Snapshot | None = None
    keep_from_step: int | None = None


class Ending(StrEnum):
    """Why a session is no more."""

    CLOSED = "CLOSED"
    EXPIRED = "EXPIRED"
    EVICTED = "EVICTED"


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A session as the store has it. snapshots and records in the order of their steps; owner "" is none."""

    session_id: str
    head: Head
    next_step: int
    used_at_s: float
    owner: str
    epoch: int
    snapshots: Sequence[Snapshot]
    records: Sequence[LogRecord]


class StoredSummary(NamedTuple):
    """A line of a list of sessions."""

    session_id: str
    head: Head
    next_step: int
    used_at_s: float
    owner: str


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """payload_bytes: of snapshots and records. stored_bytes: what the store takes up, as far as it knows."""

    sessions: int
    ended: int
    records: int
    snapshots: int
    payload_bytes: int
    stored_bytes: int


class Store(Protocol):
    """Passed by every implementation: tests/serve/stores. Every method may raise StoreUnavailable, and then
    whether it took effect is not known: it is called again, or the session is claimed anew.
    """

    def keep_alive(self, owner: str, *, now_s: float, lease_s: float) -> None:
        """The owner lives until now_s + lease_s. An owner whose lease is over has lost its claims to whoever
        asks for them, and keeps those that nobody asked for.
        """
        ...

    def create(self, session_id: str, head: Head, *, owner: str, now_s: float) -> Claim:
        """A new session at step 0, claimed. The name of an ended session is free.

        Raises SessionExists, also where another owner has it.
        """
        ...

    def claim(self, session_id: str, *, owner: str, now_s: float) -> tuple[Claim, StoredSession]:
        """Take a session that is nobody's, one's own, or one whose owner's lease is over, in a new epoch.

        Where a live owner has it, leave word that it is wanted (see `wanted`). Raises OwnedElsewhere with
        fields["owner"], SessionUnknown, SessionClosed, SessionExpired, SessionEvicted, StoreDamaged.
        """
        ...

    def wanted(self, owner: str) -> Sequence[str]:
        """Sessions of this owner that another asked for since the last call; to be released soon."""
        ...

    def commit(self, commits: Sequence[Commit], *, fsync: bool) -> Sequence[NtmServeError | None]:
        """Keep all of it at once: for each an error, OwnedElsewhere where its claim was lost or SessionClosed and
        the like where the session ended, and nothing of it kept; or None. Records follow each other without
        a gap, from the session's next step (StoreConflict otherwise). fsync: come back only when it would
        survive the loss of power.
        """
        ...

    def release(self, claims: Sequence[Claim]) -> None:
        """Nobody's from now on. A claim that was lost is not touched."""
        ...

    def end(
        self, claims: Sequence[Claim], ending: Ending, message: str, *, now_s: float
    ) -> Sequence[NtmServeError | None]:
        """The sessions are no more; why is remembered. For each, as for `commit`, an error or None."""
        ...

    def read(self, session_id: str) -> StoredSession:
        """As it stands, unclaimed. Raises as `claim`, but not OwnedElsewhere."""
        ...

    def list(self, *, after: str, limit: int, model: str = "") -> Sequence[StoredSummary]:
        """Sessions in the order of their ids, those after `after`."""
        ...

    def expire(self, *, unused_since_s: float, message: str, now_s: float, limit: int) -> Sequence[str]:
        """End sessions that nobody alive has and that were last used before then; at most so many, their ids."""
        ...

    def forget(self, *, ended_before_s: float) -> int:
        """Forget why sessions ended that ended before then; how many."""
        ...

    def statistics(self) -> StoreStatistics: ...

    def close(self) -> None: ...
