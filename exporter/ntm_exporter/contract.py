"""The step contract: what an object must offer to be exported, and the check that names what it lacks.

A step is a torch module, or any callable that computes with torch, and imports nothing of this project:

    initial_state() -> {name: tensor [...]}                   one session's state, no batch axis
    step(inputs, state) -> (outputs, next state)              dictionaries of tensors [B, ...], pure
    example_inputs(steps, seed) -> {name: array [steps, ...]} one session's realistic run

and, where it wants to say more, `family: str`, `task: str` and `roles: dict[state name, role]`; `ranges: dict[input
name, (min, max)]`, of inputs of whole numbers, where the exporter does not find what they may be; and, where a session
may choose how large its state is, `sizes: dict[axis name, (least, most)]` and `axes: dict[state name, tuple of axis
names, "" for those that stay]`, as {"slots": (1, 256)} and {"memory": ("slots", "")}. A step may name axes alone and
leave the sizes to whoever exports it (`--sizes slots=1:256`). The step takes the size from the
state that it is given, and the initial state is the same all along such an axis. A step whose sessions are given state
tensors when they open, such as a memory that is only read, offers them for each seed of its example:

    example_state(seed) -> {state name: array [...]}          in place of those of initial_state

Pure means: the same values for the same inputs and state, nothing written to either, no row that sees
another row. The shapes and dtypes of everything are read off the step; nothing is declared twice.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from ntm_exporter.choice import NO_CHOICE, Choice, axes_of, expect_axes, further_sizes
from ntm_exporter.errors import ContractFault
from ntm_serve.errors import InvalidInput
from ntm_serve.sizes import Sizes, expect_same_along_axes, sized_spec, sized_state
from ntm_serve.spec import (
    Array,
    StateSpec,
    StepSpec,
    TensorSpec,
    described,
    expect_finite,
    expect_names,
    expect_tensor,
)

Tensors = Mapping[str, Tensor]
Arrays = Mapping[str, Array]
ExampleInputs = Callable[[int, int], Mapping[str, Any]]
ExampleState = Callable[[int], Mapping[str, Any]]

# Rows and steps of the examination: two of each are the fewest that can differ.
ROWS, STEPS = 2, 2

# Rows of one batch of one size may be added up in another order; more than this is another function.
ROW_TOLERANCE = 1e-4

# What a step may say of itself beside its methods.
ATTRIBUTES: Mapping[str, type[Any]] = {
    "family": str, "task": str, "roles": Mapping, "ranges": Mapping, "sizes": Mapping, "axes": Mapping,
}  # fmt: skip

Given = TypeVar("Given")


class Step(Protocol):
    """What the exporter calls. `example_inputs` may come from elsewhere, as it does for a recipe."""

    def initial_state(self) -> Tensors:
        """The state of a session that made no step, `[...]` each, without a batch axis."""
        ...

    def __call__(self, inputs: dict[str, Tensor], state: dict[str, Tensor]) -> tuple[Tensors, Tensors]:
        """One step of B sessions, `[B, ...]` each: outputs, and the next state under the state's names."""
        ...


def expect_step(step: object, *, needs_example: bool) -> None:
    """Refuse an object that lacks a method of the contract, or says of itself what cannot be read. Raises
    ContractFault.
    """
    methods = {"initial_state": "initial_state()", "__call__": "step(inputs, state)"}
    if needs_example:
        methods["example_inputs"] = "example_inputs(steps, seed)"
    missing = [shown for name, shown in methods.items() if not callable(getattr(step, name, None))]
    if missing:
        raise ContractFault(
            f"step: expected {', '.join(methods.values())}, got a {type(step).__name__} without {', '.join(missing)}"
        )
    for name, kind in ATTRIBUTES.items():
        said = getattr(step, name, None)
        if said is not None and not isinstance(said, kind):
            wanted = "a text" if kind is str else "a dictionary"
            raise ContractFault(f"{name}: expected {wanted}, got a {type(said).__name__}")


def nothing_given(_seed: int) -> Mapping[str, Any]:
    """The example state of a step whose sessions all begin with its own."""
    return {}


def examined(
    step: Step,
    example_inputs: ExampleInputs,
    roles: Mapping[str, str],
    choice: Choice = NO_CHOICE,
    example_state: ExampleState = nothing_given,
) -> StepSpec:
    """The step's spec, read off two rows of its own example. Raises ContractFault."""
    initial = initial_arrays(step)
    expect_axes(step, initial)
    begun = [{**initial, **given_arrays(initial, example_state, seed)} for seed in range(ROWS)]
    first, second = (example_arrays(example_inputs, STEPS, seed) for seed in range(ROWS))
    if any(not np.array_equal(first[name], again) for name, again in example_arrays(example_inputs, STEPS, 0).items()):
        raise ContractFault("example_inputs: expected the same arrays for the same seed, got others")
    unknown = sorted(set(roles) - set(initial))
    if unknown:
        raise ContractFault(f"roles: expected names of the state, {sorted(initial)}, got {unknown}")
    try:
        inputs = tuple(TensorSpec(_name(name), str(a.dtype), a.shape[1:]) for name, a in first.items())
        state = tuple(
            StateSpec(_name(name), str(a.dtype), a.shape, roles.get(name, ""), tuple(choice.axes.get(name, ())))
            for name, a in initial.items()
        )
        rows = {name: np.stack([array[0], second[name][0]]) for name, array in first.items()}
        carried = {name: np.stack([each[name] for each in begun]) for name in initial}
        outputs = _examined_call(step, rows, carried, state)
        spec = StepSpec(inputs, outputs, state, axes_of(choice, initial))
        expect_same_along_axes(spec, tuple(initial.values()))
        for sizes in further_sizes(spec):
            _expect_step_at(step, rows, initial, spec, sizes)
    except InvalidInput as fault:
        raise ContractFault(fault.message) from fault
    shared = sorted({one.name for one in inputs} & {one.name for one in outputs})
    if shared:
        raise ContractFault(f"outputs: expected names that no input has, got {shared} as both")
    return spec


def _expect_step_at(step: Step, rows: Arrays, initial: Arrays, spec: StepSpec, sizes: Sizes) -> None:
    """Refuse a step that is none when its state has other sizes. Raises ContractFault."""
    specs = sized_spec(spec, sizes).state
    state = sized_state(spec, tuple(initial[one.name] for one in spec.state), sizes)
    carried = {one.name: np.stack([array] * ROWS) for one, array in zip(specs, state, strict=True)}
    try:
        given = _examined_call(step, rows, carried, specs)
    except (ContractFault, InvalidInput) as fault:
        raise ContractFault(f"sizes: at {dict(sizes)}: {fault}") from fault
    if given != spec.outputs:
        raise ContractFault(
            f"sizes: at {dict(sizes)}: expected outputs {[str(one) for one in spec.outputs]} as at its own, got "
            f"{[str(one) for one in given]}"
        )


def initial_arrays(step: Step) -> dict[str, Array]:
    """One session's first state, as arrays. Raises ContractFault."""
    with torch.no_grad():
        state = _of_the_user("initial_state()", step.initial_state)
    return _arrays("initial_state", state, only_tensors=True)


def example_arrays(example_inputs: ExampleInputs, steps: int, seed: int) -> dict[str, Array]:
    """One session's run of T steps, `[T, ...]` each. Raises ContractFault."""
    given = _of_the_user(f"example_inputs({steps}, {seed})", lambda: example_inputs(steps, seed))
    arrays = _arrays("example_inputs", given, only_tensors=False)
    for name, array in arrays.items():
        if array.shape[:1] != (steps,):
            raise ContractFault(f"example_inputs: {name}: expected shape [{steps}, ...], got {list(array.shape)}")
    return arrays


def given_arrays(initial: Arrays, example_state: ExampleState, seed: int) -> dict[str, Array]:
    """The state tensors that a session of the example is given, `[...]` each. Raises ContractFault."""
    offered = _of_the_user(f"example_state({seed})", lambda: example_state(seed))
    given = _arrays("example_state", offered, only_tensors=False)
    for name, array in given.items():
        if name not in initial:
            raise ContractFault(f"example_state: expected names of the state, {sorted(initial)}, got {name!r}")
        wanted = initial[name]
        if (array.dtype, array.shape) != (wanted.dtype, wanted.shape):
            raise ContractFault(
                f"example_state: {name}: expected {described(wanted.dtype, wanted.shape)}, "
                f"got {described(array.dtype, array.shape)}"
            )
    return given


def called(step: Step, inputs: Arrays, state: Arrays) -> tuple[dict[str, Array], dict[str, Array]]:
    """One call of the step on copies of arrays `[B, ...]`. Raises ContractFault where it fails, or what it returns is
    no step's.
    """
    given = _stepped(step, *({name: torch.tensor(a) for name, a in part.items()} for part in (inputs, state)))
    if not isinstance(given, tuple) or len(given) != 2:
        got = f"a tuple of {len(given)}" if isinstance(given, tuple) else f"a {type(given).__name__}"
        raise ContractFault(f"step: expected a tuple of 2, (outputs, next state), got {got}")
    return (
        _arrays("outputs", given[0], only_tensors=True, finite=False),
        _arrays("next state", given[1], only_tensors=True, finite=False),
    )


def _examined_call(step: Step, inputs: Arrays, state: Arrays, specs: tuple[StateSpec, ...]) -> tuple[TensorSpec, ...]:
    """Call the step as the contract forbids it to notice; returns the specs of its outputs."""
    _expect_untouched(step, inputs, state)
    outputs, following = called(step, inputs, state)
    expect_names(specs, following, "next state")
    for spec in specs:
        expect_tensor(spec, following[spec.name], leading=(str(ROWS),))
    for name, array in outputs.items():
        if array.shape[:1] != (ROWS,):
            raise ContractFault(f"outputs: {name}: expected [{ROWS}, ...] for {ROWS} rows, got {list(array.shape)}")
    again = called(step, inputs, state)
    alone = called(step, *({n: np.stack([a[0], a[0]]) for n, a in arrays.items()} for arrays in (inputs, state)))
    for kind, arrays, same, company in zip(("outputs", "next state"), (outputs, following), again, alone, strict=True):
        for name, array in arrays.items():
            if not np.array_equal(array, same[name], equal_nan=array.dtype.kind == "f"):
                raise ContractFault(
                    f"{kind}: {name}: expected the same values from the same inputs and state, got others: "
                    "state kept on the module, or random numbers, make no pure step"
                )
            if not np.allclose(array[0], company[name][0], ROW_TOLERANCE, ROW_TOLERANCE, equal_nan=True):
                raise ContractFault(f"{kind}: {name}: expected a row not to depend on the other rows, it does")
    return tuple(TensorSpec(_name(name), str(array.dtype), array.shape[1:]) for name, array in outputs.items())


def _expect_untouched(step: Step, inputs: Arrays, state: Arrays) -> None:
    """Refuse a step that fails, or that writes to what it was given."""
    given = {n: torch.tensor(a) for n, a in inputs.items()}, {n: torch.tensor(a) for n, a in state.items()}
    _stepped(step, dict(given[0]), dict(given[1]))
    for kind, tensors, arrays in zip(("inputs", "state"), given, (inputs, state), strict=True):
        for name, tensor in tensors.items():
            if not np.array_equal(tensor.numpy(), arrays[name]):
                raise ContractFault(f"{kind}: {name}: expected the step to leave it as it was, the step wrote to it")


def _stepped(step: Step, inputs: dict[str, Tensor], state: dict[str, Tensor]) -> object:
    """Whatever the step returns. Raises ContractFault."""
    shapes = ", ".join(f"{name} {list(tensor.shape)}" for part in (inputs, state) for name, tensor in part.items())
    with torch.no_grad():
        return _of_the_user("step", lambda: step(inputs, state), on=f" on {shapes}")


def _of_the_user(what: str, call: Callable[[], Given], on: str = "") -> Given:
    """What the user's own code gives. Raises ContractFault: whatever it raises is theirs to read."""
    try:
        return call()
    except Exception as fault:
        raise ContractFault(f"{what}: failed{on}: {type(fault).__name__}: {fault}") from fault


def _arrays(kind: str, values: object, *, only_tensors: bool, finite: bool = True) -> dict[str, Array]:
    """The arrays behind a dictionary of tensors. Raises ContractFault."""
    if not isinstance(values, Mapping):
        raise ContractFault(f"{kind}: expected a dictionary of tensors by name, got a {type(values).__name__}")
    arrays = {}
    for name, value in values.items():
        if not isinstance(value, Tensor) and (only_tensors or not isinstance(value, np.ndarray)):
            raise ContractFault(f"{kind}: {name}: expected a tensor, got a {type(value).__name__}")
        try:
            arrays[name] = value.detach().cpu().numpy() if isinstance(value, Tensor) else value
        except TypeError as fault:  # A dtype that numpy does not have, such as bfloat16.
            raise ContractFault(f"{kind}: {name}: {fault}") from fault
        if finite:
            try:
                expect_finite(f"{kind}: {name}", arrays[name])
            except InvalidInput as fault:
                raise ContractFault(fault.message) from fault
    return arrays


def _name(name: object) -> str:
    """A name that a graph, an archive and a message can carry."""
    if isinstance(name, str) and name.isidentifier() and name.isascii():
        return name
    raise ContractFault(f"names: expected letters, digits and underscores, the first no digit, got {name!r}")
