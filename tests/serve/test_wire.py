"""Tensors and errors on the wire."""

import grpc
import numpy as np
import pytest

from ntm_serve import errors
from ntm_serve.errors import ERROR_OF_REASON, InvalidInput, LimitReached, StepAhead
from ntm_serve.spec import DTYPES, Range, TensorSpec
from ntm_serve.v1 import tensor_pb2
from ntm_serve.wire import (
    CODE_OF_ERROR,
    array_of,
    arrays_of,
    code_of,
    error_of_wire,
    spec_of,
    tensor_of,
    wire_error,
    wire_spec,
)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_survives_the_wire(dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    back = array_of(tensor_pb2.Tensor.FromString(tensor_of("x", array).SerializeToString()))
    assert back.dtype == array.dtype
    assert np.array_equal(back, array)
    assert spec_of(wire_spec(TensorSpec("x", dtype, (3,)))) == TensorSpec("x", dtype, (3,))


@pytest.mark.parametrize("bounds", [None, Range(0, 0), Range(-(2**63), 2**63 - 1)])
def test_a_range_survives_the_wire(bounds):
    assert spec_of(wire_spec(TensorSpec("x", "int64", (3,), range=bounds))).range == bounds


def test_what_is_read_is_a_view_that_cannot_be_written():
    back = array_of(tensor_of("x", np.zeros(3, np.float32)))
    assert not back.flags.writeable
    assert not back.flags.owndata


def test_rows_of_a_larger_array_are_sent_row_major():
    array = np.arange(6, dtype=np.float32).reshape(2, 3).T
    assert np.array_equal(array_of(tensor_of("x", array)), array)


@pytest.mark.parametrize(
    ("tensor", "says"),
    [
        (
            tensor_pb2.Tensor(name="x", dtype=1, shape=[2], data=b"1234567"),
            r"x: expected 8 bytes for float32\[2\], got 7",
        ),
        (tensor_pb2.Tensor(name="x", dtype=0, shape=[2], data=b""), "x: expected a known dtype, got number 0"),
        (tensor_pb2.Tensor(name="x", dtype=99, shape=[2], data=b""), "x: expected a known dtype, got number 99"),
        (tensor_pb2.Tensor(name="x", dtype=1, shape=[-1, -2], data=b"12345678"), "expected axes of 0 to"),
        (tensor_pb2.Tensor(name="x", dtype=1, shape=[2**31 - 1] * 32, data=b"1234"), "got 4"),
    ],
)
def test_a_tensor_that_contradicts_itself_is_refused(tensor, says):
    with pytest.raises(InvalidInput, match=says):
        array_of(tensor)


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ([2**62] * 100_000, "x: expected at most 32 axes, got 100000"),
        ([1] * 33, "x: expected at most 32 axes, got 33"),
        ([2**62] * 32, "x: expected axes of 0 to"),
        ([0, 2**62, 2**62], "x: expected axes of 0 to"),
    ],
)
def test_a_shape_that_no_array_can_have_is_refused_at_once(shape, says):
    data = b"" if 0 in shape else b"1234"
    with pytest.raises(InvalidInput, match=says):
        array_of(tensor_pb2.Tensor(name="x", dtype=1, shape=shape, data=data))


def test_a_tensor_that_stands_twice_is_refused():
    one = tensor_of("x", np.zeros(1, np.float32))
    with pytest.raises(InvalidInput, match="x: expected each tensor once"):
        arrays_of([one, one])


def test_a_dtype_that_the_wire_does_not_carry_is_refused():
    with pytest.raises(InvalidInput, match="x: expected a dtype of"):
        tensor_of("x", np.zeros(1, np.complex64))


def test_every_error_has_a_status_of_its_own_line_in_the_table():
    assert set(CODE_OF_ERROR) == set(ERROR_OF_REASON.values())
    assert len(ERROR_OF_REASON) == len(set(ERROR_OF_REASON.values()))


def test_a_new_kind_of_error_has_the_status_of_its_parent():
    class Odd(errors.SessionClosed):
        reason = "ODD"

    assert code_of(Odd("")) is grpc.StatusCode.NOT_FOUND


def test_an_error_comes_back_as_what_it_was():
    back = error_of_wire(wire_error(StepAhead("expected 3, got 5", fields={"expected_step": "3"})))
    assert type(back) is StepAhead
    assert (back.message, back.fields) == ("expected 3, got 5", {"expected_step": "3"})
    limited = error_of_wire(wire_error(LimitReached("full", retry_after_s=2.5)))
    assert limited.retry_after_s == 2.5


def test_a_bool_is_a_byte_0_or_1():
    good = tensor_pb2.Tensor(name="x", dtype=tensor_pb2.DATA_TYPE_BOOL, shape=[3], data=b"\0\1\0")
    assert array_of(good).tolist() == [False, True, False]
    good.data = b"\0\2\xff"
    with pytest.raises(InvalidInput, match="x: expected a bool to be a byte 0 or 1"):
        array_of(good)


def test_a_message_is_short_in_bytes_whatever_a_client_sent():
    assert len(InvalidInput("😀" * 1000).message.encode()) < 1100
