"""Events: lines of JSON or CSV, read as they come, and turned into rows of a model's inputs.

Rules of this file: no more is held than one chunk and one batch; what is not an event is an error that names the
field, the expected and the actual, and stays in its place; a batch is not kept waiting for lines that are
not there yet.
"""

import contextlib
import csv
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import FileIO
from math import prod
from typing import Any, Literal

import numpy as np

from ntm_serve.client.conversion import KINDS_TAKEN
from ntm_serve.errors import InvalidInput, NtmServeError, SettingsFault
from ntm_serve.spec import Array, TensorSpec, all_finite, described

Format = Literal["jsonl", "csv"]

CHUNK_BYTES = 1 << 18
# Four times the digits of the longest vector that is sensible; a file without line ends is none of events.
LINE_BYTES_MAX = 16 << 20

# What a server takes as a session's id. Looked at here, so that a wrong one is a fault of its line.
_KEY = re.compile(r"[A-Za-z0-9._~:@+-]{1,128}")


class Lines:
    """Lines of a file, with their numbers. The file is read raw: a thread may be left waiting in it."""

    def __init__(self, file: FileIO) -> None:
        self._file = file
        # A file on disk has its lines at hand; from a pipe they come when they come.
        self._at_hand = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        self._lines: list[bytes] = []
        self._rest = b""
        self._ended = False
        self.number = 0
        self.bytes_read = 0

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        while not self._lines:
            if self._ended:
                raise StopIteration
            self._read()
        self.number += 1
        line = self._lines.pop()
        self.bytes_read += len(line) + 1
        text = line.decode(errors="replace")
        return (text.removeprefix("\ufeff") if self.number == 1 else text) + "\n"

    @property
    def waiting(self) -> bool:
        """Whether the next line is to be waited for."""
        return not self._lines and (self._ended or not self._at_hand)

    def _read(self) -> None:
        chunk = self._file.read(CHUNK_BYTES)
        if not chunk:
            self._ended = True
            # A last line need not have an end.
            self._lines = [self._rest] if self._rest else []
            return
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        lines.reverse()
        self._lines = lines
        if len(self._rest) > LINE_BYTES_MAX:
            raise InvalidInput(
                f"line {self.number + len(lines) + 1}: expected at most {LINE_BYTES_MAX} bytes, got more"
            )


@dataclass(frozen=True, slots=True)
class Source:
    """Where an input of the model comes from: one field with the whole value, or a field for each number."""

    spec: TensorSpec
    fields: tuple[str, ...]
    whole: bool

    def __str__(self) -> str:
        return f"{self.spec.name}={','.join(self.fields)}"


@dataclass(slots=True)
class Events:
    """Some events, in their order. rows: the places of those that can be run; xs: their inputs `[N, ...]`, as the
    others have errors, by place.
    """

    numbers: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    rows: Sequence[int] = ()
    xs: dict[str, Array] = field(default_factory=dict)
    errors: dict[int, NtmServeError] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)


def sources_of(specs: Sequence[TensorSpec], given: Sequence[str], form: Format) -> list[Source]:
    """Which fields are the model's inputs: `input=field`, `input=field,field,...`; where nothing is said of an input,
    the field of its name, and for a vector in CSV `name_0`, `name_1` and so on. Raises SettingsFault.
    """
    chosen: dict[str, tuple[str, ...]] = {}
    for one in given:
        name, equals, listed = one.partition("=")
        if not equals or not listed or name not in (spec.name for spec in specs):
            raise SettingsFault(
                f"input-field: expected INPUT=FIELD or INPUT=FIELD,FIELD,... with an input of "
                f"{[spec.name for spec in specs]}, got {one!r}"
            )
        chosen[name] = tuple(listed.split(","))
    sources = []
    for spec in specs:
        count = prod(spec.shape)
        named = (spec.name,) if form == "jsonl" or count == 1 else tuple(f"{spec.name}_{i}" for i in range(count))
        fields = chosen.get(spec.name, named)
        whole = form == "jsonl" and len(fields) == 1
        if not whole and len(fields) != count:
            raise SettingsFault(f"input-field: {spec.name}: expected {count} fields for {spec}, got {len(fields)}")
        sources.append(Source(spec, fields, whole))
    return sources


def read_events(
    lines: Lines,
    sources: Sequence[Source],
    *,
    form: Format,
    key: str,
    batch_max: int,
    after: int = 0,
    known: Mapping[int, NtmServeError] | None = None,
    at_after: Callable[[str], None] | None = None,
) -> Iterator[Events]:
    """Batches of events. after: the number of the line up to which all was done by an earlier run, whose key is
    shown to `at_after`; known: events that failed then, by line, and are not to be run. Raises InvalidInput.
    """
    records = _records_of_json(lines) if form == "jsonl" else _records_of_csv(lines, [key], sources)
    batch = _Batch(sources, key, form)
    for number, record in records:
        if number < after:
            continue
        if number == after:
            if at_after is not None:
                at_after(_key_or_none(record, key))
            continue
        batch.add(number, record, (known or {}).get(number))
        if len(batch) >= batch_max or lines.waiting:
            yield batch.taken()
    if len(batch):
        yield batch.taken()
    if lines.number < after:
        raise InvalidInput(f"input: expected at least {after} lines, as the output has them, got {lines.number}")


Record = Mapping[str, Any] | InvalidInput


def _records_of_json(lines: Lines) -> Iterator[tuple[int, Record]]:
    for line in lines:
        if line.isspace():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as fault:
            yield lines.number, InvalidInput(f"event: expected a JSON object, got: {fault}")
        else:
            if isinstance(record, dict):
                yield lines.number, record
            else:
                yield lines.number, InvalidInput(f"event: expected a JSON object, got {_short(record)}")


def _records_of_csv(lines: Lines, keys: Sequence[str], sources: Sequence[Source]) -> Iterator[tuple[int, Record]]:
    reader = csv.reader(lines, strict=True)
    header = next(reader, [])
    missing = [name for name in (*keys, *(name for one in sources for name in one.fields)) if name not in header]
    if missing:
        raise InvalidInput(f"line 1: expected columns {missing}, got {header}")
    while True:
        number = lines.number + 1
        try:
            record = next(reader, None)
        except csv.Error as fault:
            yield number, InvalidInput(f"event: expected a row of CSV, got: {fault}")
            continue
        if record is None:
            return
        if not record:
            continue
        if len(record) != len(header):
            yield number, InvalidInput(f"event: expected {len(header)} columns, got {len(record)}")
        else:
            yield number, dict(zip(header, record, strict=True))


class _Batch:
    """Events that are being collected."""

    def __init__(self, sources: Sequence[Source], key: str, form: Format) -> None:
        self._sources = sources
        self._key = key
        self._value = _value_of_json if form == "jsonl" else _value_of_csv
        self._begin()

    def __len__(self) -> int:
        return len(self._events)

    def _begin(self) -> None:
        self._events = Events()
        self._rows: list[int] = []
        self._values: list[list[Any]] = [[] for _ in self._sources]

    def add(self, number: int, record: Record, known: NtmServeError | None) -> None:
        events = self._events
        place = len(events)
        events.numbers.append(number)
        events.keys.append("")
        try:
            events.keys[place] = _key_of(record, self._key)
            if known is not None:
                raise known
            values = [self._value(record, source) for source in self._sources]
        except NtmServeError as error:
            events.errors[place] = error
            return
        self._rows.append(place)
        for column, value in zip(self._values, values, strict=True):
            column.append(value)

    def taken(self) -> Events:
        """What was collected, as arrays."""
        events, values = self._events, self._values
        arrays = [_array_of(source, column) for source, column in zip(self._sources, values, strict=True)]
        if any(array is None for array in arrays):
            arrays = self._array_by_array()
        events.rows = self._rows
        events.xs = {
            one.spec.name: array for one, array in zip(self._sources, arrays, strict=True) if array is not None
        }
        self._begin()
        return events

    def _array_by_array(self) -> list[Array | None]:
        """The arrays of those rows that have one, as the others get their errors."""
        rows: list[int] = []
        good: list[list[Array]] = [[] for _ in self._sources]
        for place, *values in zip(self._rows, *self._values, strict=True):
            try:
                made = [_row_of(source, value) for source, value in zip(self._sources, values, strict=True)]
            except InvalidInput as error:
                self._events.errors[place] = error
                continue
            rows.append(place)
            for column, array in zip(good, made, strict=True):
                column.append(array)
        self._rows = rows
        return [
            np.stack(column) if column else np.zeros((0, *source.spec.shape), source.spec.numpy_dtype)
            for source, column in zip(self._sources, good, strict=True)
        ]


def _key_of(record: Record, name: str) -> str:
    if isinstance(record, InvalidInput):
        raise record
    key = _field(record, name)
    if isinstance(key, int) and not isinstance(key, bool):
        return str(key)
    if isinstance(key, str) and _KEY.fullmatch(key):
        return key
    raise InvalidInput(
        f"{name}: expected 1 to 128 of A-Z a-z 0-9 . _ ~ : @ + - or a whole number as key, got {_short(key)}"
    )


def _key_or_none(record: Record, name: str) -> str:
    """As it stands in the output, also where the event was none."""
    with contextlib.suppress(InvalidInput):
        return _key_of(record, name)
    return ""


def _field(record: Record, name: str) -> Any:
    assert not isinstance(record, InvalidInput)
    try:
        return record[name]
    except KeyError:
        raise InvalidInput(f"{name}: expected a field of that name, got {sorted(record)}") from None


def _value_of_json(record: Record, source: Source) -> Any:
    if source.whole:
        return _field(record, source.fields[0])
    return [_field(record, name) for name in source.fields]


def _value_of_csv(record: Record, source: Source) -> Any:
    assert not isinstance(record, InvalidInput)
    if source.spec.numpy_dtype.kind == "f":
        with contextlib.suppress(ValueError):
            return [float(record[name]) for name in source.fields]
    return [_number_of(name, record[name], source.spec) for name in source.fields]


def _number_of(name: str, text: str, spec: TensorSpec) -> float | int | bool:
    kind = spec.numpy_dtype.kind
    try:
        if kind == "f":
            return float(text)
        return {"true": True, "false": False, "1": True, "0": False}[text.lower()] if kind == "b" else int(text)
    except (ValueError, KeyError):
        raise InvalidInput(f"{name}: expected a number for {spec.dtype}, got {text[:40]!r}") from None


def _array_of(source: Source, values: Sequence[Any]) -> Array | None:
    """All values as one array; None where one of them is none for this input."""
    spec = source.spec
    if not values:
        return np.zeros((0, *spec.shape), spec.numpy_dtype)
    try:
        array = np.asarray(values)
    except ValueError:
        return None
    if array.shape[1:] != spec.shape:
        # A bare number is a vector of one, and fields of one number each are a tensor of any shape.
        if array.ndim > (1 if source.whole else 2) or prod(array.shape[1:]) != prod(spec.shape):
            return None
        array = array.reshape(len(values), *spec.shape)
    if array.dtype.kind not in KINDS_TAKEN[spec.numpy_dtype.kind]:
        return None
    with np.errstate(all="ignore"):
        cast = array.astype(spec.numpy_dtype)
    if not all_finite(cast) or (cast.dtype.kind in "iu" and not (cast == array).all()):
        return None
    return cast


def _row_of(source: Source, value: Any) -> Array:
    """One value as an array. Raises InvalidInput."""
    array = _array_of(source, [value])
    if array is not None:
        row: Array = array[0]
        return row
    names = ",".join(source.fields) if len(source.fields) < 4 else f"{source.fields[0]},...,{source.fields[-1]}"
    try:
        got = np.asarray(value)
    except ValueError:
        raise InvalidInput(f"{names}: expected {source.spec}, got no such array") from None
    told = described(got.dtype, got.shape)
    if got.dtype.kind == "f" and not np.isfinite(got).all():
        told = "a number that is not finite"
    elif got.dtype.kind in KINDS_TAKEN[source.spec.numpy_dtype.kind] and got.size == prod(source.spec.shape):
        told = f"{_short(value)}, which does not fit"
    raise InvalidInput(f"{names}: expected {source.spec}, got {told}")


def _short(value: Any) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 40 else f"{shown[:40]}..."
