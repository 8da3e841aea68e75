"""The log of a SqliteStore, and where it has brought each session.

Rules of this file:
- The log is one table in the order of writing: what 32 sessions add to it are a page or two, and not a
  page for each of them. It is read backwards, from a session's newest record.
- A commit that brings some records alone is one INSERT. Where its sessions stand is remembered, and written
  down later with that of others (`flush`); after a crash it is made up from the end of the log (`_RECOVER`).
- Records that are let go stay until they weigh something, and are swept out in slices as others are written.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ntm_serve.errors import StoreDamaged
from ntm_serve.store import Commit, LogRecord, Snapshot
from ntm_serve.stores import rules
from ntm_serve.stores.sqlite_file import ROWS_PER_STATEMENT, SqliteFile

# Progress is written down after so many records: what a reopening has to make up.
FLUSH_RECORDS = 4096
# What a row of the log takes beside its payload, about.
RECORD_OVERHEAD_BYTES = 40
# Records let go are swept out when they weigh more than this, and more than a fifth of those that live.
SWEEP_BYTES_MIN = 1 << 20
# Rows looked at in one go, about 1 ms; free pages given back to the file system in one go.
SWEEP_ROWS = 1024
VACUUM_PAGES = 1024

_RECORDS = """
    WITH RECURSIVE chain (previous, first_step, end_step, payload) AS (
        SELECT previous, first_step, end_step, payload FROM records WHERE id = :last AND session = :number
            AND end_step > :oldest_step
        UNION ALL
        SELECT record.previous, record.first_step, record.end_step, record.payload
        FROM chain JOIN records AS record ON record.id = chain.previous AND record.session = :number
            AND record.end_step > :oldest_step)
    SELECT first_step, end_step, payload FROM chain"""
_RECOVER = """
    INSERT OR REPLACE INTO progress
    SELECT session, tail.end_step, oldest_step, tail.used_at_s, tail.id, records + tail.count,
        record_bytes + tail.bytes, snapshots, snapshot_bytes
    FROM progress JOIN (
        SELECT record.session AS number, max(record.id) AS id, record.end_step, record.used_at_s, count(*) AS count,
            sum(length(record.payload)) AS bytes
        FROM records AS record JOIN progress AS known ON known.session = record.session AND record.id > known.last
        WHERE record.id > ? GROUP BY record.session) AS tail ON tail.number = progress.session"""
_TOTALS = """
    SELECT count(*), total(records), total(record_bytes), total(snapshots), total(snapshot_bytes) FROM progress"""
_WEIGHT = f"SELECT total(length(payload) + {RECORD_OVERHEAD_BYTES}) FROM records"
_DEAD = """id > ? AND id <= ? AND NOT EXISTS (
    SELECT 1 FROM progress WHERE session = records.session AND oldest_step < records.end_step)"""


class _Standing(NamedTuple):
    """Where a session stands. last: the id of its newest record, 0 where there was none. snapshots: the size
    in bytes by step. marks: what records and record_bytes were when a snapshot was taken, by its step, where known.
    """

    number: int
    next_step: int
    oldest_step: int
    used_at_s: float
    last: int
    records: int
    record_bytes: int
    snapshots: dict[int, int]
    marks: dict[int, tuple[int, int]]

    def sizes(self) -> tuple[int, int, int, int]:
        return self.records, self.record_bytes, len(self.snapshots), sum(self.snapshots.values())

    def row(self) -> tuple[Any, ...]:
        """Of the table progress."""
        return (*self[:5], *self.sizes())

    def place(self) -> dict[str, int]:
        """Where in the log its records are: the parameters of `_RECORDS`."""
        return {"last": self.last, "number": self.number, "oldest_step": self.oldest_step}


class Stored(NamedTuple):
    """A session without its name."""

    next_step: int
    oldest_step: int
    used_at_s: float
    snapshots: Sequence[Snapshot]
    records: Sequence[LogRecord]


@dataclass(slots=True)
class Totals:
    """Of all open sessions."""

    sessions: int
    records: int
    record_bytes: int
    snapshots: int
    snapshot_bytes: int

    def subtract(self, other: "Totals") -> None:
        self.sessions -= other.sessions
        self.change((other.records, other.record_bytes, other.snapshots, other.snapshot_bytes), (0, 0, 0, 0))

    def change(self, before: Sequence[int], after: Sequence[int]) -> None:
        """before, after: records, record_bytes, snapshots, snapshot_bytes of a session."""
        self.records += after[0] - before[0]
        self.record_bytes += after[1] - before[1]
        self.snapshots += after[2] - before[2]
        self.snapshot_bytes += after[3] - before[3]


class Changes:
    """What a call to `commit` is about to write, and where it will leave its sessions."""

    def __init__(self, first_id: int) -> None:
        self.next_id = first_id
        self.records: list[tuple[Any, ...]] = []
        self.record_bytes = 0
        self.snapshots: list[tuple[int, int, bytes]] = []
        self.snapshots_let_go: list[tuple[int, int]] = []
        self.standings: dict[int, _Standing] = {}
        # Sessions whose standing cannot be made up from the end of the log.
        self.told: set[int] = set()
        # Sessions that let records go, and nobody knows how many.
        self.to_be_counted: set[int] = set()
        # What totals gain: records, record_bytes, snapshots, snapshot_bytes.
        self.gain = [0, 0, 0, 0]

    def change(self, before: Sequence[int], after: Sequence[int]) -> None:
        """See Totals.change."""
        self.gain = [gain + new - old for gain, old, new in zip(self.gain, before, after, strict=True)]


class SqliteLog:
    """Sessions by their numbers. Its methods run inside of `SqliteFile.translated`; callers see to claims."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._standings: dict[int, _Standing] = {}
        self._untold: set[int] = set()
        self._untold_records = 0
        self._swept_to = 0
        self._is_vacuuming = False
        with file.transaction():
            [(self.generation, flushed_to, self._weight)] = file.run(
                "UPDATE store SET generation = generation + 1 RETURNING generation, flushed_to, log_weight"
            )
            file.run(_RECOVER, (flushed_to,))
            [(newest,)] = file.run("SELECT max(id) FROM records WHERE id > ?", (flushed_to,))
            [(tail_weight,)] = file.run(f"{_WEIGHT} WHERE id > ?", (flushed_to,))
            self._weight += int(tail_weight)
            self._next_id = (newest or flushed_to) + 1
            self._mark(self._weight)
        self.totals = Totals(*map(int, file.run(_TOTALS)[0]))

    def begin(self, number: int, now_s: float, start: Snapshot | None) -> _Standing:
        """A session at step 0, or at its start. Inside a transaction; `began` follows it, with what this gives."""
        step = 0 if start is None else start.step
        sizes = {} if start is None else {step: len(start.payload)}
        standing = _Standing(number, step, step, now_s, 0, 0, 0, sizes, dict.fromkeys(sizes, (0, 0)))
        self._write_down([standing.row()])
        if start is not None:
            self._file.run("INSERT INTO snapshots VALUES (?, ?, ?)", (number, *start))
        return standing

    def began(self, standing: _Standing) -> None:
        self._standings[standing.number] = standing
        self.totals.sessions += 1
        self.totals.change((0, 0, 0, 0), standing.sizes())

    def is_untouched(self, number: int, start: Snapshot | None) -> bool:
        """Whether it stands as it began, where it began with this start."""
        standing = self._standings[number]
        step = 0 if start is None else start.step
        if not standing.oldest_step == standing.next_step == step:
            return False
        return self._snapshots(number) == ([] if start is None else [start])

    def read(self, number: int) -> Stored:
        """What led to where it stands, unchecked."""
        standing = self._standings.get(number) or self._load(number)
        records = self._file.run(_RECORDS, standing.place())
        return Stored(
            standing.next_step,
            standing.oldest_step,
            standing.used_at_s,
            self._snapshots(number),
            [LogRecord(*row) for row in reversed(records)],
        )

    def remember(self, number: int) -> None:
        """Have it at hand for `commit`."""
        if number not in self._standings:
            self._standings[number] = self._load(number)

    def drop(self, numbers: Iterable[int]) -> None:
        """Have it at hand no longer."""
        self.flush()
        for number in numbers:
            self._standings.pop(number, None)

    def changes(self) -> Changes:
        return Changes(self._next_id)

    def admit(self, commit: Commit, number: int, changes: Changes) -> None:
        """Add it to the changes, unless it is kept already. Raises StoreConflict."""
        was = changes.standings.get(number) or self._standings[number]
        if len(commit.records) == 1 and commit.snapshot is None and commit.keep_from_step is None:
            # Nearly all are of this kind.
            first_step, end_step, payload = commit.records[0]
            if first_step == was.next_step < end_step:
                row, size_bytes = changes.next_id, len(payload)
                changes.next_id += 1
                changes.records.append((row, number, was.last, first_step, end_step, commit.used_at_s, payload))
                changes.record_bytes += size_bytes
                changes.gain[0] += 1
                changes.gain[1] += size_bytes
                changes.standings[number] = _Standing(
                    number, end_step, was.oldest_step, commit.used_at_s, row, was.records + 1,
                    was.record_bytes + size_bytes, was.snapshots, was.marks,
                )  # fmt: skip
                return
        if rules.may_be_kept_already(commit, was.next_step) and self._is_kept_already(commit, was, changes):
            return
        next_step = rules.next_step_after(commit, next_step=was.next_step, oldest_step=was.oldest_step)
        last, used_at_s, size_bytes = was.last, commit.used_at_s, 0
        for first_step, end_step, payload in commit.records:
            changes.records.append((changes.next_id, number, last, first_step, end_step, used_at_s, payload))
            last = changes.next_id
            changes.next_id += 1
            size_bytes += len(payload)
        changes.record_bytes += size_bytes
        after = _Standing(
            number,
            next_step,
            was.oldest_step,
            used_at_s,
            last,
            was.records + len(commit.records),
            was.record_bytes + size_bytes,
            was.snapshots,
            was.marks,
        )
        if commit.snapshot is not None or commit.keep_from_step is not None:
            after = self._with_snapshot(commit, after, changes)
        if after.snapshots is not was.snapshots or not commit.records:
            changes.told.add(number)
        changes.change(was.sizes(), after.sizes())
        changes.standings[number] = after

    def write(self, changes: Changes) -> None:
        """Keep the changes."""
        if changes.told or len(changes.records) > ROWS_PER_STATEMENT:
            with self._file.transaction():
                self._insert(changes)
                self._write_down(self._counted(changes))
        elif changes.records:
            # One statement, and so a transaction by itself.
            self._insert(changes)
        self._take(changes)

    def flush(self) -> None:
        """Write down where sessions stand, so that it need not be made up."""
        if self._untold:
            with self._file.transaction():
                self._write_down([self._standings[number].row() for number in self._untold])
                self._mark(self._weight)
            self._untold.clear()
            self._untold_records = 0

    def end(self, numbers: Sequence[int]) -> None:
        """They are no more. Inside a transaction that began after `flush`; `ended` follows it."""
        one_each = [(number,) for number in numbers]
        self._file.run_rows("DELETE FROM progress WHERE session IN (VALUES {})", one_each)
        self._file.run_rows("DELETE FROM snapshots WHERE session IN (VALUES {})", one_each)

    def totals_of(self, numbers: Sequence[int]) -> Totals:
        """Of these sessions, after `flush`."""
        rows = self._file.run_rows(f"{_TOTALS} WHERE session IN (VALUES {{}})", [(number,) for number in numbers])
        return Totals(*(int(sum(column)) for column in zip(*rows, strict=True)))

    def ended(self, numbers: Sequence[int], totals: Totals) -> None:
        for number in numbers:
            self._standings.pop(number, None)
        self.totals.subtract(totals)
        self.sweep()

    def sweep(self) -> None:
        """Take a slice of what was let go out of the file, where there is enough of it."""
        living = self.totals.record_bytes + self.totals.records * RECORD_OVERHEAD_BYTES
        if self._weight - living <= max(SWEEP_BYTES_MIN, living // 5):
            if self._is_vacuuming:
                self._is_vacuuming = self._file.vacuum(VACUUM_PAGES)
            return
        self.flush()
        with self._file.transaction():
            [(last,)] = self._file.run(
                "SELECT max(id) FROM (SELECT id FROM records WHERE id > ? ORDER BY id LIMIT ?)",
                (self._swept_to, SWEEP_ROWS),
            )
            [(swept,)] = self._file.run(f"{_WEIGHT} WHERE {_DEAD}", (self._swept_to, last or 0))
            self._file.run(f"DELETE FROM records WHERE {_DEAD}", (self._swept_to, last or 0))
            self._mark(self._weight - int(swept))
        self._weight -= int(swept)
        self._swept_to = last or 0
        self._is_vacuuming = self._file.vacuum(VACUUM_PAGES)

    def _snapshots(self, number: int) -> list[Snapshot]:
        rows = self._file.run("SELECT step, payload FROM snapshots WHERE session = ? ORDER BY step", (number,))
        return [Snapshot(*row) for row in rows]

    def _load(self, number: int) -> _Standing:
        rows = self._file.run("SELECT * FROM progress WHERE session = ?", (number,))
        if not rows:
            raise StoreDamaged(f"store: expected progress of session number {number}, got none")
        snapshots = self._file.run("SELECT step, length(payload) FROM snapshots WHERE session = ?", (number,))
        standing = _Standing._make((*rows[0][:7], dict(snapshots), {}))
        if standing.row() != rows[0]:
            raise StoreDamaged(
                f"store: expected snapshots of session number {number} as in {rows[0]}, got {standing.snapshots}"
            )
        return standing

    def _is_kept_already(self, commit: Commit, was: _Standing, changes: Changes) -> bool:
        rows = self._file.run(
            "SELECT first_step, end_step, payload FROM records WHERE id = ? AND session = ? AND end_step > ?",
            (was.last, was.number, was.oldest_step),
        ) or [row[3:5] + row[6:] for row in changes.records if row[0] == was.last]
        return rules.is_kept_already(commit, LogRecord(*rows[0]) if rows else None)

    def _with_snapshot(self, commit: Commit, after: _Standing, changes: Changes) -> _Standing:
        """With the commit's snapshot, and without what it lets go."""
        snapshots, marks = dict(after.snapshots), dict(after.marks)
        if commit.snapshot is not None:
            step = commit.snapshot.step
            snapshots[step] = len(commit.snapshot.payload)
            changes.snapshots.append((after.number, *commit.snapshot))
            if step == after.next_step:
                marks[step] = after.records, after.record_bytes
        oldest = rules.oldest_step_after(commit.keep_from_step, oldest_step=after.oldest_step, snapshot_steps=snapshots)
        if oldest > after.oldest_step:
            let_go = [step for step in snapshots if step < oldest]
            changes.snapshots_let_go += [(after.number, step) for step in let_go]
            for step in let_go:
                del snapshots[step]
            gone = marks.get(oldest)
            if gone is None:
                changes.to_be_counted.add(after.number)
                marks.clear()
            else:
                after = after._replace(records=after.records - gone[0], record_bytes=after.record_bytes - gone[1])
                marks = {
                    step: (records - gone[0], size - gone[1])
                    for step, (records, size) in marks.items()
                    if step >= oldest
                }
        return after._replace(oldest_step=oldest, snapshots=snapshots, marks=marks)

    def _insert(self, changes: Changes) -> None:
        self._file.run_rows("INSERT INTO records VALUES {}", changes.records)
        self._file.run_rows("INSERT OR REPLACE INTO snapshots VALUES {}", changes.snapshots)
        self._file.run_rows("DELETE FROM snapshots WHERE (session, step) IN (VALUES {})", changes.snapshots_let_go)

    def _counted(self, changes: Changes) -> list[tuple[Any, ...]]:
        """Rows of progress for those that are to be told, once their records are counted that let some go."""
        for number in changes.to_be_counted:
            after = changes.standings[number]
            counted = (0, 0)
            if after.oldest_step < after.next_step:
                [counted] = self._file.run(f"SELECT count(*), total(length(payload)) FROM ({_RECORDS})", after.place())
            exact = after._replace(records=counted[0], record_bytes=int(counted[1]))
            changes.change(after.sizes(), exact.sizes())
            changes.standings[number] = exact
        return [changes.standings[number].row() for number in changes.told]

    def _write_down(self, rows: Sequence[Sequence[Any]]) -> None:
        self._file.run_rows("INSERT OR REPLACE INTO progress VALUES {}", rows)

    def _mark(self, weight: int) -> None:
        """All that was written so far is in progress, or told to be: a reopening makes up what comes after."""
        self._file.run("UPDATE store SET flushed_to = ?, log_weight = ?", (self._next_id - 1, weight))

    def _take(self, changes: Changes) -> None:
        """What was written is so."""
        self.totals.change((0, 0, 0, 0), changes.gain)
        self._standings.update(changes.standings)
        self._untold.update(changes.standings)
        self._untold -= changes.told
        self._next_id = changes.next_id
        self._weight += changes.record_bytes + len(changes.records) * RECORD_OVERHEAD_BYTES
        self._untold_records += len(changes.records)
        if self._untold_records >= FLUSH_RECORDS:
            self.flush()
        self.sweep()
