"""What a store is: where sessions outlive the process that serves them. Values and the contract, no storage.

Rules of this file: a store keeps bytes and does not look into them; it is told the time (leases may go by a
clock that its users share: see `keep_alive`); every write names a claim, and a claim that was lost writes
nothing; a Commit is kept whole or not at all. The methods block: whoever calls them does so on a thread made
for it, but for commits to a store that is local.

A session in a store is its head (what it is), snapshots of its state (what it was after some step), and
the log of records that lead on from there. The newest snapshot and the records after it give its state.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol

from ntm_serve.errors import NtmServeError, StoreUnavailable


class Claim(NamedTuple):
    """The right to write a session. epoch: grows with every claim, also over the ends of sessions and restarts
    of the store, and never comes again; a lower one writes nothing.
    """

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


class Commit(NamedTuple):
    """What one session adds. Records follow each other without a gap from the session's next step on; a
    snapshot is of a step that the session can still be brought back to.

    keep_from_step: the lowest step that must stay within reach. The newest snapshot at or below it is kept,
    with every record that ends after it; what is older is let go. None lets nothing go.
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
    """A session as the store has it. snapshots and records in the order of their steps; the records lead
    without a gap to next_step: from the first snapshot where something was let go or it began with one,
    otherwise from step 0.

    owner: "" is nobody; otherwise who has it, or had it when its lease was over. epoch: of the newest claim;
    0 where nobody has it.
    """

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
    whether it took effect is not known. It is called again as it was: what took effect already does so once.
    """

    @property
    def is_local(self) -> bool:
        """Whether a commit takes tens of microseconds and waits for nobody, so that an event loop may call it."""
        ...

    def keep_alive(self, owner: str, *, now_s: float, lease_s: float) -> None:
        """The owner lives for lease_s from now; 0 is no longer. An owner whose lease is over, or that never had
        one, loses its claims to whoever asks for them, and keeps those that nobody asks for.

        A store that several machines share goes by its own clock instead of now_s, as theirs may differ.
        """
        ...

    def create(self, session_id: str, head: Head, *, owner: str, now_s: float, start: Snapshot | None = None) -> Claim:
        """A new session, claimed, last used now: at step 0, or at start.step with that snapshot. The name of an
        ended session is free.

        Raises SessionExists, also where another owner has it; but not where this owner made it with this head
        and start and it made no step: that is the same call again.
        """
        ...

    def restart(self, claim: Claim, start: Snapshot, *, used_at_s: float) -> None:
        """The session stands at start.step from now on, lower or higher than before, and goes on from there:
        start is its only snapshot, all that it had is let go, and step numbers may come again. The claim holds.
        All of it happens or nothing. It does not wait for the disk: see `sync`.

        Raises, as the errors of `commit`, OwnedElsewhere where the claim was lost, SessionUnknown, SessionClosed
        and the like where the session is no more.
        """
        ...

    def claim(self, session_id: str, *, owner: str, now_s: float) -> tuple[Claim, StoredSession]:
        """Take a session that is nobody's, one's own, or one whose owner's lease is over, in a new epoch: claims
        of before are lost, one's own as well.

        Where a live owner has it, leave word that it is wanted (see `wanted`). Raises OwnedElsewhere with
        fields["owner"], SessionUnknown, SessionClosed, SessionExpired, SessionEvicted, StoreDamaged.
        """
        ...

    def claim_all(
        self, session_ids: Sequence[str], *, owner: str, now_s: float
    ) -> Sequence[tuple[Claim, StoredSession] | NtmServeError]:
        """Claim several, each once: for each what `claim` gives, or what it raises."""
        claimed: list[tuple[Claim, StoredSession] | NtmServeError] = []
        for session_id in session_ids:
            try:
                claimed.append(self.claim(session_id, owner=owner, now_s=now_s))
            except StoreUnavailable:
                raise
            except NtmServeError as error:
                claimed.append(error)
        return claimed

    def wanted(self, owner: str) -> Sequence[str]:
        """Sessions of this owner that another asked for since the last call; to be released soon. It may name
        some that the owner no longer has. A word may get lost: whoever wants a session asks again.
        """
        ...

    def commit(self, commits: Sequence[Commit]) -> Sequence[NtmServeError | None]:
        """Keep them, each whole or not at all. For each None; or an error, and nothing of it kept: OwnedElsewhere
        where its claim was lost, SessionUnknown, SessionClosed and the like where the session is no more,
        StoreConflict where its steps do not follow, StoreDamaged. A session's last Commit again is no error and
        changes nothing.
        """
        ...

    def sync(self) -> None:
        """Come back when all that was written before would survive the loss of power. It may take its time while
        others commit. Raises SettingsFault where the store is not set up for it, and OSError where the disk failed:
        then nobody knows what is on it, and asking again would not tell.
        """
        ...

    def tidy(self) -> None:
        """Do what can wait and takes its time. To be called every second or so, while others commit."""
        ...

    def release(self, claims: Sequence[Claim]) -> None:
        """Nobody's from now on. A claim that was lost is not touched."""
        ...

    def end(
        self, claims: Sequence[Claim], ending: Ending, message: str, *, now_s: float
    ) -> Sequence[NtmServeError | None]:
        """The sessions are no more; why is remembered. For each, as for `commit`, an error or None; None also
        where this claim has ended it before.
        """
        ...

    def read(self, session_id: str) -> StoredSession:
        """As it stands, without a claim. Raises as `claim`, but not OwnedElsewhere."""
        ...

    def list(self, *, after: str, limit: int, model: str = "") -> Sequence[StoredSummary]:
        """Sessions in the order of their ids, those after `after`, at most so many; ended ones are not among them."""
        ...

    def expire(self, *, unused_since_s: float, message: str, now_s: float, limit: int) -> Sequence[str]:
        """End sessions that nobody alive has and that were last used before then; at most so many, their ids."""
        ...

    def forget(self, *, ended_before_s: float) -> int:
        """Forget why sessions ended that ended before then; how many."""
        ...

    def statistics(self) -> StoreStatistics: ...

    def close(self) -> None: ...
