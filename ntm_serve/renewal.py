"""Renewal: a value that comes from files, and is read again when they change.

Rules of this file: what cannot be used when the server starts keeps it from starting; what cannot be used later is
logged once, and the value before it stays, so that a file that is half written takes nothing from anybody.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from ntm_serve.errors import SettingsFault

A = TypeVar("A")

# How often files are looked at: a look is a system call a file, and a renewal is not in a hurry.
LOOK_S = 2.0

log = structlog.get_logger()


class Renewed(Generic[A]):
    """A value of files. `value` may be read by any thread; `look` belongs to one."""

    def __init__(self, what: str, files: Sequence[Path], read: Callable[[], A]) -> None:
        """what: in the words of log lines. read: makes the value of the files as they are. Raises what it raises."""
        self._what = what
        self._files = tuple(files)
        self._read = read
        self._seen = self._marks()
        self.value = read()

    def look(self) -> bool:
        """Read the files again where they changed; whether there is a new value."""
        marks = self._marks()
        if marks == self._seen:
            return False
        self._seen = marks
        try:
            self.value = self._read()
        except SettingsFault as fault:
            log.error("renewed files cannot be used; what was read before stays", of=self._what, fault=fault.message)
            return False
        except Exception as fault:  # The boundary: whatever is in a file, those who are served are served on.
            # By its kind alone: its text may quote what the file has.
            kind = type(fault).__name__
            log.error("renewed files cannot be used; what was read before stays", of=self._what, fault=kind)
            return False
        log.info("files were renewed", of=self._what)
        return True

    def _marks(self) -> tuple[object, ...]:
        """What tells that a file changed: also one that a link now leads to, as where secrets are mounted."""
        return tuple(map(_mark, self._files))


def bytes_of(path: Path, what: str) -> bytes:
    """A file's content. Raises SettingsFault that names the setting."""
    try:
        return path.read_bytes()
    except OSError as fault:
        raise SettingsFault(f"{what}: expected a file that can be read at {path}, got: {fault.strerror}") from fault


def _mark(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
