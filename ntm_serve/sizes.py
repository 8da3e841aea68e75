"""Sizes that a session chooses: of those axes of a model's state that have a name, as the slots of a memory. Pure.

Rules of this file: sizes that are the model's own are no choice and are left out, so that whoever chooses nothing and
whoever chooses what there is share batches; along such an axis an initial state is everywhere the same, or nobody could
say what it is at another size.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from ntm_serve.errors import InvalidInput
from ntm_serve.spec import Array, StateSpec, StepSpec, frozen

# By name, in the order of the names.
Sizes = tuple[tuple[str, int], ...]

OWN_SIZES: Sizes = ()


def chosen_sizes(spec: StepSpec, given: Mapping[str, int]) -> Sizes:
    """Which of these sizes differ from the model's own. Raises InvalidInput."""
    axes = {axis.name: axis for axis in spec.axes}
    chosen = []
    for name, size in sorted(given.items()):
        axis = axes.get(name)
        if axis is None:
            raise InvalidInput(f"sizes: expected some of {list(axes)}, the axes whose size may be chosen, got {name!r}")
        if not axis.size_min <= size <= axis.size_max:
            raise InvalidInput(f"sizes: {name}: expected {axis.size_min} to {axis.size_max}, got {size}")
        if size != axis.size:
            chosen.append((name, size))
    return tuple(chosen)


def sizes_of_state(spec: StepSpec, arrays: Sequence[Array]) -> Sizes:
    """The sizes that state tensors `[...]` in the order of the specs have. Raises InvalidInput where none may be."""
    found = {
        name: array.shape[place]
        for one, array in zip(spec.state, arrays, strict=False)
        for place, name in enumerate(one.axes)
        if name and place < array.ndim
    }
    return chosen_sizes(spec, found)


def sized_spec(spec: StepSpec, sizes: Sizes) -> StepSpec:
    """The spec of a step whose state has these sizes. Inputs and outputs stay what they were."""
    if not sizes:
        return spec
    size_of = dict(sizes)
    return replace(
        spec,
        state=tuple(replace(one, shape=_sized_shape(one, size_of)) for one in spec.state),
        axes=tuple(replace(axis, size=size_of.get(axis.name, axis.size)) for axis in spec.axes),
    )


def sized_state(spec: StepSpec, state: Sequence[Array], sizes: Sizes) -> tuple[Array, ...]:
    """The initial state `[...]` of those sizes, of a model of that spec."""
    size_of, sized = dict(sizes), []
    for one, array in zip(spec.state, state, strict=True):
        for place, name in enumerate(one.axes):
            if name in size_of:
                array = np.repeat(np.take(array, [0], axis=place), size_of[name], axis=place)
        sized.append(frozen(np.ascontiguousarray(array)))
    return tuple(sized)


def expect_same_along_axes(spec: StepSpec, state: Sequence[Array]) -> None:
    """Refuse an initial state `[...]` that is not the same along an axis whose size may be chosen. Raises
    InvalidInput.
    """
    for one, array in zip(spec.state, state, strict=True):
        for place, name in enumerate(one.axes):
            if name and (array != np.take(array, [0], axis=place)).any():
                raise InvalidInput(
                    f"{one.name}: expected an initial state that is the same all along axis {place}, {name}, as its "
                    "size may be chosen; got one that differs there, and nobody could say what it is at another size"
                )


def _sized_shape(one: StateSpec, size_of: Mapping[str, int]) -> tuple[int, ...]:
    if not one.axes:
        return one.shape
    return tuple(size_of.get(name, size) for name, size in zip(one.axes, one.shape, strict=True))
