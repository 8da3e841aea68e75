"""How far a run of `pipe` is: a bar on stderr where somebody sees it, and one line at the end everywhere."""

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class Meter:
    """Counts events. size: bytes that are to be read; None where nobody knows."""

    def __init__(self, name: str, size: int | None) -> None:
        self.events = 0
        self.failed = 0
        self._sessions = 0
        self._began_s = time.monotonic()
        console = Console(stderr=True)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[told]}"),
            *((TimeRemainingColumn(),) if size else ()),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task = self._progress.add_task(name, total=size, told="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Take the bar away, and say what was done."""
        self._progress.stop()
        print(self._told, file=sys.stderr)

    def count(self, events: int, failed: int, *, sessions: int, bytes_read: int) -> None:
        """Events that were written, and how far the input was read for it."""
        self.events += events
        self.failed += failed
        self._sessions = sessions
        if not self._progress.disable:
            self._progress.update(self._task, completed=bytes_read, told=self._told)

    @property
    def _told(self) -> str:
        rate = self.events / max(time.monotonic() - self._began_s, 1e-9)
        return f"{self.events:,} events of {self._sessions:,} sessions, {self.failed:,} failed, {rate:,.0f} events/s"
