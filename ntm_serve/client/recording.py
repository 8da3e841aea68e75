"""Recordings: what went through a session, what came out, and what was in its memory, step by step.

Rules of this file: a recording is a value, and a file of it plain numpy; a step whose state nobody saw has none, and is
not made up.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ntm_serve.client.frames import Frame
from ntm_serve.errors import InvalidInput
from ntm_serve.spec import Array

if TYPE_CHECKING:
    from ntm_serve.client.conversion import Inputs, Outputs
    from ntm_serve.client.sync import Client, Session

_GROUPS = ("inputs", "outputs", "state")


@dataclass(frozen=True)
class Recording:
    """T steps of a session, the first of them number `first_step`.

    inputs, outputs: `[T, ...]` by name; not a number, or 0 of what is no float, where a step was not seen. state: `[F,
    ...]` by name, the states after the steps whose numbers are in `state_steps`, `[F]`. roles: of state, by name.
    """

    first_step: int
    inputs: dict[str, Array]
    outputs: dict[str, Array]
    state_steps: Array
    state: dict[str, Array]
    roles: dict[str, str] = field(default_factory=dict)
    title: str = ""

    @property
    def steps(self) -> int:
        """T; where no inputs and outputs were asked for, up to the last that has a state."""
        rows = next(iter((*self.inputs.values(), *self.outputs.values())), None)
        return int(self.state_steps[-1]) + 1 - self.first_step if rows is None else len(rows)

    def over_time(self, name: str) -> Array:
        """A state tensor after each of the T steps, `[T, ...]`, as floats; not a number where it was not seen."""
        state = self.state[name]
        kind = state.dtype if state.dtype.kind == "f" else np.dtype(np.float64)
        whole = np.full((self.steps, *state.shape[1:]), np.nan, kind)
        whole[self.state_steps - self.first_step] = state
        return whole

    def of_role(self, role: str) -> list[str]:
        """Names of the state tensors that mean this, as "read_weighting"."""
        return [name for name in self.state if self.roles.get(name) == role]

    def save(self, path: Path | str) -> None:
        """Write it as numpy's archive, `.npz`."""
        arrays = {f"{group}/{name}": array for group in _GROUPS for name, array in getattr(self, group).items()}
        roles = {f"roles/{name}": np.array(role) for name, role in self.roles.items()}
        facts = {"first_step": np.array(self.first_step), "title": np.array(self.title)}
        parts: dict[str, Any] = {**arrays, **roles, **facts, "state_steps": self.state_steps}
        with Path(path).open("wb") as file:
            np.savez_compressed(file, **parts)

    @classmethod
    def load(cls, path: Path | str) -> "Recording":
        """Read what `save` wrote. Raises InvalidInput."""
        try:
            with np.load(path, allow_pickle=False) as archive:
                parts: dict[str, dict[str, Array]] = {group: {} for group in (*_GROUPS, "roles")}
                for name in archive.files:
                    group, _, tensor = name.partition("/")
                    if tensor:
                        parts[group][tensor] = archive[name]
                return cls(
                    first_step=int(archive["first_step"]),
                    inputs=parts["inputs"],
                    outputs=parts["outputs"],
                    state_steps=archive["state_steps"],
                    state=parts["state"],
                    roles={name: str(role) for name, role in parts["roles"].items()},
                    title=str(archive["title"]),
                )
        except (OSError, ValueError, KeyError) as fault:
            raise InvalidInput(f"recording: expected one that `save` wrote at {path}, got: {fault}") from fault


def record(
    client: "Client", session: "Session", xs: "Iterable[Inputs] | Mapping[str, Array]", *tensors: str
) -> Recording:
    """Step a session, one x a message, and keep what is in its memory after each. xs: what `Session.step` takes, a step
    each, or every input by its name, `[T, ...]`. tensors: names or roles; none is all.
    Every step has its state, whole. Raises as Session.step.
    """
    model = client.model(session.model, session.version)
    roles = {spec.name: role for spec, role in zip(model.state, model.roles, strict=True)}
    names = [name for name, role in roles.items() if not tensors or name in tensors or role in tensors]
    if not names:
        raise InvalidInput(f"tensors: expected names or roles of {roles}, got {list(tensors)}")
    first_step, given, answers, states = session.next_step, [], [], []
    if isinstance(xs, Mapping):
        xs = [dict(zip(xs, row, strict=True)) for row in zip(*xs.values(), strict=True)]
    for x in xs:
        answers.append(session.step(x))
        given.append(x)
        states.append(session.state(*names))
    if not states:
        raise InvalidInput("recording: expected at least one step, got none")
    return Recording(
        first_step=first_step,
        inputs=_stacked([_by_name(x, session.inputs[0].name) for x in given]),
        outputs=_stacked([_by_name(y, session.outputs[0].name) for y in answers]),
        state_steps=first_step + np.arange(len(states)),
        state=_stacked(states),
        roles={name: roles[name] for name in names},
        title=f"{session.model}/{session.version}",
    )


def recording_of(frames: Iterable[Frame], *, steps: int, title: str = "") -> Recording:
    """What was seen of a session that another steps, from the first frame on, until so many steps were made, or frames
    end. A session that is rewound meanwhile is recorded as it went on. Tensors are as large as they were asked for.
    """
    first_step: int | None = None
    rows: dict[str, dict[int, Any]] = {}
    states: dict[int, Any] = {}
    roles: dict[str, str] = {}
    for frame in frames:
        if first_step is None:
            first_step = frame.first_step
        for known in (*rows.values(), states):  # What it was taken back from is not what it went through.
            for step in [step for step in known if step >= frame.next_step]:
                del known[step]
        for group, pictures in (("inputs", frame.inputs), ("outputs", frame.outputs)):
            for name, picture in pictures.items():
                seen = rows.setdefault(f"{group}/{name}", {})
                seen.update(zip(range(frame.first_step, frame.next_step), picture.array, strict=True))
        if frame.next_step > first_step:
            states[frame.next_step - 1] = {name: picture.array for name, picture in frame.state.items()}
            roles |= {name: picture.role for name, picture in frame.state.items()}
        if frame.next_step - first_step >= steps:
            break
    if first_step is None or not states:
        raise InvalidInput("recording: expected at least one step, got none")
    state_steps = np.array(sorted(states))
    count = int(state_steps[-1]) + 1 - first_step
    whole = {name: _rows(seen, first_step, count) for name, seen in rows.items()}
    return Recording(
        first_step=first_step,
        inputs=_group(whole, "inputs"),
        outputs=_group(whole, "outputs"),
        state_steps=state_steps,
        state=_stacked([states[step] for step in state_steps]),
        roles=roles,
        title=title,
    )


def _by_name(given: "Inputs | Outputs", name: str) -> dict[str, Array]:
    if isinstance(given, Mapping):
        return {key: np.asarray(value) for key, value in given.items()}
    return {name: np.asarray(given)}


def _stacked(rows: list[dict[str, Array]]) -> dict[str, Array]:
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}


def _rows(seen: dict[int, Any], first_step: int, count: int) -> Array:
    """The rows of so many steps; of those that were not seen what says so."""
    one: Array = next(iter(seen.values()))
    whole = np.full((count, *one.shape), np.nan if one.dtype.kind == "f" else 0, one.dtype)
    for step, row in seen.items():
        if 0 <= step - first_step < count:
            whole[step - first_step] = row
    return whole


def _group(whole: dict[str, Array], group: str) -> dict[str, Array]:
    return {name.partition("/")[2]: array for name, array in whole.items() if name.startswith(f"{group}/")}
