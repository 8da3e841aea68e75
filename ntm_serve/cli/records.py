"""What a run of `pipe` leaves: lines of outputs, and beside them, while the run lasts, its journal. From both a
later run learns where to go on.

Rules of this file: a line is written once, whole, in the order of the events; what a later run must know and
cannot see in the outputs is in the journal before it happens; a line without its end was never written.
"""

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from ntm_serve.cli.events import Events, Format
from ntm_serve.client import Answers
from ntm_serve.errors import NtmServeError, SettingsFault
from ntm_serve.spec import TensorSpec
from ntm_serve.wire import error_of

JOURNAL_SUFFIX = ".journal"

_compact = json.JSONEncoder(separators=(",", ":")).encode


class LineWriter:
    """Answers as lines of JSON, or of CSV with a column for each number."""

    def __init__(self, form: Format, specs: Sequence[TensorSpec]) -> None:
        self._form = form
        self._specs = specs

    @property
    def header(self) -> str:
        """What stands above the lines."""
        if self._form == "jsonl":
            return ""
        columns = []
        for spec in self._specs:
            count = _size_of(spec)
            columns += [spec.name] if count == 1 else [f"{spec.name}_{i}" for i in range(count)]
        return _rows_of_csv([["line", "key", "step", *columns, "error"]])

    def lines(self, events: Events, answers: Answers, errors: Mapping[int, NtmServeError], *, until: int) -> str:
        """The lines of the first `until` events. answers: of the events' rows; errors: by the event's place."""
        steps: list[int] = answers.steps.tolist()
        outputs = [answers.outputs[spec.name].tolist() for spec in self._specs] if steps and answers.outputs else []
        row_of = {place: row for row, place in enumerate(events.rows)} if errors else None
        record = self._json if self._form == "jsonl" else self._csv
        made = []
        for place in range(until):
            number, key = events.numbers[place], events.keys[place]
            if place in errors:
                made.append(record(number, key, None, (), errors[place]))
            else:
                row = place if row_of is None else row_of[place]
                made.append(record(number, key, steps[row], [output[row] for output in outputs], None))
        if self._form == "csv":
            return _rows_of_csv(made)
        return "".join(_compact(one) + "\n" for one in made)

    def _json(self, number: int, key: str, step: int | None, values: Sequence[Any], error: NtmServeError | None) -> Any:
        if error is not None:
            return {"line": number, "key": key, "error": _told(error)}
        outputs = {spec.name: value for spec, value in zip(self._specs, values, strict=True)}
        return {"line": number, "key": key, "step": step, "outputs": outputs}

    def _csv(self, number: int, key: str, step: int | None, values: Sequence[Any], error: NtmServeError | None) -> Any:
        if error is not None:
            blanks = [""] * sum(_size_of(spec) for spec in self._specs)
            return [number, key, "", *blanks, " ".join(f"{error.reason}: {error.message}".split())]
        return [number, key, step, *(one for value in values for one in _flat(value)), ""]


@dataclass(slots=True)
class Progress:
    """How far earlier runs came. line, key: of the last event that was written; next_steps: by key; failed: events
    after it that failed and whose sessions went on, by line; end: where in the file the outputs end.
    """

    line: int = 0
    key: str = ""
    end: int = 0
    events: int = 0
    failed_events: int = 0
    next_steps: dict[str, int] = field(default_factory=dict)
    failed: dict[int, NtmServeError] = field(default_factory=dict)


class Journal:
    """What is to be known before it can be seen: where a session stood when it was taken up, and which event failed
    although its session went on. Lies beside the outputs until the run is done.
    """

    def __init__(self, path: Path, about: Mapping[str, str], *, fresh: bool) -> None:
        self._path = path
        self._file = path.open("wb" if fresh else "ab", buffering=0)
        if not self._file.tell():
            self._write([{"about": dict(about)}])

    def took_up(self, stands: Mapping[str, int]) -> None:
        """Sessions, and the number of each one's first step."""
        self._write([{"key": key, "step": step} for key, step in stands.items()])

    def failed(self, line: int, error: NtmServeError) -> None:
        self._write([{"line": line, "error": _told(error)}])

    def close(self, *, done: bool) -> None:
        self._file.close()
        if done:
            self._path.unlink()

    def _write(self, records: Sequence[Mapping[str, Any]]) -> None:
        write_whole(self._file, "".join(_compact(record) + "\n" for record in records))


class Sink(Protocol):
    """Where lines go, and what earlier runs left there. journal: None where no later run can go on."""

    progress: Progress
    journal: Journal | None

    def write(self, text: str) -> None:
        """Raises SettingsFault."""
        ...


class StandardOutput:
    """Lines to standard output: nobody can read there how far the run came."""

    def __init__(self, writer: LineWriter) -> None:
        self.progress = Progress()
        self.journal: Journal | None = None
        self._file = FileIO(sys.stdout.fileno(), "w", closefd=False)
        self.write(writer.header)

    def write(self, text: str) -> None:
        write_whole(self._file, text)


class Record:
    """The file of outputs of a run, and its journal. Raises SettingsFault where they are not what they should be."""

    def __init__(
        self,
        path: Path,
        writer: LineWriter,
        form: Format,
        *,
        resume: bool,
        overwrite: bool = False,
        about: Mapping[str, str],
    ) -> None:
        journal = path.with_name(path.name + JOURNAL_SUFFIX)
        if path.is_dir() or not path.parent.is_dir():
            raise SettingsFault(f"output: expected a file in a folder that is there, got {path}")
        if not (resume or overwrite) and (journal.exists() or (path.is_file() and path.stat().st_size)):
            which = "the run that wrote it was interrupted" if journal.exists() else "it is not empty"
            raise SettingsFault(
                f"output: {path} exists, and {which}: --resume goes on after it, --overwrite begins anew"
            )
        self.progress = Progress()
        goes_on = resume and path.exists()
        if goes_on:
            self.progress = _read_outputs(path, form, writer.header)
            if journal.exists():
                _read_journal(journal, about, self.progress)
        self._file = path.open("r+b" if goes_on else "wb", buffering=0)
        self._file.truncate(self.progress.end)
        self._file.seek(self.progress.end)
        if not self.progress.end:
            self.write(writer.header)
        # After the outputs: a journal tells nothing of another run's.
        self.journal: Journal | None = Journal(journal, about, fresh=not goes_on)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()
        if self.journal is not None:
            self.journal.close(done=kind is None)

    def write(self, text: str) -> None:
        """Raises SettingsFault."""
        write_whole(self._file, text)


def write_whole(file: FileIO, text: str) -> None:
    """All of it, without a buffer that would be written later. Raises SettingsFault."""
    left = memoryview(text.encode())
    try:
        while left:
            left = left[file.write(left) :]
    except OSError as fault:
        raise SettingsFault(f"output: expected to write {len(left)} bytes, got: {fault}") from fault


def _read_outputs(path: Path, form: Format, header: str) -> Progress:
    progress = Progress()
    for number, line in _whole_lines(path):
        progress.end += len(line)
        if number == 1 and header:
            if line.decode(errors="replace") != header:
                raise SettingsFault(f"output: expected {path} to begin with {header.strip()}, got {line[:200]!r}")
            continue
        try:
            if form == "jsonl":
                record = json.loads(line)
                event, key, step = record["line"], record["key"], record.get("step")
            else:
                (row,) = csv.reader([line.decode()])
                event, key, step = int(row[0]), row[1], int(row[2]) if row[2] else None
        except (ValueError, LookupError, TypeError) as fault:
            raise SettingsFault(
                f"output: expected line {number} of {path} to be an output of pipe, got {line[:80]!r}"
            ) from fault
        progress.line, progress.key = event, key
        progress.events += 1
        if step is None:
            progress.failed_events += 1
        else:
            progress.next_steps[key] = step + 1
    return progress


def _read_journal(path: Path, about: Mapping[str, str], progress: Progress) -> None:
    end = 0
    for number, line in _whole_lines(path):
        end += len(line)
        try:
            record = json.loads(line)
            if "about" in record:
                if record["about"] != about:
                    raise SettingsFault(f"resume: expected the run to be of {record['about']}, got {dict(about)}")
            elif "line" in record:
                if record["line"] > progress.line:
                    told = record["error"]
                    progress.failed[record["line"]] = error_of(
                        reason=told["reason"], message=told["message"], metadata={}, retry_after_s=None
                    )
            else:
                progress.next_steps.setdefault(record["key"], record["step"])
        except (ValueError, LookupError, TypeError) as fault:
            raise SettingsFault(f"resume: expected line {number} of {path} to be of a journal, got {fault}") from fault
    with path.open("r+b") as file:
        file.truncate(end)


def _whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):
                yield number, line


def _told(error: NtmServeError) -> dict[str, str]:
    return {"reason": error.reason, "message": error.message}


def _size_of(spec: TensorSpec) -> int:
    return spec.nbytes // spec.numpy_dtype.itemsize


def _flat(value: Any) -> Sequence[Any]:
    """The numbers of a nested list, in their order."""
    if not isinstance(value, list):
        return (value,)
    flat: list[Any] = value
    while flat and isinstance(flat[0], list):
        flat = [one for row in flat for one in row]
    return flat


def _rows_of_csv(rows: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
