"""What of the sizes of its state a step leaves to sessions: see the step contract. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from ntm_exporter.errors import ContractFault
from ntm_serve.sizes import Sizes, chosen_sizes
from ntm_serve.spec import Array, Axis, StepSpec

# Of an axis whose size may be chosen: torch makes constants of 0 and 1.
OWN_SIZE_MIN = 2


@dataclass(frozen=True)
class Choice:
    """sizes: the least and the most of each axis, by its name. axes: the names of each state tensor's axes, "" for
    those that stay.
    """

    sizes: Mapping[str, tuple[int, int]]
    axes: Mapping[str, tuple[str, ...]]


NO_CHOICE = Choice({}, {})


def choice_of(step: object, sizes: Mapping[str, tuple[int, int]]) -> Choice:
    """What a step says of it. sizes: what its exporter says, which counts. An axis of which nobody says how large it
    may be stays as it is.
    """
    said = {**getattr(step, "sizes", {}), **sizes}
    named = {state: tuple(name if name in said else "" for name in names) for state, names in _axes(step).items()}
    return Choice(said, {state: names for state, names in named.items() if any(names)})


def _axes(step: object) -> Mapping[str, tuple[str, ...]]:
    axes: Mapping[str, tuple[str, ...]] = getattr(step, "axes", {})
    return axes


def expect_axes(step: object, initial: Mapping[str, Array]) -> None:
    """Refuse names of axes that are not those of the state, also of a step that leaves no size to sessions. Raises
    ContractFault.
    """
    for state, names in _axes(step).items():
        if state not in initial:
            raise ContractFault(f"axes: expected names of the state, {sorted(initial)}, got {state!r}")
        shape = initial[state].shape
        plain = isinstance(names, tuple | list) and all(isinstance(name, str) for name in names)
        if not plain or len(names) != len(shape):
            raise ContractFault(
                f'axes: {state}: expected a name or "" for each axis of {list(shape)}, {len(shape)} in all, '
                f"got {names!r}"
            )


def further_sizes(spec: StepSpec) -> list[Sizes]:
    """Two choices of a session's, beside the model's own sizes, at which a step is looked at too: the least and the
    most of every axis, or what is next to it where that is the model's own.
    """
    if not spec.axes:
        return []
    least, most = {}, {}
    for axis in spec.axes:
        others = [size for size in range(axis.size_min, axis.size_max + 1) if size != axis.size]
        least[axis.name], most[axis.name] = others[0], others[-1]
    return list(dict.fromkeys(chosen_sizes(spec, sizes) for sizes in (least, most)))


def axes_of(choice: Choice, initial: Mapping[str, Array]) -> tuple[Axis, ...]:
    """The axes that a step names, as expect_axes lets them pass, with the sizes of its initial state `[...]`. Raises
    ContractFault.
    """
    made = []
    for name, bounds in choice.sizes.items():
        own = [
            size
            for state, names in choice.axes.items()
            for axis, size in zip(names, initial[state].shape, strict=True)
            if axis == name
        ]
        if not own:
            raise ContractFault(f"sizes: {name}: expected it to be an axis of a state tensor, {dict(choice.axes)}")
        if not isinstance(bounds, tuple | list) or [type(bound) for bound in bounds] != [int, int]:
            raise ContractFault(f"sizes: {name}: expected two whole numbers, (least, most), got {bounds!r}")
        least, most = bounds
        if not least <= own[0] <= most or least == most:
            raise ContractFault(f"sizes: {name}: expected a least and a most around its own {own[0]}, got {bounds}")
        if own[0] < OWN_SIZE_MIN:
            raise ContractFault(
                f"sizes: {name}: expected an own size of at least {OWN_SIZE_MIN}, got {own[0]}: torch takes 1 for a "
                "constant"
            )
        if not name.isidentifier() or not name.isascii():
            raise ContractFault(f"sizes: expected names of letters, digits and underscores, got {name!r}")
        made.append(Axis(name, own[0], least, most))
    return tuple(made)
