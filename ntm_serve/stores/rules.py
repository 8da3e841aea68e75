"""What every store refuses, and in what words: pure, about values alone.

Rules of this file: a session's steps within reach begin at its oldest snapshot, at step 0 where it has
none, and end at its next step; records lead from the one to the other without a gap. `next_step_after`
and `oldest_step_after` keep it so, `whole` checks that it is so.
"""

from collections.abc import Iterable, Sequence

from ntm_serve.errors import (
    ERROR_OF_REASON,
    NtmServeError,
    OwnedElsewhere,
    SessionExists,
    SessionUnknown,
    StoreConflict,
    StoreDamaged,
)
from ntm_serve.store import Commit, LogRecord, Snapshot, StoredSession


def unknown(session_id: str) -> SessionUnknown:
    return SessionUnknown(f"session {session_id}: the store has none of that name")


def exists(session_id: str) -> SessionExists:
    return SessionExists(f"session {session_id}: is open; expected a name that is not in use")


def owned_elsewhere(session_id: str, owner: str) -> OwnedElsewhere:
    """owner: who has it; "" where the claim was lost and nobody has it now."""
    return OwnedElsewhere(
        f"session {session_id}: {f'{owner} has it' if owner else 'the claim to it was lost'}", fields={"owner": owner}
    )


def ended(session_id: str, ending: str, message: str) -> NtmServeError:
    """Why it is no more, as the class that the ending is the reason of."""
    error = ERROR_OF_REASON.get(ending)
    if error is None:
        return StoreDamaged(f"session {session_id}: expected to know how it ended, got {ending!r}")
    return error(message)


def next_step_after(commit: Commit, *, next_step: int, oldest_step: int) -> int:
    """The session's next step once the commit is kept. Raises StoreConflict where its steps do not follow."""
    next_step = end_of_records(commit, next_step)
    snapshot = commit.snapshot
    if snapshot is not None and not oldest_step <= snapshot.step <= next_step:
        raise StoreConflict(
            f"session {commit.claim.session_id}: expected a snapshot of a step from {oldest_step} to {next_step}, "
            f"got one of {snapshot.step}"
        )
    return next_step


def end_of_records(commit: Commit, next_step: int) -> int:
    """The step that its records lead to from there. Raises StoreConflict where they do not follow each other."""
    for record in commit.records:
        if record.first_step != next_step or record.end_step <= next_step:
            raise StoreConflict(
                f"session {commit.claim.session_id}: expected a record that begins at step {next_step}, "
                f"got one of {record.first_step} to {record.end_step}"
            )
        next_step = record.end_step
    return next_step


def may_be_kept_already(commit: Commit, next_step: int) -> bool:
    """Whether the session stands where this commit would have brought it: see `is_kept_already`."""
    return bool(commit.records) and commit.records[0].first_step < next_step == commit.records[-1].end_step


def is_kept_already(commit: Commit, newest: LogRecord | None) -> bool:
    """Whether it was this commit that brought the session there: its last record is the newest one stored, or
    its own snapshot took the place of all records.
    """
    if newest is not None:
        return newest == commit.records[-1]
    return commit.snapshot is not None and commit.snapshot.step == commit.records[-1].end_step


def oldest_step_after(keep_from_step: int | None, *, oldest_step: int, snapshot_steps: Iterable[int]) -> int:
    """Where the steps within reach begin once all is let go that keep_from_step does not need."""
    if keep_from_step is None:
        return oldest_step
    return max((step for step in snapshot_steps if step <= keep_from_step), default=oldest_step)


def whole(session: StoredSession, oldest_step: int) -> StoredSession:
    """The session, checked: what is stored of it leads from its oldest step to its next. Raises StoreDamaged."""
    reached = _reached(session.snapshots, session.records, oldest_step)
    if reached != session.next_step:
        raise StoreDamaged(
            f"session {session.session_id}: expected what leads to step {session.next_step}, "
            f"got {reached if isinstance(reached, str) else f'what leads to step {reached}'}"
        )
    return session


def _reached(snapshots: Sequence[Snapshot], records: Sequence[LogRecord], oldest_step: int) -> int | str:
    """The step that snapshots and records lead to, or why to none."""
    if oldest_step and oldest_step not in [snapshot.step for snapshot in snapshots[:1]]:
        return f"no snapshot of step {oldest_step}"
    reached = oldest_step
    # The oldest step may lie inside of a record.
    if records and records[0].first_step < oldest_step < records[0].end_step:
        reached = records[0].first_step
    for record in records:
        if record.first_step != reached or record.end_step <= reached:
            return f"a record of {record.first_step} to {record.end_step} after step {reached}"
        reached = record.end_step
    return reached
