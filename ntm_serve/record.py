"""A committed message, and the record that it becomes in a store. Pure.

Rules of this file: what is written is read again bit for bit, or refused; nothing is unpickled; the layout has
a version, and so have the bytes.

    version u8 | flags u8 | crc32 of what is kept u32 | crc32 of the outputs u32 | inputs | outputs, where kept

Arrays are little-endian, in the order of the specs, `[T, ...]` each. The first checksum begins with the
session's name, the steps' numbers and the other checksum, so that a record in a wrong place is found out. Outputs
are kept where running the inputs again may not give the same bits; otherwise their checksum tells whether it did.
"""

import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ntm_serve.errors import StoreDamaged
from ntm_serve.spec import Array, StepSpec, TensorSpec
from ntm_serve.store import LogRecord

VERSION = 1
_HEADER = struct.Struct("<BBII")
_HAS_OUTPUTS = 1


class Committed(NamedTuple):
    """One committed message: the number of its first step, inputs and outputs `[T, ...]`."""

    first_step: int
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]

    @property
    def end_step(self) -> int:
        return self.first_step + len(self.outputs[0])


class Recorded(NamedTuple):
    """What a record says: inputs `[T, ...]`, the checksum of the outputs, and the outputs where they were kept."""

    first_step: int
    inputs: tuple[Array, ...]
    outputs_crc: int
    outputs: tuple[Array, ...] | None

    @property
    def end_step(self) -> int:
        return self.first_step + len(self.inputs[0])


def record_of(session_id: str, message: Committed, *, with_outputs: bool) -> LogRecord:
    """The record of a committed message."""
    first_step, inputs, outputs = message
    end_step, flags, kept, outputs_crc = first_step + len(inputs[0]), 0, _bytes_of(inputs), crc_of(outputs)
    if with_outputs:
        flags, kept = _HAS_OUTPUTS, kept + _bytes_of(outputs)
    seal = _seal(session_id, first_step, end_step, outputs_crc, kept)
    return LogRecord(first_step, end_step, _HEADER.pack(VERSION, flags, seal, outputs_crc) + kept)


def read_record(session_id: str, record: LogRecord, spec: StepSpec) -> Recorded:
    """What a record says. Raises StoreDamaged."""
    what, flags, outputs_crc, kept = _opened(session_id, record)
    specs = (*spec.inputs, *spec.outputs) if flags & _HAS_OUTPUTS else spec.inputs
    steps = record.end_step - record.first_step
    size = steps * sum(one.nbytes for one in specs)
    if len(kept) != size:
        raise StoreDamaged(f"{what}: expected {size} bytes of arrays, got {len(kept)}")
    arrays = _arrays(kept, specs, steps)
    count = len(spec.inputs)
    return Recorded(record.first_step, arrays[:count], outputs_crc, arrays[count:] if flags & _HAS_OUTPUTS else None)


def expect_whole(session_id: str, record: LogRecord) -> None:
    """Check a record as far as it tells without its model. Raises StoreDamaged."""
    _opened(session_id, record)


def crc_of(outputs: Sequence[Array]) -> int:
    """The checksum of a message's outputs, as records keep it."""
    return zlib.crc32(_bytes_of(outputs))


def _opened(session_id: str, record: LogRecord) -> tuple[str, int, int, memoryview]:
    """A name for it, flags, the checksum of the outputs, and what is kept. Raises StoreDamaged."""
    what = f"session {session_id}: record of steps {record.first_step} to {record.end_step}"
    if len(record.payload) < _HEADER.size:
        raise StoreDamaged(f"{what}: expected at least {_HEADER.size} bytes, got {len(record.payload)}")
    version, flags, seal, outputs_crc = _HEADER.unpack_from(record.payload)
    if version != VERSION or flags not in (0, _HAS_OUTPUTS):
        raise StoreDamaged(f"{what}: expected version {VERSION}, got version {version}, flags {flags}")
    kept = memoryview(record.payload)[_HEADER.size :]
    actual = _seal(session_id, record.first_step, record.end_step, outputs_crc, kept)
    if actual != seal:
        raise StoreDamaged(f"{what}: expected checksum {seal:08x}, got {actual:08x}")
    return what, flags, outputs_crc, kept


def _bytes_of(arrays: Sequence[Array]) -> bytes:
    return arrays[0].tobytes() if len(arrays) == 1 else b"".join([array.tobytes() for array in arrays])


def _seal(session_id: str, first_step: int, end_step: int, outputs_crc: int, kept: bytes | memoryview) -> int:
    about = b"%b %d %d %d" % (session_id.encode(), first_step, end_step, outputs_crc)
    return zlib.crc32(kept, zlib.crc32(about))


def _arrays(data: memoryview, specs: Sequence[TensorSpec], steps: int) -> tuple[Array, ...]:
    arrays: list[Array] = []
    start = 0
    for spec in specs:
        end = start + steps * spec.nbytes
        arrays.append(np.frombuffer(data[start:end], spec.numpy_dtype).reshape(steps, *spec.shape))
        start = end
    return tuple(arrays)
