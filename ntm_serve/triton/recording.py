"""The recorded run of a model that has none: one session, by the graph itself.

Rules of this file: a run that leaves its specs, or numbers that are finite, is no run to hold a server against.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ntm_serve.engine import graph_run
from ntm_serve.errors import EngineFault, InvalidInput, ModelRejected
from ntm_serve.model_directory import Golden
from ntm_serve.spec import Array, TensorSpec, described
from ntm_serve.triton.plan import Plan

STEPS = 32

# Given the specs of the inputs, gives arrays `[T, ...]` by name. Raises InvalidInput.
Example = Callable[[Sequence[TensorSpec]], Mapping[str, Array]]

# What helps where numbers that were made up do not.
EXAMPLE = "--example FILE.npz has it run with inputs of yours"


def recorded_run(model: bytes, path: Path, plan: Plan, example: Example | None) -> Golden:
    """A run of one session from the initial state on. example: None makes up inputs of 32 steps. `path`: for messages.
    Raises ModelRejected.
    """
    run = graph_run(model, path)
    inputs = made_up(plan) if example is None else _given(path, plan, example)
    state: Sequence[Array] = [one.initial for one in plan.state]
    states, outputs = [state], []
    fed_by = [*(one.name for one in plan.inputs), *(one.name for one in plan.state)]
    wanted = [*(one.name for one in plan.outputs), *(one.graph_output for one in plan.state)]
    for step in range(len(inputs[0])):
        rows = [*(array[step : step + 1] for array in inputs), *(array[np.newaxis] for array in state)]
        try:
            given = run(dict(zip(fed_by, rows, strict=True)), wanted)
        except EngineFault as fault:
            raise ModelRejected(f"{fault.detail}; {EXAMPLE}") from fault
        made, state = given[: len(plan.outputs)], given[len(plan.outputs) :]
        _expect_outputs(path, plan, made)
        state = _expected_state(path, plan, state, step)
        outputs.append([array[0] for array in made])
        states.append(state)
    return Golden(tuple(inputs), _stacked(outputs), _stacked(states))


def made_up(plan: Plan) -> list[Array]:
    """Inputs `[T, ...]` that most models take: numbers around zero; whole numbers, and truths, are 0 or 1."""
    random = np.random.default_rng(0)
    made = []
    for one in plan.inputs:
        shape = (STEPS, *one.fixed)
        numbers = random.standard_normal(shape) if one.dtype.startswith("float") else random.integers(0, 2, shape)
        made.append(numbers.astype(one.dtype))
    return made


def _given(path: Path, plan: Plan, example: Example) -> list[Array]:
    """The user's inputs in the order of the plan. Raises ModelRejected."""
    try:
        arrays = example([TensorSpec(one.name, one.dtype, one.fixed) for one in plan.inputs])
    except InvalidInput as fault:
        raise ModelRejected(f"{path}: --example: {fault.message}") from fault
    return [np.ascontiguousarray(arrays[one.name]) for one in plan.inputs]


def _expect_outputs(path: Path, plan: Plan, made: Sequence[Array]) -> None:
    """Refuse outputs that are not what the config says. Raises ModelRejected."""
    for one, array in zip(plan.outputs, made, strict=True):
        fits = (
            array.ndim == 1 + len(one.shape)
            and len(array) == 1
            and all(wanted in (None, size) for wanted, size in zip(one.shape, array.shape[1:], strict=True))
        )
        if not fits or array.dtype.name != one.dtype or 0 in array.shape:
            expected = described(one.dtype, (1, *("?" if size is None else size for size in one.shape)))
            actual = described(array.dtype, array.shape)
            raise ModelRejected(f"{path}: output {one.name}: expected {expected} of one row, got {actual}")


def _expected_state(path: Path, plan: Plan, following: Sequence[Array], step: int) -> list[Array]:
    """One session's next state, without the batch axis. Raises ModelRejected."""
    for one, array in zip(plan.state, following, strict=True):
        if array.shape != (1, *one.initial.shape) or array.dtype != one.initial.dtype:
            expected = described(one.initial.dtype, (1, *one.initial.shape))
            actual = described(array.dtype, array.shape)
            raise ModelRejected(f"{path}: state {one.name}: expected {expected} after step {step}, got {actual}")
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ModelRejected(
                f"{path}: state {one.name}: expected finite numbers after step {step}, got NaN or infinity; {EXAMPLE}"
            )
    return [array[0] for array in following]


def _stacked(steps: Sequence[Sequence[Array]]) -> tuple[Array, ...]:
    """Arrays of each step as `[T, ...]`, one for each tensor."""
    return tuple(np.stack(arrays) for arrays in zip(*steps, strict=True))
