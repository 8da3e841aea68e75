"""Specs and the checks against them."""

import numpy as np
import pytest

from ntm_serve.errors import InvalidInput
from ntm_serve.spec import StateSpec, StepSpec, TensorSpec, all_finite, expect_finite, expect_names, expect_tensor

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
