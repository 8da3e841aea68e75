"""Specs: names, dtypes and shapes of a model's tensors, without the batch axis, and the checks against them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite, prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ntm_serve.errors import InvalidInput

Array = NDArray[Any]

# Beyond this size a BLAS may start threads of its own.
VDOT_SIZE_MAX = 4096

# The dtypes that both ONNX Runtime and numpy hold without a package of their own.
DTYPES = (
    "float32", "float64", "float16", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64", "bool",
)  # fmt: skip

# A range's bounds are told in 64 bits with a sign, also of uint64.
BOUND_MAX = 2**63 - 1


class Range(NamedTuple):
    """The whole numbers from min to max, both included."""

    min: int
    max: int

    def __str__(self) -> str:
        return f"{self.min}..{self.max}"


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of one step of one session: its name, numpy dtype and shape; and, of an input of whole numbers, what
    they may be, as the rows of a table that they are looked up in. None: whatever the dtype holds. Specs that differ in
    their ranges alone are equal: sessions of two versions of a model share messages and groups.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    range: Range | None = field(default=None, kw_only=True, compare=False)

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise InvalidInput(f"{self.name}: expected a dtype of {', '.join(DTYPES)}, got {self.dtype!r}")
        if any(size < 1 for size in self.shape):
            raise InvalidInput(f"{self.name}: expected every axis to be at least 1, got {list(self.shape)}")
        if self.range is not None:
            self._expect_range(self.range)

    def __str__(self) -> str:
        return self.layout if self.range is None else f"{self.layout} in {self.range}"

    @property
    def layout(self) -> str:
        """Dtype and shape alone."""
        return described(self.dtype, self.shape)

    @cached_property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype in the byte order of the wire and of every platform served: little-endian."""
        return np.dtype(self.dtype)

    @cached_property
    def nbytes(self) -> int:
        """Bytes of one step's tensor."""
        return int(prod(self.shape)) * self.numpy_dtype.itemsize

    def _expect_range(self, given: Range) -> None:
        if self.numpy_dtype.kind not in "iu":
            raise InvalidInput(f"{self.name}: range: expected one of whole numbers alone, got {given} of {self.dtype}")
        held = held_by(self.dtype)
        if not held.min <= given.min <= given.max <= held.max:
            raise InvalidInput(
                f"{self.name}: range: expected {held.min} <= min <= max <= {held.max}, as it is {self.dtype}, "
                f"got min {given.min} and max {given.max}"
            )


@dataclass(frozen=True)
class StateSpec(TensorSpec):
    """A state tensor and its role: what it means, for tools and pictures. axes: the name of each axis whose size a
    session may choose, "" of the others; empty where it may choose none.
    """

    role: str = ""
    axes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Axis:
    """Axes of one name of a step's state: their size, and what a session may choose instead."""

    name: str
    size: int
    size_min: int
    size_max: int


@dataclass(frozen=True)
class StepSpec:
    """What one step takes and gives: inputs, outputs and state, each in a fixed order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: tuple[StateSpec, ...]
    axes: tuple[Axis, ...] = ()

    def __post_init__(self) -> None:
        for kind, specs in (("inputs", self.inputs), ("outputs", self.outputs), ("state", self.state)):
            names = [spec.name for spec in specs]
            if len(set(names)) != len(names):
                raise InvalidInput(f"{kind}: expected names to differ, got {names}")
        if not self.inputs or not self.outputs:
            raise InvalidInput("a step has at least one input and one output")
        if ranged := [one.name for one in self.given if one.range is not None]:
            raise InvalidInput(f"range: expected one of inputs alone, got one of {', '.join(ranged)}")
        if self.axes or any(one.axes for one in self.state):
            self._expect_axes()

    @cached_property
    def given(self) -> tuple[TensorSpec, ...]:
        """What a step gives: outputs, then the next state."""
        return (*self.outputs, *self.state)

    @cached_property
    def ranged(self) -> tuple[tuple[int, Range], ...]:
        """The places of those inputs that have a range, with it."""
        return tuple((place, one.range) for place, one in enumerate(self.inputs) if one.range is not None)

    @cached_property
    def state_bytes(self) -> int:
        """Bytes of one session's state."""
        return sum(spec.nbytes for spec in self.state)

    @cached_property
    def step_bytes(self) -> int:
        """Bytes of one step's inputs and outputs."""
        return sum(spec.nbytes for spec in (*self.inputs, *self.outputs))

    def _expect_axes(self) -> None:
        sizes = {axis.name: axis.size for axis in self.axes}
        for axis in self.axes:
            if not (axis.name and 1 <= axis.size_min <= axis.size <= axis.size_max):
                raise InvalidInput(
                    f"axes: {axis.name}: expected 1 <= least <= {axis.size} <= most, got {axis.size_min} and "
                    f"{axis.size_max}"
                )
        for one in self.state:
            if one.axes and len(one.axes) != len(one.shape):
                raise InvalidInput(f"{one.name}: axes: expected {len(one.shape)} names, got {list(one.axes)}")
            for name, size in zip(one.axes, one.shape, strict=False):
                if name and sizes.get(name) != size:
                    expected = f"of {sizes[name]}" if name in sizes else f"of {sorted(sizes)}"
                    raise InvalidInput(f"{one.name}: axes: expected one {expected}, got {name} of {size}")
        used = {name for one in self.state for name in one.axes}
        if unused := sorted(set(sizes) - used):
            raise InvalidInput(f"axes: expected each to be of a state tensor, got {unused} of none")


def held_by(dtype: str) -> Range:
    """The whole numbers that a dtype of them holds, as far as a range can tell."""
    bounds = np.iinfo(dtype)
    return Range(int(bounds.min), min(int(bounds.max), BOUND_MAX))


def described(dtype: object, axes: Iterable[object]) -> str:
    """A dtype and shape as every message writes them: `float32[8]`."""
    return f"{dtype}[{', '.join(str(axis) for axis in axes)}]"


def expect_names(specs: Sequence[TensorSpec], given: Mapping[str, object], kind: str) -> None:
    """Refuse missing and unknown names. Raises InvalidInput."""
    if len(given) == len(specs) == 1 and specs[0].name in given:
        return
    if len(given) != len(specs) or any(spec.name not in given for spec in specs):
        raise InvalidInput(f"{kind}: expected {[spec.name for spec in specs]}, got {sorted(given)}")


def expect_tensor(spec: TensorSpec, array: Array, *, leading: tuple[str, ...]) -> None:
    """Refuse a tensor whose dtype or trailing axes differ from its spec; `leading` names the axes that
    come before those of the spec, as in ("S", "T"). Raises InvalidInput.
    """
    # By the dtype itself: numpy takes its time to spell a name.
    if array.dtype == spec.numpy_dtype and array.shape[len(leading) :] == spec.shape and array.ndim >= len(leading):
        return
    expected = described(spec.dtype, (*leading, *spec.shape))
    raise InvalidInput(f"{spec.name}: expected {expected}, got {described(array.dtype, array.shape)}")


def all_finite(array: Array) -> bool:
    """Whether no number is NaN or infinite."""
    if array.dtype.kind != "f":
        return True
    # The sum of squares is finite only where all are, and costs half; large numbers may overflow it.
    if array.size <= VDOT_SIZE_MAX and isfinite(np.vdot(array, array)):
        return True
    return bool(np.isfinite(array).all())


def expect_finite(name: str, array: Array) -> None:
    """Refuse NaN and infinity, naming the first place. Raises InvalidInput."""
    if all_finite(array):
        return
    at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
    raise InvalidInput(f"{name}: expected finite numbers, got {array[at]} at {list(at)}")


def all_within(array: Array, bounds: Range) -> bool:
    """Whether every number of an array of whole numbers is within the bounds."""
    return not array.size or bool(array.min() >= bounds.min and array.max() <= bounds.max)


def expect_within(name: str, array: Array, bounds: Range) -> None:
    """Refuse a number beyond the bounds, naming the first place. Raises InvalidInput."""
    if all_within(array, bounds):
        return
    at = tuple(int(i) for i in np.argwhere((array < bounds.min) | (array > bounds.max))[0])
    raise InvalidInput(f"{name}: expected numbers from {bounds.min} to {bounds.max}, got {array[at]} at {list(at)}")


def expect_numbers(spec: TensorSpec, array: Array) -> None:
    """Refuse numbers that are not finite, or not of the input's range, naming the first place. Raises InvalidInput."""
    expect_finite(spec.name, array)
    if spec.range is not None:
        expect_within(spec.name, array, spec.range)


def frozen(array: Array) -> Array:
    """The same array, read-only from here on: state and replies are values."""
    array.flags.writeable = False
    return array
