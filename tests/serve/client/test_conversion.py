"""What a caller may pass as x, for other dtypes and for several inputs."""

import numpy as np
import pytest

from ntm_serve.client.conversion import Grouping, outputs_of, parted, steps_of
from ntm_serve.errors import InvalidInput
from ntm_serve.spec import TensorSpec

TWO = (TensorSpec("a", "int32", (2,)), TensorSpec("b", "float32", ()))


def spec(dtype, shape=(1,)):
    return (TensorSpec("x", dtype, shape),)


@pytest.mark.parametrize(
    ("dtype", "x"),
    [("int64", [1]), ("uint8", [200]), ("int8", [True]), ("bool", [True]), ("float16", [0.5]), ("float64", [1])],
)
def test_python_numbers_become_the_dtype_that_holds_them(dtype, x):
    array = steps_of(x, spec(dtype)).inputs["x"]
    assert (array.dtype, array.shape, array[0].tolist()) == (np.dtype(dtype), (1, 1), x)


@pytest.mark.parametrize(
    ("dtype", "x"),
    [("int64", [1.5]), ("int32", [np.float64(1)]), ("int8", [300]), ("uint8", [-1]), ("bool", [1]), ("bool", [0.5])],
)
def test_python_numbers_that_would_be_changed_are_refused(dtype, x):
    with pytest.raises(InvalidInput, match=rf"x: expected {dtype}\[1\] for one step"):
        steps_of(x, spec(dtype))


def test_a_number_alone_is_a_step_of_a_tensor_without_axes():
    assert steps_of(3, spec("float32", ())).single
    several = steps_of([1, 2, 3], spec("float32", ()))
    assert (several.count, several.single) == (3, False)


def test_several_inputs_are_one_step_or_several_of_each():
    one = steps_of({"a": [1, 2], "b": 0.5}, TWO)
    assert (one.count, one.single) == (1, True)
    two = steps_of({"b": [0.5, 0.25], "a": [[1, 2], [3, 4]]}, TWO)
    assert (two.count, two.single) == (2, False)
    assert list(two.inputs) == ["a", "b"]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([1, 2], r"inputs: expected a mapping with \['a', 'b'\], got one array"),
        ({"a": [1, 2]}, r"inputs: expected \['a', 'b'\], got \['a'\]"),
        ({"a": [1, 2], "b": [0.5, 0.5]}, "one step of each, or T steps of each, got both"),
        ({"a": [[1, 2]], "b": [0.5, 0.5]}, r"the same T >= 1 steps of each, got \[1, 2\]"),
    ],
)
def test_several_inputs_that_do_not_fit_together_are_refused(x, message):
    with pytest.raises(InvalidInput, match=message):
        steps_of(x, TWO)


def test_several_outputs_come_as_a_mapping_in_the_form_of_the_input():
    outputs = {"y": np.ones((1, 3)), "z": np.zeros((1,))}
    assert {name: array.shape for name, array in outputs_of(outputs, single=True).items()} == {"y": (3,), "z": ()}
    assert {name: array.shape for name, array in outputs_of(outputs, single=False).items()} == {"y": (1, 3), "z": (1,)}


def test_steps_that_were_joined_are_parted_again():
    grouping = Grouping(spec("float32"), 3)
    assert [grouping.add([1]), grouping.add([2])] == [[], []]
    (message,) = grouping.add([3])
    assert message.inputs["x"].tolist() == [[1], [2], [3]]
    assert [y.tolist() for y in parted({"y": np.array([[4], [5], [6]])}, message)] == [[4], [5], [6]]
    assert grouping.rest() == []
