"""A message of steps, checked: what it must be in itself, and against the spec of its sessions. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ntm_serve.errors import InvalidInput
from ntm_serve.spec import Array, StepSpec, all_finite, expect_finite, expect_names, expect_tensor


@dataclass(frozen=True, slots=True)
class StepRequest:
    """Steps of S sessions of one model, T of each.

    inputs: each `[S, T, ...]`. first_steps: the number of each session's first step, None for "the next
    one". output_names: what the replies shall carry, in this order; empty for every output.
    """

    session_ids: Sequence[str]
    first_steps: Sequence[int | None]
    inputs: Mapping[str, Array]
    output_names: Sequence[str] = ()


def expect_message(request: StepRequest, *, sessions_max: int, steps_max: int) -> None:
    """Refuse a message that cannot be read, whatever its sessions are. Raises InvalidInput."""
    ids = request.session_ids
    if not 1 <= len(ids) <= sessions_max:
        raise InvalidInput(
            f"session_ids: expected 1 to {sessions_max} sessions, got {len(ids)}",
            fields={"sessions_max": str(sessions_max)},
        )
    if len(set(ids)) != len(ids):
        raise InvalidInput("session_ids: expected each session once in a message")
    if len(request.first_steps) != len(ids):
        raise InvalidInput(f"first_steps: expected none or {len(ids)}, got {len(request.first_steps)}")
    if any(first is not None and first < 0 for first in request.first_steps):
        raise InvalidInput("first_steps: expected numbers of at least 0, or -1 for the next step")
    shapes = {array.shape[:2] for array in request.inputs.values()}
    if len(shapes) != 1:
        raise InvalidInput(f"inputs: expected one [S, T] for all, got {sorted(map(list, shapes))}")
    (shape,) = shapes
    if len(shape) != 2 or shape[0] != len(ids):
        raise InvalidInput(f"inputs: expected [S, T, ...] with S = {len(ids)} sessions, got {list(shape)}")
    if not 1 <= shape[1] <= steps_max:
        raise InvalidInput(
            f"inputs: expected 1 <= T <= {steps_max} steps, got T = {shape[1]}", fields={"steps_max": str(steps_max)}
        )


class Message:
    """A message against the specs of its sessions: each check is made once for all of them."""

    def __init__(self, request: StepRequest) -> None:
        self.request = request
        self._all_finite = all(all_finite(array) for array in request.inputs.values())
        # The spec that the message was found to fit, and the places of the outputs that it wants.
        self._spec: StepSpec | None = None
        self._wanted: Sequence[int] = ()

    def rows(self, spec: StepSpec, place: int) -> tuple[Array, ...]:
        """One session's inputs `[T, ...]`. Raises InvalidInput."""
        self.wanted(spec)
        # With several sessions a copy: the window of one would keep the bytes of all.
        alone = len(self.request.session_ids) == 1
        arrays = (self.request.inputs[one.name][place] for one in spec.inputs)
        rows = tuple(array if alone else array.copy() for array in arrays)
        if not self._all_finite:
            for one, array in zip(spec.inputs, rows, strict=True):
                expect_finite(one.name, array)
        return rows

    def wanted(self, spec: StepSpec) -> Sequence[int]:
        """The places of the wanted outputs, once the message fits the spec. Raises InvalidInput."""
        if self._spec is None:
            expect_names(spec.inputs, self.request.inputs, "inputs")
            for one in spec.inputs:
                array = self.request.inputs[one.name]
                expect_tensor(one, array, leading=("S", "T"))
            self._wanted = _wanted_outputs(spec, self.request.output_names)
            self._spec = spec
        elif self._spec is not spec and self._spec != spec:
            raise InvalidInput("session_ids: expected sessions of one model in a message, got several")
        return self._wanted


def _wanted_outputs(spec: StepSpec, names: Sequence[str]) -> Sequence[int]:
    if not names:
        return range(len(spec.outputs))
    place = {one.name: i for i, one in enumerate(spec.outputs)}
    unknown = [name for name in names if name not in place]
    if unknown or len(set(names)) != len(names):
        raise InvalidInput(f"output_names: expected some of {list(place)}, each once, got {list(names)}")
    return [place[name] for name in names]
