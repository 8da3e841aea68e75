"""The file of a SqliteStore: opened by one process at a time, checked to be ours, its faults told in our words.

Rules of this file: WAL, synchronous=NORMAL. So a transaction survives the process the moment it is
written, and checkpoints are synced in the right order and never leave a torn file. What is not on the disk
yet is in the WAL, and `sync` has the disk take that.
"""

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

from ntm_serve.errors import NtmServeError, SettingsFault, StoreDamaged, StoreUnavailable

# "ntms": tells `file` and us whose database it is. The version of the tables below.
APPLICATION_ID = 0x6E746D73
SCHEMA_VERSION = 1
# STRICT tables.
SQLITE_MIN = (3, 37, 0)
# How long another process, a backup say, may hold the write lock. Callers wait meanwhile.
BUSY_WAIT_S = 2.0
# Rows written, or bytes of WAL, after which a checkpoint is due: it syncs twice, so not too often.
CHECKPOINT_ROWS = 20_000
CHECKPOINT_BYTES = 8 << 20
# Pages of WAL at which SQLite makes one itself, within a commit, which then takes tens of milliseconds.
CHECKPOINT_PAGES = 32 * 1024
CACHE_KIB = 64 * 1024
# A statement with more parameters than SQLite's default limit is refused; more rows gain nothing.
ROWS_PER_STATEMENT = 256

SCHEMA = """
-- What a session is; or, with an ending, what it was. AUTOINCREMENT: numbers never come again, so that
-- records of an ended session that were not swept yet cannot be taken for another's.
CREATE TABLE sessions (
    number INTEGER PRIMARY KEY AUTOINCREMENT, session_id TEXT NOT NULL UNIQUE,
    model TEXT NOT NULL, version TEXT NOT NULL, digest TEXT NOT NULL, durability TEXT NOT NULL,
    opened_at_s REAL NOT NULL, options BLOB NOT NULL,
    ending TEXT, message TEXT, ended_at_s REAL, ended_by_epoch INTEGER
) STRICT;
CREATE INDEX endings ON sessions (ended_at_s) WHERE ending IS NOT NULL;
-- Where an open session stands, as of record `last`: records of it with a higher id are to be added.
CREATE TABLE progress (
    session INTEGER PRIMARY KEY, next_step INTEGER NOT NULL, oldest_step INTEGER NOT NULL, used_at_s REAL NOT NULL,
    last INTEGER NOT NULL, records INTEGER NOT NULL, record_bytes INTEGER NOT NULL,
    snapshots INTEGER NOT NULL, snapshot_bytes INTEGER NOT NULL
) STRICT;
-- The log, in the order of writing; `previous` is the id of the session's record before.
CREATE TABLE records (
    id INTEGER PRIMARY KEY, session INTEGER NOT NULL, previous INTEGER NOT NULL, first_step INTEGER NOT NULL,
    end_step INTEGER NOT NULL, used_at_s REAL NOT NULL, payload BLOB NOT NULL
) STRICT;
CREATE TABLE snapshots (
    session INTEGER NOT NULL, step INTEGER NOT NULL, payload BLOB NOT NULL, PRIMARY KEY (session, step)
) STRICT;
-- One row. generation: how often the file was opened. flushed_to: the newest record when progress was last
-- brought up to date. log_weight: what the table of records held then.
CREATE TABLE store (generation INTEGER NOT NULL, flushed_to INTEGER NOT NULL, log_weight INTEGER NOT NULL) STRICT;
INSERT INTO store VALUES (0, 0, 0);
"""


class SqliteFile:
    """A connection to the file, and the lock that keeps every other process out."""

    def __init__(self, path: Path) -> None:
        """Raises SettingsFault where the file cannot be used or another process uses it, StoreDamaged."""
        self.path = path
        self._wal_path = path.with_name(path.name + "-wal")
        self._wal: int | None = None
        self._beside: sqlite3.Connection | None = None
        self._homed_rows = self._homed_size = 0
        self._lock_file = _locked(path)
        try:
            with self.translated():
                self._db = sqlite3.connect(
                    path,
                    timeout=BUSY_WAIT_S,
                    isolation_level=None,
                    check_same_thread=False,
                    cached_statements=2 * ROWS_PER_STATEMENT,
                )
                self._open()
                # The keeper asks again; whoever calls from an event loop must not wait here.
                self._db.execute("PRAGMA busy_timeout = 0")
        except BaseException:
            self.close()
            raise

    def run(self, sql: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """All rows that a statement gives. Outside of `transaction` it is a transaction of its own."""
        return self._db.execute(sql, values).fetchall()

    def run_rows(self, sql: str, rows: Sequence[Sequence[Any]]) -> list[Any]:
        """A statement with `VALUES {}` for all of the rows, in as few runs as can be: with each the interpreter's
        lock is given up, and to get it back from a busy event loop may take milliseconds.
        """
        given: list[Any] = []
        for first in range(0, len(rows), ROWS_PER_STATEMENT):
            some = rows[first : first + ROWS_PER_STATEMENT]
            given += self.run(_of_rows(sql, len(some), len(some[0])), tuple(chain.from_iterable(some)))
        return given

    def sync(self) -> None:
        """Come back when the disk has all that was written before. It may be called while others write.

        Raises OSError where the disk failed: it tells so once, and the next time as if all were there.
        """
        if self._wal is None:
            self._wal = os.open(self._wal_path, os.O_RDONLY)
            # The first time: that there is such a file is on the disk as well.
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        os.fsync(self._wal)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Raises StoreDamaged, SettingsFault or StoreUnavailable for what SQLite raises."""
        try:
            yield
        except sqlite3.Error as error:
            raise self.fault(error) from error

    def vacuum(self, pages: int) -> bool:
        """Give so many free pages back to the file system where a quarter of the file is free. Whether it was."""
        [(free,)] = self.run("PRAGMA freelist_count")
        [(all_pages,)] = self.run("PRAGMA page_count")
        is_due = bool(free > max(pages, all_pages // 4))
        if is_due:
            # As a script: it is run to its end. As a query without columns it would stop after one page.
            self._db.executescript(f"PRAGMA incremental_vacuum({pages})")
        return is_due

    def is_checkpoint_due(self) -> bool:
        """Whether much was written since it last was."""
        rows, size = self._db.total_changes, self._wal_path.stat().st_size if self._wal_path.exists() else 0
        # The WAL keeps its size when it begins anew: only where it grew it tells something.
        is_due = rows - self._homed_rows >= CHECKPOINT_ROWS or size - self._homed_size >= CHECKPOINT_BYTES
        if is_due:
            self._homed_rows, self._homed_size = rows, max(size, self._homed_size)
        return is_due

    def checkpoint_beside(self) -> None:
        """Bring what the WAL has home to the file, by a connection of its own; what others write meanwhile is left."""
        if self._beside is None:
            self._beside = sqlite3.connect(self.path, timeout=0.0, isolation_level=None, check_same_thread=False)
        self._beside.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def checkpoint(self) -> None:
        """Bring home what the WAL has; it begins anew with the next transaction."""
        self.run("PRAGMA wal_checkpoint(PASSIVE)")

    def stored_bytes(self) -> int:
        """Of the file and its WAL."""
        total = 0
        for path in (self.path, self._wal_path):
            with suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

    def close(self) -> None:
        """Give the file up. SQLite brings its WAL home."""
        if self._beside is not None:
            self._beside.close()
        if hasattr(self, "_db"):
            self._db.close()
        if self._wal is not None:
            os.close(self._wal)
        os.close(self._lock_file)

    def _open(self) -> None:
        self._db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        [(application,)] = self.run("PRAGMA application_id")
        [(version,)] = self.run("PRAGMA user_version")
        [(tables,)] = self.run("SELECT count(*) FROM sqlite_master")
        if tables and application != APPLICATION_ID:
            raise SettingsFault(f"store: expected a file of ntm-serve at {self.path}, got another program's database")
        if tables and version != SCHEMA_VERSION:
            raise SettingsFault(
                f"store: expected version {SCHEMA_VERSION} of the tables in {self.path}, got version {version}; "
                "serve it with the ntm-serve that wrote it, or give another path"
            )
        # Before the first table: afterwards it would take effect with a full VACUUM only.
        self._db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        self._db.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        self._db.execute(f"PRAGMA journal_size_limit = {CHECKPOINT_BYTES}")
        if not tables:
            with self.transaction():
                for statement in SCHEMA.split(";\n"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def fault(self, error: sqlite3.Error) -> NtmServeError:
        """StoreDamaged, SettingsFault or StoreUnavailable for what SQLite raised."""
        code = getattr(error, "sqlite_errorcode", None)
        told, said = f"store: {error}", f"store: {self.path}: {error}"
        if isinstance(error, sqlite3.ProgrammingError):
            return StoreUnavailable(told, detail=said)
        if code is None or code in _DAMAGED or code & 0xFF in _DAMAGED:
            return StoreDamaged(told, detail=f"{said}; expected the database that was left there")
        if code & 0xFF in _UNUSABLE:
            return SettingsFault(told, detail=f"{said}; expected a path that this process may write")
        return StoreUnavailable(told, detail=said)


@cache
def _of_rows(sql: str, rows: int, columns: int) -> str:
    """The statement for so many rows."""
    return sql.format(", ".join([f"({', '.join('?' * columns)})"] * rows))


_DAMAGED = frozenset(
    (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_IOERR_SHORT_READ,
        # A table or a column that is not there, a value that cannot be: not what we wrote.
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
    )
)
_UNUSABLE = frozenset((sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM))


def _locked(path: Path) -> int:
    """An open file beside the database, locked until it is closed or the process ends, however it ends."""
    if sqlite3.sqlite_version_info < SQLITE_MIN:
        raise SettingsFault(f"store: expected SQLite {'.'.join(map(str, SQLITE_MIN))}, got {sqlite3.sqlite_version}")
    beside = path.with_name(path.name + ".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock_file = os.open(beside, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise SettingsFault(f"store: {path}: expected a path that this process may write, got {error}") from error
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock_file)
        raise SettingsFault(
            f"store: another process has {path} open ({beside} is locked); "
            "stop that server, give this one a path of its own, or share sessions through redis"
        ) from error
    return lock_file
