"""A message of steps, checked: what it must be in itself, and against the spec of its sessions. Pure."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ntm_serve.errors import InvalidInput, TooLarge
from ntm_serve.spec import Array, StepSpec, all_finite, all_within, expect_names, expect_numbers, expect_tensor


class StepRequest(NamedTuple):
    """Steps of S sessions of one model, T of each.

    inputs: each `[S, T, ...]`. first_steps: the number of each session's first step, None for "the next
    one". output_names: what the replies shall carry, in this order; empty for every output.
    """

    session_ids: Sequence[str]
    first_steps: Sequence[int | None]
    inputs: Mapping[str, Array]
    output_names: Sequence[str] = ()


class Message:
    """A message of steps, and how it fits the spec of its sessions, which are of one model: each check is made
    once for all of them. steps: T. wanted: the places of the outputs that it asks for, once it was found to fit.
    """

    __slots__ = ("_all_fit", "_arrays", "_spec", "request", "steps", "wanted")

    def __init__(
        self, request: StepRequest, *, sessions_max: int, steps_max: int, steps_limit: str = "steps_per_message_max"
    ) -> None:
        """Refuse a message that cannot be read, whatever its sessions are. Raises InvalidInput, TooLarge."""
        ids, numbers = request.session_ids, request.first_steps
        count = len(ids)
        if not count:
            raise InvalidInput(f"session_ids: expected 1 to {sessions_max} sessions, got 0")
        if count > sessions_max:
            raise TooLarge.beyond(
                "sessions_per_message_max",
                f"session_ids: expected 1 to {sessions_max} sessions, got {count}",
                expected=sessions_max,
                actual=count,
            )
        if count > 1 and len(set(ids)) != count:
            raise InvalidInput("session_ids: expected each session once in a message")
        if len(numbers) != count:
            raise InvalidInput(f"first_steps: expected none or {count}, got {len(numbers)}")
        for number in numbers:
            if number is not None and number < 0:
                raise InvalidInput(
                    f"first_steps: expected numbers of at least 0, or -1 for the next step, got {number}"
                )
        self.request = request
        self.steps = _steps(request.inputs, count)
        if not 1 <= self.steps <= steps_max:
            wrong = f"inputs: expected 1 <= T <= {steps_max} steps, got T = {self.steps}"
            if not self.steps:
                raise InvalidInput(wrong)
            raise TooLarge.beyond(steps_limit, wrong, expected=steps_max, actual=self.steps)
        self.wanted: Sequence[int] = ()
        self._spec: StepSpec | None = None
        self._arrays: tuple[Array, ...] = ()
        self._all_fit = False

    def expect(self, spec: StepSpec) -> None:
        """Refuse a message that does not fit the spec. Raises InvalidInput."""
        if self._spec is None:
            inputs = self.request.inputs
            expect_names(spec.inputs, inputs, "inputs")
            arrays, fit = [], True
            for one in spec.inputs:
                array = inputs[one.name]
                # As expect_tensor, but without a call where all is well.
                if array.shape[2:] != one.shape or array.dtype != one.numpy_dtype:
                    expect_tensor(one, array, leading=("S", "T"))
                fit = fit and all_finite(array)
                arrays.append(array)
            for place, bounds in spec.ranged:
                fit = fit and all_within(arrays[place], bounds)
            self._arrays, self._all_fit = tuple(arrays), fit
            self.wanted = wanted_outputs(spec, self.request.output_names)
            self._spec = spec
        # Of one model are also those whose state has another size.
        elif self._spec is not spec and self._spec.inputs is not spec.inputs:
            if self._spec != spec:
                raise InvalidInput("session_ids: expected sessions of one model in a message, got several")
            self._all_fit = self._all_fit and self._spec.ranged == spec.ranged

    def rows(self, place: int, spec: StepSpec) -> tuple[Array, ...]:
        """One session's inputs `[T, ...]`, after `expect` of its spec. Raises InvalidInput."""
        rows = tuple([array[place] for array in self._arrays])
        if not self._all_fit:
            for one, array in zip(spec.inputs, rows, strict=True):
                expect_numbers(one, array)
        return rows


def _steps(inputs: Mapping[str, Array], count: int) -> int:
    """T of `[S, T, ...]`, the same for all. Raises InvalidInput."""
    leading: tuple[int, ...] | None = None
    for array in inputs.values():
        axes = array.shape[:2]
        if leading is None:
            leading = axes
        elif axes != leading:
            raise InvalidInput(f"inputs: expected one [S, T] for all, got {list(leading)} and {list(axes)}")
    if leading is None:
        raise InvalidInput("inputs: expected at least one, got none")
    if len(leading) != 2 or leading[0] != count:
        raise InvalidInput(f"inputs: expected [S, T, ...] with S = {count} sessions, got {list(leading)}")
    return leading[1]


def wanted_outputs(spec: StepSpec, names: Sequence[str]) -> Sequence[int]:
    """The places of the outputs that are asked for; all where none is named. Raises InvalidInput."""
    if not names:
        return range(len(spec.outputs))
    place = {one.name: i for i, one in enumerate(spec.outputs)}
    unknown = [name for name in names if name not in place]
    if unknown or len(set(names)) != len(names):
        raise InvalidInput(f"output_names: expected some of {list(place)}, each once, got {list(names)}")
    return [place[name] for name in names]
