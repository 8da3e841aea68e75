"""Pictures: tensors to be looked at, reduced to what a screen can show, and what a look at a session gives. Pure.

Rules of this file: the last axis is columns and the one before it rows; what is taken together is blocks of equal size,
as small as fits, and a picture says of which; the tensor itself is only read.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ntm_serve.errors import InvalidInput
from ntm_serve.spec import Array, StateSpec, TensorSpec

# Of the axis before rows: heads, layers. Of any before that one element is shown.
LEADING_MAX = 8

# The most steps whose inputs and outputs one frame has, and the most elements that one picture of them has; of one step
# there is always all that the grid lets through.
PICTURE_STEPS_MAX = 64
PICTURE_ELEMENTS_MAX = 1 << 16


class Reduction(StrEnum):
    """How a block becomes one element."""

    # The element farthest from 0, with its sign: a head that looks at one slot of thousands is seen.
    PEAK = "peak"
    # In float32 where the tensor's numbers are no wider floats.
    MEAN = "mean"


@dataclass(frozen=True, slots=True)
class Grid:
    """The most rows and columns that a picture has, and how it gets them."""

    rows_max: int
    columns_max: int
    reduction: Reduction = Reduction.PEAK


@dataclass(frozen=True, slots=True)
class Picture:
    """A tensor as it is shown. blocks: for each axis, how many of the tensor's elements one of the array's stands for;
    the last of an axis may stand for fewer.
    """

    name: str
    role: str
    dtype: str
    full_shape: tuple[int, ...]
    blocks: tuple[int, ...]
    array: Array


@dataclass(frozen=True, slots=True)
class Frame:
    """What a look at a session gives: its state after `next_step` steps, and inputs and outputs `[T, ...]` of the steps
    first_step to next_step - 1, T may be 0.

    taken_at_s: Unix seconds. lost: messages since the frame before whose state no frame shows. resident: whether the
    session was in this server's memory.
    """

    next_step: int
    taken_at_s: float
    lost: int
    state: tuple[Picture, ...]
    first_step: int
    inputs: tuple[Picture, ...]
    outputs: tuple[Picture, ...]
    resident: bool

    @property
    def elements(self) -> int:
        """Of all its pictures."""
        return sum(one.array.size for one in (*self.state, *self.inputs, *self.outputs))


def blocks_of(shape: Sequence[int], grid: Grid) -> tuple[int, ...]:
    """The smallest blocks with which a tensor of that shape fits into the grid."""
    most = (grid.columns_max, grid.rows_max, LEADING_MAX)
    from_the_last = [-(-size // (most[place] if place < len(most) else 1)) for place, size in enumerate(shape[::-1])]
    return tuple(from_the_last[::-1])


def picture_of(spec: TensorSpec, array: Array, grid: Grid, *, steps: bool = False) -> Picture:
    """A tensor as it is shown. steps: whether it has an axis of steps before those of its spec, which stays."""
    shape = array.shape
    blocks = (1, *blocks_of(shape[1:], grid)) if steps else blocks_of(shape, grid)
    role = spec.role if isinstance(spec, StateSpec) else ""
    return Picture(spec.name, role, spec.dtype, shape, blocks, reduced(array, blocks, grid.reduction))


def reduced(array: Array, blocks: Sequence[int], reduction: Reduction) -> Array:
    """One element for each block; the array itself where each has one."""
    if all(block == 1 for block in blocks):
        return array
    if reduction is Reduction.MEAN:
        return _mean(array, blocks)
    for axis, block in enumerate(blocks):
        if block > 1:
            array = _peak(array, axis, block)
    return array


def _starts(size: int, block: int) -> Array:
    return np.arange(0, size, block)


def _peak(array: Array, axis: int, block: int) -> Array:
    starts = _starts(array.shape[axis], block)
    highest: Array = np.maximum.reduceat(array, starts, axis=axis)
    if array.dtype.kind in "bu":
        return highest
    lowest = np.minimum.reduceat(array, starts, axis=axis)
    # Of integers the lowest has no opposite in its own dtype.
    opposite = -lowest if array.dtype.kind == "f" else -lowest.astype(np.float64)
    return np.where(highest >= opposite, highest, lowest)


def _mean(array: Array, blocks: Sequence[int]) -> Array:
    dtype = np.result_type(array.dtype, np.float32) if array.dtype.kind == "f" else np.dtype(np.float32)
    total, counts = array.astype(np.float64), np.ones((), np.float64)
    for axis, block in enumerate(blocks):
        size = array.shape[axis]
        starts = _starts(size, block)
        total = np.add.reduceat(total, starts, axis=axis)
        count = np.diff(np.append(starts, size)).astype(np.float64)
        counts = counts * count.reshape([-1 if one == axis else 1 for one in range(array.ndim)])
    mean: Array = (total / counts).astype(dtype)
    return mean


def chosen(specs: Sequence[StateSpec], tensors: Sequence[str]) -> tuple[int, ...]:
    """The places of those specs that have one of these names or roles; all where none is said. Raises InvalidInput."""
    known = {one.name for one in specs} | {one.role for one in specs if one.role}
    unknown = [one for one in tensors if one not in known and one != "*"]
    if unknown:
        raise InvalidInput(f"tensors: expected names or roles of {sorted(known)}, got {unknown}")
    every = not tensors or "*" in tensors
    return tuple(place for place, one in enumerate(specs) if every or one.name in tensors or one.role in tensors)


def steps_shown(specs: Sequence[TensorSpec], grid: Grid) -> int:
    """The most steps whose inputs, or outputs, one frame shows."""
    largest = max((_cells(one.shape, grid) for one in specs), default=1)
    return max(1, min(PICTURE_STEPS_MAX, PICTURE_ELEMENTS_MAX // largest))


def _cells(shape: Sequence[int], grid: Grid) -> int:
    return math.prod(-(-size // block) for size, block in zip(shape, blocks_of(shape, grid), strict=True))
