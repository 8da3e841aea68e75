"""A store in one SQLite file, for one process.

Rules of this file: nobody else has the file, so claims are in memory and end with the process; a session
that is claimed has its number and standing at hand, so `commit` reads nothing. A session that restarts gets
another number, so that nothing which was written before can be taken for its own. What is not about names,
claims and endings is in `sqlite_log`.
"""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ntm_serve.errors import NtmServeError, StoreConflict
from ntm_serve.store import Claim, Commit, Ending, Head, Snapshot, Store, StoredSession, StoredSummary, StoreStatistics
from ntm_serve.stores import rules
from ntm_serve.stores.claims import Claims
from ntm_serve.stores.sqlite_file import SqliteFile
from ntm_serve.stores.sqlite_log import SqliteLog

# The first epoch of an opening is higher than any of the one before.
EPOCHS_PER_GENERATION = 1 << 32

_HEAD = "model, version, digest, durability, opened_at_s, options"
_SUMMARIES = f"""
    SELECT session_id, next_step, used_at_s, {_HEAD} FROM sessions JOIN progress ON session = number
    WHERE session_id > :after AND ending IS NULL AND (:model = '' OR model = :model)
    ORDER BY session_id LIMIT :limit"""


class SqliteStore(Store):
    """The contract of `Store` in the file at `path`, made where it is missing."""

    def __init__(self, path: Path) -> None:
        """Raises SettingsFault where the file cannot be used or another process uses it, StoreDamaged."""
        self._lock = threading.Lock()
        self._file = SqliteFile(path)
        try:
            with self._file.translated():
                self._log = SqliteLog(self._file)
                [(self._ended,)] = self._file.run("SELECT count(*) FROM sessions WHERE ending IS NOT NULL")
        except BaseException:
            self._file.close()
            raise
        self._claims = Claims(first_epoch=self._log.generation * EPOCHS_PER_GENERATION)
        self._numbers: dict[str, int] = {}

    @property
    def is_local(self) -> bool:
        return True

    def keep_alive(self, owner: str, *, now_s: float, lease_s: float) -> None:
        with self._lock:
            self._claims.keep_alive(owner, now_s + lease_s)

    def create(self, session_id: str, head: Head, *, owner: str, now_s: float, start: Snapshot | None = None) -> Claim:
        with self._alone():
            row = self._row(session_id)
            is_ended = row is not None and row[1] is not None
            if row is not None and not is_ended:
                if not self._is_this_call_again(session_id, Head(*row[5:]), head, owner, start):
                    raise rules.exists(session_id)
                return self._claims.grant(session_id, owner)
            self._begin(session_id, head, now_s, start)
            self._ended -= is_ended
            return self._claims.grant(session_id, owner)

    def restart(self, claim: Claim, start: Snapshot, *, used_at_s: float) -> None:
        with self._alone():
            fault = self._fault(claim)
            if fault is not None:
                raise fault
            before, head = self._find(claim.session_id)
            self._log.flush()
            totals = self._log.totals_of([before])
            self._begin(claim.session_id, head, used_at_s, start, [before])
            self._log.ended([before], totals)

    def claim(self, session_id: str, *, owner: str, now_s: float) -> tuple[Claim, StoredSession]:
        with self._alone():
            number, head = self._find(session_id)
            self._claims.expect_free(session_id, owner, now_s)
            session = self._stored(session_id, number, head)
            self._log.remember(number)
            self._numbers[session_id] = number
            claim = self._claims.grant(session_id, owner)
            return claim, replace(session, owner=owner, epoch=claim.epoch)

    def wanted(self, owner: str) -> Sequence[str]:
        with self._lock:
            return self._claims.wanted(owner)

    def commit(self, commits: Sequence[Commit]) -> Sequence[NtmServeError | None]:
        if not commits:
            return []
        # On the path of a step: without the two context managers of `_alone`.
        with self._lock:
            try:
                return self._commit(commits)
            except sqlite3.Error as error:
                raise self._file.fault(error) from error

    def _commit(self, commits: Sequence[Commit]) -> list[NtmServeError | None]:
        changes, admit, is_held, numbers = self._log.changes(), self._log.admit, self._claims.is_held, self._numbers
        errors: list[NtmServeError | None] = [None] * len(commits)
        for place, commit in enumerate(commits):
            if is_held(commit.claim):
                try:
                    admit(commit, numbers[commit.claim.session_id], changes)
                except StoreConflict as conflict:
                    errors[place] = conflict
            else:
                errors[place] = self._fault(commit.claim)
        self._log.write(changes)
        return errors

    def sync(self) -> None:
        """Without the lock: whoever writes meanwhile need not wait."""
        self._file.sync()

    def tidy(self) -> None:
        """Bring the WAL home. The lock is held for its end alone, which is what others wrote meanwhile."""
        if self._file.is_checkpoint_due():
            with self._file.translated():
                self._file.checkpoint_beside()
            with self._alone():
                self._file.checkpoint()

    def release(self, claims: Sequence[Claim]) -> None:
        with self._alone():
            held = [claim.session_id for claim in claims if self._claims.is_held(claim)]
            self._log.drop([self._numbers[session_id] for session_id in held])
            self._let_go(held)

    def end(
        self, claims: Sequence[Claim], ending: Ending, message: str, *, now_s: float
    ) -> Sequence[NtmServeError | None]:
        with self._alone():
            errors = [self._fault(claim) for claim in claims]
            held = {claim: self._numbers[claim.session_id] for claim in claims if self._claims.is_held(claim)}
            self._bury(
                [(number, claim.session_id, claim.epoch) for claim, number in held.items()], ending, message, now_s
            )
            return [
                error if error is None or not self._was_ended_by(claim) else None
                for claim, error in zip(claims, errors, strict=True)
            ]

    def read(self, session_id: str) -> StoredSession:
        with self._alone():
            return self._stored(session_id, *self._find(session_id))

    def list(self, *, after: str, limit: int, model: str = "") -> Sequence[StoredSummary]:
        with self._alone():
            self._log.flush()
            rows = self._file.run(_SUMMARIES, {"after": after, "limit": limit, "model": model})
            return [
                StoredSummary(row[0], Head(*row[3:]), row[1], row[2], self._claims.newest(row[0]).owner) for row in rows
            ]

    def expire(self, *, unused_since_s: float, message: str, now_s: float, limit: int) -> Sequence[str]:
        """No index tells what was last used when, as every commit would have to keep it: this reads all of
        progress, about 10 ms for 100,000 sessions.
        """
        with self._alone():
            self._log.flush()
            unused = self._file.run(
                "SELECT number, session_id, 0 FROM progress JOIN sessions ON number = session WHERE used_at_s < ?",
                (unused_since_s,),
            )
            ending = [row for row in unused if not self._claims.is_alive(row[1], now_s)][:limit]
            self._bury(ending, Ending.EXPIRED, message, now_s)
            return [session_id for _, session_id, _ in ending]

    def forget(self, *, ended_before_s: float) -> int:
        with self._alone():
            self._file.run("DELETE FROM sessions WHERE ending IS NOT NULL AND ended_at_s < ?", (ended_before_s,))
            [(forgotten,)] = self._file.run("SELECT changes()")
            self._ended -= int(forgotten)
            return int(forgotten)

    def statistics(self) -> StoreStatistics:
        with self._lock:
            totals = self._log.totals
            return StoreStatistics(
                totals.sessions,
                self._ended,
                totals.records,
                totals.snapshots,
                totals.record_bytes + totals.snapshot_bytes,
                self._file.stored_bytes(),
            )

    def close(self) -> None:
        with self._lock:
            try:
                with self._file.translated():
                    self._log.flush()
            finally:
                self._file.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Whoever asks: one at a time, and faults in our words."""
        with self._lock, self._file.translated():
            yield

    def _row(self, session_id: str) -> Any:
        """number, ending, message, ended_by_epoch, session_id, and the head; None where there is none."""
        rows = self._file.run(
            f"SELECT number, ending, message, ended_by_epoch, session_id, {_HEAD} FROM sessions WHERE session_id = ?",
            (session_id,),
        )
        return rows[0] if rows else None

    def _find(self, session_id: str) -> tuple[int, Head]:
        row = self._row(session_id)
        if row is None:
            raise rules.unknown(session_id)
        if row[1] is not None:
            raise rules.ended(session_id, row[1], row[2])
        return row[0], Head(*row[5:])

    def _begin(
        self, session_id: str, head: Head, now_s: float, start: Snapshot | None, instead_of: Sequence[int] = ()
    ) -> None:
        """The name gets a number that made no step, instead of that of an open session, or of an ended one."""
        with self._file.transaction():
            self._log.end(instead_of)
            [(number,)] = self._file.run(
                f"INSERT OR REPLACE INTO sessions (session_id, {_HEAD}) VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING number",
                (session_id, *_columns(head)),
            )
            standing = self._log.begin(number, now_s, start)
        self._log.began(standing)
        self._numbers[session_id] = number

    def _is_this_call_again(
        self, session_id: str, stored: Head, head: Head, owner: str, start: Snapshot | None
    ) -> bool:
        """Whether this owner made the session with this head and start, and nothing came of it yet."""
        if stored != head or self._claims.newest(session_id).owner != owner:
            return False
        return self._log.is_untouched(self._numbers[session_id], start)

    def _fault(self, claim: Claim) -> NtmServeError | None:
        if self._claims.is_held(claim):
            return None
        try:
            self._find(claim.session_id)
        except NtmServeError as error:
            return error
        return rules.owned_elsewhere(claim.session_id, self._claims.newest(claim.session_id).owner)

    def _was_ended_by(self, claim: Claim) -> bool:
        row = self._row(claim.session_id)
        return row is not None and row[1] is not None and row[3] == claim.epoch

    def _stored(self, session_id: str, number: int, head: Head) -> StoredSession:
        stored = self._log.read(number)
        newest = self._claims.newest(session_id)
        return rules.whole(
            StoredSession(
                session_id,
                head,
                stored.next_step,
                stored.used_at_s,
                newest.owner,
                newest.epoch,
                stored.snapshots,
                stored.records,
            ),
            stored.oldest_step,
        )

    def _bury(self, ending: Sequence[tuple[int, str, int]], why: Ending, message: str, now_s: float) -> None:
        """ending: number, id and, of the claim that ends it, the epoch."""
        if not ending:
            return
        numbers = [number for number, _, _ in ending]
        self._log.flush()
        totals = self._log.totals_of(numbers)
        with self._file.transaction():
            self._log.end(numbers)
            self._file.run_rows(
                "UPDATE sessions SET ending = new.column2, message = new.column3, ended_at_s = new.column4, "
                "ended_by_epoch = new.column5 FROM (VALUES {}) AS new WHERE number = new.column1",
                [(number, why.value, message, now_s, epoch) for number, _, epoch in ending],
            )
        self._ended += len(ending)
        self._let_go([session_id for _, session_id, _ in ending])
        self._log.ended(numbers, totals)

    def _let_go(self, session_ids: Sequence[str]) -> None:
        for session_id in session_ids:
            self._claims.drop(session_id)
            self._numbers.pop(session_id, None)


def _columns(head: Head) -> tuple[Any, ...]:
    return head.model, head.version, head.digest, head.durability, head.opened_at_s, head.options
