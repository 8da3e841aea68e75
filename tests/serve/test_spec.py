"""Specs and the checks against them."""

import re

import numpy as np
import pytest

from ntm_serve.errors import InvalidInput
from ntm_serve.spec import (
    Range,
    StateSpec,
    StepSpec,
    TensorSpec,
    all_finite,
    all_within,
    expect_finite,
    expect_names,
    expect_tensor,
    expect_within,
)

X = TensorSpec("x", "float32", (8,))


def test_a_spec_says_its_dtype_and_shape():
    assert str(X) == "float32[8]"
    assert X.nbytes == 32


@pytest.mark.parametrize("dtype", ["float8", "object", "complex64", ""])
def test_an_unknown_dtype_is_refused(dtype):
    with pytest.raises(InvalidInput, match=f"x: expected a dtype of float32.*got '{dtype}'"):
        TensorSpec("x", dtype, (8,))


@pytest.mark.parametrize("shape", [(0,), (-1,), (3, 0)])
def test_an_empty_axis_is_refused(shape):
    with pytest.raises(InvalidInput, match="every axis to be at least 1"):
        TensorSpec("x", "float32", shape)


def test_a_step_needs_names_that_differ_and_at_least_one_input_and_output():
    with pytest.raises(InvalidInput, match="inputs: expected names to differ"):
        StepSpec((X, X), (X,), ())
    with pytest.raises(InvalidInput, match="at least one input"):
        StepSpec((), (X,), ())


def test_state_bytes_are_the_sum_over_the_state():
    state = (StateSpec("memory", "float32", (128, 20), "memory"), StateSpec("count", "int64", (), ""))
    assert StepSpec((X,), (X,), state).state_bytes == 128 * 20 * 4 + 8


@pytest.mark.parametrize(
    ("dtype", "shape", "got"),
    [
        ("float64", (2, 3, 8), r"float64\[2, 3, 8\]"),
        ("float32", (2, 3, 9), r"float32\[2, 3, 9\]"),
        ("float32", (3, 8), r"float32\[3, 8\]"),
        ("float32", (2, 3, 8, 1), r"float32\[2, 3, 8, 1\]"),
        ("float32", (8,), r"float32\[8\]"),
    ],
)
def test_a_tensor_that_differs_from_its_spec_is_refused_with_expected_and_actual(dtype, shape, got):
    with pytest.raises(InvalidInput, match=rf"^x: expected float32\[S, T, 8\], got {got}$"):
        expect_tensor(X, np.zeros(shape, dtype), leading=("S", "T"))


def test_a_tensor_that_fits_passes():
    expect_tensor(X, np.zeros((2, 3, 8), np.float32), leading=("S", "T"))


def test_missing_and_unknown_names_are_refused():
    with pytest.raises(InvalidInput, match=r"inputs: expected \['x'\], got \['y'\]"):
        expect_names((X,), {"y": 0}, "inputs")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_with_its_place(bad):
    array = np.zeros((2, 3), np.float32)
    array[1, 2] = bad
    assert not all_finite(array)
    with pytest.raises(InvalidInput, match=rf"x: expected finite numbers, got {bad} at \[1, 2\]"):
        expect_finite("x", array)


def test_integers_are_always_finite():
    assert all_finite(np.array([2**62]))


@pytest.mark.parametrize(
    ("dtype", "numbers", "bounds", "wrong"),
    [
        ("int64", [0, 7], Range(0, 7), None),
        ("int64", [0, 8], Range(0, 7), "from 0 to 7, got 8 at [1]"),
        ("int64", [-1, 9], Range(0, 7), "from 0 to 7, got -1 at [0]"),
        ("int64", [-9, 7], Range(-8, 7), "from -8 to 7, got -9 at [0]"),
        ("int64", [5, 5], Range(5, 5), None),
        ("int64", [5, 4], Range(5, 5), "from 5 to 5, got 4 at [1]"),
        ("int64", [0, -(2**63)], Range(0, 2**63 - 1), "got -9223372036854775808 at [1]"),
        ("int64", [2**63 - 1, -(2**63)], Range(-(2**63), 2**63 - 1), None),
        ("uint64", [0, 2**63 - 1], Range(0, 2**63 - 1), None),
        ("uint64", [0, 2**64 - 1], Range(0, 7), "got 18446744073709551615 at [1]"),
        ("uint64", [2**63, 1], Range(1, 2**63 - 1), "got 9223372036854775808 at [0]"),
        ("int8", [-128, 127], Range(-128, 127), None),
        ("int8", [-1, 127], Range(0, 127), "from 0 to 127, got -1 at [0]"),
        ("uint8", [255, 0], Range(1, 255), "from 1 to 255, got 0 at [1]"),
    ],
)
def test_numbers_beyond_a_range_are_refused_with_the_first_place(dtype, numbers, bounds, wrong):
    array = np.array(numbers, dtype)
    TensorSpec("x", dtype, (2,), range=bounds)
    assert all_within(array, bounds) is (wrong is None)
    if wrong is None:
        expect_within("x", array, bounds)
    else:
        with pytest.raises(InvalidInput, match="^x: expected numbers .*" + re.escape(wrong)):
            expect_within("x", array, bounds)


def test_a_range_is_of_inputs_alone_and_is_told_after_the_shape():
    token = TensorSpec("token", "int64", (1,), range=Range(0, 7))
    assert str(token) == "int64[1] in 0..7"
    step = StepSpec((X, token), (X,), ())
    assert step.ranged == ((1, (0, 7)),)
    assert StepSpec((X,), (X,), ()).ranged == ()
    with pytest.raises(InvalidInput, match="range: expected one of inputs alone, got one of token"):
        StepSpec((X,), (token,), ())
