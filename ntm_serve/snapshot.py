"""A session's state as bytes: what a store keeps, and what another server restores from a file. Pure.

Rules of this file: what is written is read again bit for bit, or refused; nothing is unpickled; whoever reads
it can tell with what it was made.

    "NTMSTATE" | version u16 | length of the header u32 | header, JSON | state tensors | crc32 of all before u32

The tensors are little-endian, in the order of the header, which says the model and its digest, the engine that
computed the state, the session, the number of steps that led to it, and each tensor's name, dtype and shape.
"""

import json
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntm_serve.errors import NtmServeError, SnapshotRejected
from ntm_serve.spec import DTYPES, Array, StateSpec, described
from ntm_serve.step_model import ModelCard, State

MAGIC = b"NTMSTATE"
VERSION = 1
# A header is a few hundred bytes a tensor; JSON takes fifty times its size to read.
HEADER_BYTES_MAX = 1 << 16
# Room for as many steps again in the int64 of the wire and of the stores.
STEP_MAX = 1 << 62
_START = struct.Struct("<8sHI")
_CRC = struct.Struct("<I")


@dataclass(frozen=True)
class SavedState:
    """A state and where it comes from. step: the number of steps that led to it."""

    model: str
    version: str
    digest: str
    engine: str
    session_id: str
    step: int
    state: State


def encoded(card: ModelCard, specs: Sequence[StateSpec], session_id: str, step: int, state: State) -> bytes:
    """A state of this model as bytes."""
    header = json.dumps(
        {
            "model": card.name,
            "version": card.version,
            "digest": card.digest,
            "engine": card.engine,
            "session_id": session_id,
            "step": step,
            "state": [{"name": spec.name, "dtype": spec.dtype, "shape": spec.shape} for spec in specs],
        }
    ).encode()
    body = b"".join([_START.pack(MAGIC, VERSION, len(header)), header, *[array.tobytes() for array in state]])
    return body + _CRC.pack(zlib.crc32(body))


def decoded(data: bytes, *, what: str = "snapshot", fault: type[NtmServeError] = SnapshotRejected) -> SavedState:
    """What the bytes say. Raises `fault` that names `what`: SnapshotRejected where a caller gave them, StoreDamaged
    where a store did.
    """
    if len(data) < _START.size + _CRC.size or data[: len(MAGIC)] != MAGIC:
        raise fault(f"{what}: expected bytes that begin with {MAGIC!r}, got {len(data)} bytes of something else")
    _, version, length = _START.unpack_from(data)
    if version != VERSION:
        raise fault(f"{what}: expected version {VERSION}, got {version}")
    if length > HEADER_BYTES_MAX:
        raise fault(f"{what}: expected a header of at most {HEADER_BYTES_MAX} bytes, got {length}")
    (seal,) = _CRC.unpack_from(data, len(data) - _CRC.size)
    body = memoryview(data)[: -_CRC.size]
    if zlib.crc32(body) != seal:
        raise fault(f"{what}: expected checksum {seal:08x}, got {zlib.crc32(body):08x}: it is damaged or cut short")
    try:
        header = json.loads(bytes(body[_START.size : _START.size + length]))
        state = _tensors(body[_START.size + length :], header["state"])
        words = [str(header[name]) for name in ("model", "version", "digest", "engine", "session_id")]
        model, version, digest, engine, session_id = words
        step = int(header["step"])
        if not 0 <= step <= STEP_MAX:
            raise ValueError(f"step {step}")
        return SavedState(model, version, digest, engine, session_id, step, state)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as cause:
        raise fault(f"{what}: expected a header and tensors as version {VERSION} writes them: {cause!r}") from cause


def expect_state(
    saved: SavedState, card: ModelCard, specs: Sequence[StateSpec], *, what: str, fault: type[NtmServeError]
) -> None:
    """Refuse a state that is not one of this model. Raises `fault` that names `what`."""
    if saved.digest != card.digest:
        raise fault(
            f"{what}: expected a state of model {card.key} with digest {card.digest or 'none'}, "
            f"got one of {saved.model}/{saved.version} with digest {saved.digest or 'none'}"
        )
    shapes = [(spec.dtype, spec.shape) for spec in specs]
    if [(str(array.dtype), array.shape) for array in saved.state] != shapes:
        expected = [described(*shape) for shape in shapes]
        actual = [described(array.dtype, array.shape) for array in saved.state]
        raise fault(f"{what}: expected {expected}, got {actual}")


def _tensors(data: memoryview, specs: Sequence[Any]) -> State:
    arrays: list[Array] = []
    start = 0
    for spec in specs:
        if spec["dtype"] not in DTYPES:
            raise ValueError(f"{spec['name']}: dtype {spec['dtype']!r}")
        dtype, shape = np.dtype(spec["dtype"]), tuple(int(size) for size in spec["shape"])
        end = start + math.prod(shape) * dtype.itemsize
        arrays.append(np.frombuffer(data[start:end], dtype).reshape(shape))
        start = end
    if start != len(data):
        raise ValueError(f"{start} bytes of tensors, got {len(data)}")
    return tuple(arrays)
