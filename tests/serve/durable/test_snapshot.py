"""Snapshots: what is written is read again bit for bit, or refused; whoever reads it can tell what it is of."""

import json
import pickle
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntm_serve.errors import SnapshotRejected, StoreDamaged
from ntm_serve.snapshot import MAGIC, STEP_MAX, VERSION, decoded, encoded, expect_state
from ntm_serve.spec import DTYPES, StateSpec
from ntm_serve.step_model import ModelCard

from .test_record import SHAPES, random_array, same

CARD = ModelCard("sum", "3", digest="d" * 64, engine="numpy 2")
SPECS = (StateSpec("total", "float32", (2,), role="memory"), StateSpec("count", "int64", ()))
STATE = (np.array([1, np.pi], np.float32), np.array(7, np.int64))


@st.composite
def states(draw):
    tensors = draw(st.lists(st.tuples(st.sampled_from(DTYPES), SHAPES), max_size=4))
    specs = tuple(StateSpec(f"t{place}", *one) for place, one in enumerate(tensors))
    return specs, tuple(random_array(draw, one.dtype, one.shape) for one in specs)


@given(states(), st.text(min_size=1, max_size=128), st.integers(0, STEP_MAX))
@settings(deadline=None)
def test_what_is_written_is_read_again(written, session_id, step):
    specs, state = written
    saved = decoded(encoded(CARD, specs, session_id, step, state))
    assert (saved.model, saved.version, saved.digest, saved.engine) == ("sum", "3", CARD.digest, "numpy 2")
    assert (saved.session_id, saved.step) == (session_id, step)
    assert same(saved.state, state)
    assert not any(array.flags.writeable for array in saved.state)
    expect_state(saved, CARD, specs, what="snapshot", fault=SnapshotRejected)


def a_snapshot():
    return encoded(CARD, SPECS, "s", 5, STATE)


@pytest.mark.parametrize("fault", [SnapshotRejected, StoreDamaged])
def test_every_flipped_bit_and_every_truncation_is_refused(fault):
    whole = a_snapshot()
    damaged = [whole[:length] for length in range(len(whole))] + [whole + b"\0", whole * 2]
    for at in range(len(whole)):
        damaged += [whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :] for bit in range(8)]
    for data in damaged:
        with pytest.raises(fault, match="session s: snapshot of step 5: expected"):
            decoded(data, what="session s: snapshot of step 5", fault=fault)


def sealed(body):
    return body + struct.pack("<I", zlib.crc32(body))


def with_header(header, tail=b""):
    """As whoever knows the format may make one, for good or ill."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return sealed(struct.pack("<8sHI", MAGIC, VERSION, len(text)) + text + tail)


HEADER = {"model": "sum", "version": "3", "digest": "", "engine": "", "session_id": "s", "step": 5, "state": []}


@pytest.mark.parametrize(
    "header",
    [
        b"", b"nonsense", b"\xff\xfe", b"[" * 200_000, b"[]", b"1", b"null", {},
        {**HEADER, "state": None}, {**HEADER, "state": 3},
        {**HEADER, "state": ["x"]}, {**HEADER, "state": [{}]}, {**HEADER, "step": -1}, {**HEADER, "step": "x"},
        {**HEADER, "step": None}, {**HEADER, "step": 2**63}, {**HEADER, "step": float("inf")},
        {**HEADER, "step": float("nan")},
        *[
            {**HEADER, "state": [{"name": "x", "dtype": dtype, "shape": shape}]}
            for dtype, shape in [
                ("object", [1]), ("O", [1]), ("float128", [1]), (["float32"], [1]), ("float32", [-1]), ("float32", [3]),
                ("float32", [2**62, 2**62]), ("float32", [float("inf")]), ("float32", None), ("float32", [[1]]),
                ("float32", [0]), ("V8", [1]), (None, [1]), ("S3", []),
            ]
        ],
    ],
)  # fmt: skip
def test_headers_that_nobody_wrote_are_refused_with_a_sealed_checksum_too(header):
    with pytest.raises(SnapshotRejected, match="snapshot: expected"):
        decoded(with_header(header, bytes(8) if isinstance(header, dict) and header.get("state") else b""))


def test_nothing_is_unpickled():
    for data in (pickle.dumps(STATE), MAGIC + pickle.dumps(STATE), with_header(pickle.dumps(HEADER))):
        with pytest.raises(SnapshotRejected):
            decoded(data)


def test_another_version_of_the_format_is_refused_by_its_number():
    whole = a_snapshot()
    with pytest.raises(SnapshotRejected, match="snapshot: expected version 1, got 2"):
        decoded(sealed(whole[:8] + struct.pack("<H", 2) + whole[10:-4]))


def expect_refused(card, specs, match):
    with pytest.raises(StoreDamaged, match=match):
        expect_state(decoded(a_snapshot()), card, specs, what="session s: snapshot of step 5", fault=StoreDamaged)


def test_a_state_of_another_models_digest_is_refused():
    card = ModelCard("sum", "3", digest="e" * 64)
    expect_refused(card, SPECS, "session s: snapshot of step 5: expected a state of model sum/3 with digest eee")


@pytest.mark.parametrize(
    "specs",
    [
        SPECS[:1], SPECS[::-1], (*SPECS, StateSpec("more", "bool", ())), (SPECS[0], StateSpec("count", "uint64", ())),
        (StateSpec("total", "float32", (2, 1)), SPECS[1]), (StateSpec("total", "float32", (3,)), SPECS[1]), (),
    ],
)  # fmt: skip
def test_a_state_of_other_dtypes_or_shapes_is_refused(specs):
    expect_refused(CARD, specs, r"expected \[.*\], got \['float32\[2\]', 'int64\[\]'\]")


def test_a_header_that_is_too_long_to_read_is_refused_unread():
    header = b'{"state":[' + b"[]," * 100_000 + b"[]]}"
    data = struct.pack("<8sHI", MAGIC, VERSION, len(header)) + header
    data += struct.pack("<I", zlib.crc32(data))
    with pytest.raises(SnapshotRejected, match="expected a header of at most 65536 bytes"):
        decoded(data)
