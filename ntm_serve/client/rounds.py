"""Rounds: steps of many sessions that a caller passed together, as arrays that are stacked once. Pure.

A round has rows: each is one step of one key's session. Rows of one key are its steps, in their order. What
a caller passes has one of two forms, `ByKey` and `ByRow`; each makes a round, and brings what the round gave
into the form of what was passed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import numpy as np

from ntm_serve.client.conversion import KINDS_TAKEN, Inputs, Outputs, outputs_of, steps_of
from ntm_serve.errors import InvalidInput, NtmServeError
from ntm_serve.spec import Array, TensorSpec, expect_names, expect_tensor, frozen

# What a key's session gave: outputs in the form of its inputs, or its error.
Answer = Outputs | NtmServeError

A_co = TypeVar("A_co", covariant=True)

# The number of a row that was not made.
NO_STEP = -1


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What N rows gave, in the order of the rows.

    keys: of each row. steps: int64 `[N]`, the number of each row's step, -1 where there is an error. outputs:
    by name, `[N, ...]`, zeros where there is an error. errors: by the number of the row.
    """

    keys: Sequence[str]
    steps: Array
    outputs: Mapping[str, Array]
    errors: Mapping[int, NtmServeError]


class Stretch(NamedTuple):
    """Consecutive steps of one key: its rows, and whether they are made all together or not at all."""

    key: str
    rows: Sequence[int]
    whole: bool


class Round:
    """Steps of many sessions, and what became of them. inputs: by name, `[N, ...]`."""

    __slots__ = ("errors", "inputs", "number", "outputs", "steps", "stretches", "unanswered")

    def __init__(
        self, inputs: Mapping[str, Array], outputs: Sequence[TensorSpec], stretches: Sequence[Stretch], rows: int
    ) -> None:
        self.inputs = inputs
        self.stretches = stretches
        self.outputs = {spec.name: np.zeros((rows, *spec.shape), spec.numpy_dtype) for spec in outputs}
        self.steps: Array = np.full(rows, NO_STEP, np.int64)
        self.errors: dict[int, NtmServeError] = {}
        self.unanswered = sum(len(stretch.rows) for stretch in stretches)
        # Which round of its stream it is.
        self.number = 0


class Form(Protocol[A_co]):
    """Steps of many sessions as a caller passed them."""

    @property
    def keys(self) -> Sequence[str]:
        """Of the sessions that are stepped; one may stand here several times."""
        ...

    def round(
        self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], errors: Mapping[str, NtmServeError]
    ) -> Round:
        """As a round of those keys that have no error. Raises InvalidInput for what belongs to no single key."""
        ...

    def answers(self, made: Round) -> A_co:
        """What the round gave."""
        ...


class ByKey:
    """`{key: x}`: one step of a key, or T that are made all together or not at all. An x that is none is the
    error of its key.
    """

    def __init__(self, xs: Mapping[str, Inputs]) -> None:
        self.keys: Sequence[str] = list(xs)
        self._xs = xs
        self._refused: dict[str, NtmServeError] = {}
        # Whether each key has a single step; and the first row of each, and how many it has: None for a single
        # step that came without an axis T.
        self._single = False
        self._places: dict[str, tuple[int, int | None]] = {}

    def round(
        self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], errors: Mapping[str, NtmServeError]
    ) -> Round:
        self._refused = dict(errors)
        keys = [key for key in self.keys if key not in errors] if errors else self.keys
        stacked = _stacked([self._xs[key] for key in keys], inputs)
        self._single = stacked is not None
        if stacked is not None:
            self._places = {key: (row, None) for row, key in enumerate(keys)}
            return Round(stacked, outputs, [Stretch(key, (row,), True) for row, key in enumerate(keys)], len(keys))
        parts: dict[str, list[Array]] = {spec.name: [] for spec in inputs}
        stretches, rows = [], 0
        for key in keys:
            try:
                steps = steps_of(self._xs[key], inputs)
            except InvalidInput as error:
                self._refused[key] = error
                continue
            for name, array in steps.inputs.items():
                parts[name].append(array)
            self._places[key] = (rows, None if steps.single else steps.count)
            stretches.append(Stretch(key, range(rows, rows + steps.count), True))
            rows += steps.count
        joined = {name: np.concatenate(arrays) for name, arrays in parts.items()} if stretches else {}
        return Round(joined, outputs, stretches, rows)

    def answers(self, made: Round) -> dict[str, Answer]:
        for array in made.outputs.values():
            frozen(array)
        if self._single and len(made.outputs) == 1 and not made.errors and not self._refused:
            (array,) = made.outputs.values()
            return dict(zip(self.keys, array, strict=True))
        return {key: self._refused[key] if key in self._refused else self._answer(key, made) for key in self.keys}

    def _answer(self, key: str, made: Round) -> Answer:
        row, steps = self._places[key]
        if row in made.errors:
            return made.errors[row]
        if steps is None:
            return outputs_of({name: array[row] for name, array in made.outputs.items()}, single=False)
        return outputs_of({name: array[row : row + steps] for name, array in made.outputs.items()}, single=False)


class ByRow:
    """Keys, and x `[N, ...]` with one step for each: a row is a step, also where a key stands several times."""

    def __init__(self, keys: Sequence[str], x: Array | Mapping[str, Array]) -> None:
        self.keys = keys
        self._x = x
        self._refused: dict[int, NtmServeError] = {}

    def round(
        self, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], errors: Mapping[str, NtmServeError]
    ) -> Round:
        rows_of: dict[str, list[int]] = {}
        for row, key in enumerate(self.keys):
            if key in errors:
                self._refused[row] = errors[key]
            else:
                rows_of.setdefault(key, []).append(row)
        stretches = [Stretch(key, rows, False) for key, rows in rows_of.items()]
        return Round(self._arrays(inputs) if stretches else {}, outputs, stretches, len(self.keys))

    def answers(self, made: Round) -> Answers:
        outputs = {name: frozen(array) for name, array in made.outputs.items()}
        errors = dict(sorted((self._refused | made.errors).items()))
        return Answers(self.keys, frozen(made.steps), outputs, errors)

    def _arrays(self, specs: Sequence[TensorSpec]) -> dict[str, Array]:
        if not isinstance(self._x, Mapping) and len(specs) != 1:
            raise InvalidInput(f"inputs: expected a mapping with {[spec.name for spec in specs]}, got one array")
        given = self._x if isinstance(self._x, Mapping) else {specs[0].name: self._x}
        expect_names(specs, given, "inputs")
        arrays = {spec.name: np.asarray(given[spec.name]) for spec in specs}
        for spec in specs:
            array = arrays[spec.name]
            expect_tensor(spec, array, leading=("N",))
            if len(array) != len(self.keys):
                raise InvalidInput(f"{spec.name}: expected a row for each of {len(self.keys)} keys, got {len(array)}")
        return arrays


def _stacked(xs: Sequence[Inputs], specs: Sequence[TensorSpec]) -> dict[str, Array] | None:
    """All inputs as one array, where each is one step of the one input that there is, as `steps_of` would take it;
    None where one is not, or where nobody knows without a look at each.
    """
    if len(specs) != 1 or not xs:
        return None
    (spec,) = specs
    dtype, shape = spec.numpy_dtype, spec.shape
    if shape and all(isinstance(x, np.ndarray) and x.dtype == dtype and x.shape == shape for x in xs):
        # A third of the time of np.stack, which makes a view of each.
        joined: Array = np.concatenate(xs)  # type: ignore[arg-type]
        return {spec.name: joined.reshape(len(xs), *shape)}
    if not all(isinstance(x, list) for x in xs):
        return None
    try:
        array: Array = np.asarray(xs)
        if array.shape != (len(xs), *shape) or array.dtype.kind not in KINDS_TAKEN[dtype.kind]:
            return None
        with np.errstate(over="raise"):
            return {spec.name: np.asarray(xs, dtype)}
    except (ValueError, TypeError, ArithmeticError):
        return None
