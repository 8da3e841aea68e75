"""Records: what is written is read again bit for bit, or refused with the name of the session and the steps."""

import pickle
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntm_serve.errors import InvalidInput, StoreDamaged
from ntm_serve.record import Committed, crc_of, read_record, record_of
from ntm_serve.spec import DTYPES, StateSpec, StepSpec, TensorSpec
from ntm_serve.store import LogRecord

SHAPES = st.lists(st.integers(1, 3), max_size=3).map(tuple)
TENSORS = st.lists(st.tuples(st.sampled_from(DTYPES), SHAPES), min_size=1, max_size=3)


def random_array(draw, dtype, shape):
    """Any bits at all, NaN among them."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    data = draw(st.binary(min_size=size, max_size=size))
    array = np.frombuffer(data, dtype).reshape(shape)
    return array if dtype != "bool" else np.frombuffer(data, np.uint8).reshape(shape) > 127


@st.composite
def messages(draw):
    """A spec, and a message of it as long as may be."""
    given_, made = draw(TENSORS), draw(TENSORS)
    spec = StepSpec(
        tuple(TensorSpec(f"x{place}", *one) for place, one in enumerate(given_)),
        tuple(TensorSpec(f"y{place}", *one) for place, one in enumerate(made)),
        (StateSpec("s", "float32", ()),),
    )
    steps = draw(st.integers(1, 5))
    inputs, outputs = (
        tuple(random_array(draw, one.dtype, (steps, *one.shape)) for one in specs)
        for specs in (spec.inputs, spec.outputs)
    )
    return spec, Committed(draw(st.integers(0, 2**40)), inputs, outputs)


def same(mine, theirs):
    return [(one.dtype, one.shape, one.tobytes()) for one in mine] == [
        (one.dtype, one.shape, one.tobytes()) for one in theirs
    ]


@given(messages(), st.booleans())
@settings(deadline=None)
def test_what_is_written_is_read_again(written, with_outputs):
    spec, message = written
    record = record_of("s", message, with_outputs=with_outputs)
    read = read_record("s", record, spec)
    assert (read.first_step, read.end_step) == (message.first_step, message.end_step)
    assert (record.first_step, record.end_step) == (message.first_step, message.end_step)
    assert same(read.inputs, message.inputs)
    assert read.outputs_crc == crc_of(message.outputs)
    assert (read.outputs is not None) == with_outputs
    if read.outputs is not None:
        assert same(read.outputs, message.outputs)
    assert not any(array.flags.writeable for array in read.inputs)


def test_rows_of_messages_of_many_sessions_are_written_as_their_own_would_be():
    spec, message = a_message()
    many = np.stack([message.inputs[0], message.inputs[0] + 1], axis=1)
    row = Committed(7, (many[:, 0],), message.outputs)
    assert not row.inputs[0].flags.c_contiguous
    assert record_of("s", row, with_outputs=True) == record_of("s", message, with_outputs=True)
    assert read_record("s", record_of("s", row, with_outputs=False), spec).inputs[0].tolist() == [[1, 2], [3, 4]]


def a_message():
    spec = StepSpec(
        (TensorSpec("x", "float32", (2,)),), (TensorSpec("y", "int16", ()),), (StateSpec("s", "float32", ()),)
    )
    return spec, Committed(7, (np.array([[1, 2], [3, 4]], np.float32),), (np.array([5, 6], np.int16),))


NAMED = "session mine: record of steps 7 to 9: expected"


@pytest.mark.parametrize("with_outputs", [False, True])
def test_every_flipped_bit_is_refused_and_one_in_the_outputs_checksum_is_seen_by_who_runs_it(with_outputs):
    spec, message = a_message()
    record = record_of("mine", message, with_outputs=with_outputs)
    for at in range(len(record.payload)):
        for bit in range(8):
            payload = bytearray(record.payload)
            payload[at] ^= 1 << bit
            damaged = record._replace(payload=bytes(payload))
            if 6 <= at < 10:
                assert read_record("mine", damaged, spec).outputs_crc != crc_of(message.outputs)
                continue
            with pytest.raises(StoreDamaged, match=NAMED):
                read_record("mine", damaged, spec)


@pytest.mark.parametrize("with_outputs", [False, True])
def test_every_truncation_and_every_byte_too_many_is_refused(with_outputs):
    spec, message = a_message()
    record = record_of("mine", message, with_outputs=with_outputs)
    for length in range(len(record.payload)):
        with pytest.raises(StoreDamaged, match=NAMED):
            read_record("mine", record._replace(payload=record.payload[:length]), spec)
    with pytest.raises(StoreDamaged, match=NAMED):
        read_record("mine", record._replace(payload=record.payload + b"\0"), spec)


@pytest.mark.parametrize(
    ("session_id", "moved"),
    [
        ("yours", {}), ("min", {}), ("mine ", {}), ("mine", {"first_step": 8, "end_step": 10}),
        ("mine", {"end_step": 10}), ("mine", {"first_step": 6}), ("mine", {"first_step": 79, "end_step": 7}),
    ],
)  # fmt: skip
def test_a_record_in_another_place_is_refused(session_id, moved):
    spec, message = a_message()
    record = record_of("mine", message, with_outputs=False)._replace(**moved)
    steps = f"{record.first_step} to {record.end_step}"
    with pytest.raises(StoreDamaged, match=f"session {session_id}: record of steps {steps}: expected checksum"):
        read_record(session_id, record, spec)


def test_a_record_of_another_models_inputs_is_refused():
    spec, message = a_message()
    record = record_of("mine", message, with_outputs=False)
    other = StepSpec((TensorSpec("x", "float32", (3,)),), spec.outputs, spec.state)
    with pytest.raises(StoreDamaged, match="session mine: record of steps 7 to 9: expected 24 bytes of arrays, got 16"):
        read_record("mine", record, other)


@pytest.mark.parametrize("payload", [b"", b"\x80\x04N.", pickle.dumps({"a": 1}), b"\x01" * 9, b"\x02" + bytes(20)])
def test_bytes_of_something_else_are_refused_and_not_unpickled(payload):
    spec, _ = a_message()
    with pytest.raises(StoreDamaged, match=NAMED):
        read_record("mine", LogRecord(7, 9, payload), spec)


def test_another_version_is_refused_by_its_number():
    spec, message = a_message()
    record = record_of("mine", message, with_outputs=False)
    with pytest.raises(StoreDamaged, match="expected version 1, got version 2, flags 0"):
        read_record("mine", record._replace(payload=struct.pack("<B", 2) + record.payload[1:]), spec)


def test_the_specs_dtypes_are_all_there_are():
    with pytest.raises(InvalidInput):
        TensorSpec("x", "object", ())
