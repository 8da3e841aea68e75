"""The proof: the graph, run by the server's own engine, is the same function as the step in torch.

Rules of this file: both sides are a `RunRows`, rows in and rows out, and nothing here knows which side
is which but the messages; torch is right by definition. What gates is one step at a time from torch's
own state, and the task's score; a free run is measured and never a gate, because a memory amplifies
what it is given and two right programs drift apart.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ntm_exporter.contract import Step, called, nothing_given
from ntm_exporter.errors import NonFiniteFault, ParityFault, ScoreFault
from ntm_models.tasks import OUTPUT, Episodes, Task
from ntm_serve.engine import OrtEngine, RunRows, largest_difference
from ntm_serve.manifest import ScoreEntry
from ntm_serve.model_directory import Golden, ModelDirectory
from ntm_serve.sizes import Sizes
from ntm_serve.spec import Array, StepSpec, TensorSpec, described, frozen
from ntm_serve.step_model import State

# One row, the batches on both sides of a vector register, and the largest that the server runs.
BATCH_SIZES = (1, 2, 7, 64)

# Long enough for a whole copy of 20 and the start of another.
PARITY_STEPS = 64
DRIFT_STEPS = 1_000

# At other sizes of the state, of which the largest may be a hundred times the model's own.
SIZED_BATCH_SIZES = (1, 2, 7)
SIZED_STEPS = 32

# A golden run is replayed at each load and lies in each model directory: long enough to use the memory.
GOLDEN_STEPS, GOLDEN_STEPS_MIN = 32, 4
GOLDEN_BYTES_MAX = 2 << 20

SCORE_SEED = 2014
SCORE_ROWS = 50

# An output this near to the threshold has no bit that two float32 programs must agree on.
UNDECIDED = 1e-4

Examples = Callable[[int, int], Mapping[str, Array]]

# State tensors that the session of that seed's example is given when it opens.
Given = Callable[[int], Mapping[str, Array]]


@dataclass(frozen=True)
class Parity:
    """The largest difference of one step, over all batch sizes, steps and tensors."""

    batch_sizes: tuple[int, ...]
    steps: int
    error_max: float


@dataclass(frozen=True)
class Drift:
    """The largest difference of a free run. None where a side left the finite numbers, at `steps`."""

    steps: int
    error_max: float | None


@dataclass(frozen=True)
class Score:
    """The manifest's entry, and how many of torch's outputs were too near to the threshold to be bits or answers,
    whichever the task's unit is.
    """

    entry: ScoreEntry
    undecided: int
    unit: str = "bits"


def torch_rows(step: Step, spec: StepSpec) -> RunRows:
    """The step in torch, as the engine is called."""

    def run(inputs: Sequence[Array], state: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        outputs, following = called(step, _named(spec.inputs, inputs), _named(spec.state, state))
        return [outputs[one.name] for one in spec.outputs], [following[one.name] for one in spec.state]

    return run


def engine_rows(directory: ModelDirectory, *, name: str, version: str) -> RunRows:
    """The server's engine, as the server builds and calls it. Raises ModelRejected, ModelDamaged."""
    return OrtEngine(directory, name=name, version=version, batch_max=max(BATCH_SIZES)).run


def golden_steps(spec: StepSpec) -> int:
    """How many steps of this model's state a golden run can hold."""
    return max(GOLDEN_STEPS_MIN, min(GOLDEN_STEPS, GOLDEN_BYTES_MAX // max(1, spec.state_bytes)))


def begun(spec: StepSpec, initial: State, given: Mapping[str, Array]) -> State:
    """The state of a session that begins with the model's own but for what it is given."""
    return tuple(given.get(one.name, array) for one, array in zip(spec.state, initial, strict=True))


def record_golden(wanted: RunRows, spec: StepSpec, initial: State, inputs: Mapping[str, Array]) -> Golden:
    """Torch's own run of one session: what the server replays is compared with the source of truth.

    Raises NonFiniteFault.
    """
    state = _repeated(initial, 1)
    outputs_of, state_of = [], [state]
    for at in range(len(next(iter(inputs.values())))):
        outputs, state = wanted([inputs[one.name][at : at + 1] for one in spec.inputs], state)
        _expect_finite(spec, [*outputs, *state], f"golden run, step {at}, torch")
        outputs_of.append(outputs)
        state_of.append(state)
    return Golden(
        inputs=tuple(frozen(np.array(inputs[one.name])) for one in spec.inputs),
        outputs=tuple(frozen(np.concatenate(one)) for one in zip(*outputs_of, strict=True)),
        state=tuple(frozen(np.concatenate(one)) for one in zip(*state_of, strict=True)),
    )


def one_step_parity(
    wanted: RunRows, actual: RunRows, *, spec: StepSpec, initial: State, examples: Examples, tolerance: float,
    given: Given = nothing_given, batch_sizes: Sequence[int] = BATCH_SIZES, steps: int = PARITY_STEPS,
) -> Parity:  # fmt: skip
    """Compare each step from torch's own state, along B different sessions. Raises ParityFault, NonFiniteFault."""
    worst = 0.0
    runs = [examples(steps, seed) for seed in range(max(batch_sizes))]
    first = [begun(spec, initial, given(seed)) for seed in range(max(batch_sizes))]
    for rows in batch_sizes:
        inputs = [np.stack([run[one.name] for run in runs[:rows]], axis=1) for one in spec.inputs]
        state = [np.stack(arrays) for arrays in zip(*first[:rows], strict=True)]
        for at in range(steps):
            where = f"batch of {rows}, step {at}"
            fed = [array[at] for array in inputs]
            outputs, following = wanted(fed, state)
            _expect_finite(spec, [*outputs, *following], f"{where}, torch")
            got_outputs, got_following = actual(fed, state)
            _expect_finite(spec, [*got_outputs, *got_following], f"{where}, the server's engine")
            pairs = zip(_names(spec), [*got_outputs, *got_following], [*outputs, *following], strict=True)
            worst = max([worst, *(_expect_equal(name, a, b, where, tolerance) for name, a, b in pairs)])
            state = following
    return Parity(tuple(batch_sizes), steps, worst)


def parity_at_sizes(
    wanted: RunRows, directory: ModelDirectory, *, sizes: Sizes, examples: Examples, tolerance: float
) -> Parity:
    """As one_step_parity, with a state of other sizes, as a server runs sessions that chose them. Raises ParityFault,
    NonFiniteFault, ModelRejected, ModelDamaged.
    """
    engine = OrtEngine(directory, name=directory.path.name, version="1", batch_max=max(SIZED_BATCH_SIZES) + 1)
    resized = engine.resized(sizes)
    spec, initial = resized.spec, resized.initial_state
    try:
        return one_step_parity(
            wanted, resized.run, spec=spec, initial=initial, examples=examples, tolerance=tolerance,
            batch_sizes=SIZED_BATCH_SIZES, steps=SIZED_STEPS,
        )  # fmt: skip
    except (ParityFault, NonFiniteFault) as fault:
        raise type(fault)(f"at sizes {dict(sizes)}: {fault}") from fault


def free_drift(
    wanted: RunRows,
    actual: RunRows,
    *,
    spec: StepSpec,
    initial: State,
    examples: Examples,
    given: Given = nothing_given,
    steps: int = DRIFT_STEPS,
) -> Drift:
    """Let both sides run on their own state over one session, and measure. Refuses nothing."""
    inputs, worst = examples(steps, 0), 0.0
    state_wanted = state_actual = _repeated(begun(spec, initial, given(0)), 1)
    for at in range(steps):
        fed = [inputs[one.name][at : at + 1] for one in spec.inputs]
        outputs, state_wanted = wanted(fed, state_wanted)
        got, state_actual = actual(fed, state_actual)
        a, b = [*got, *state_actual], [*outputs, *state_wanted]
        if not all(np.isfinite(array).all() for array in (*a, *b) if array.dtype.kind == "f"):
            return Drift(at, None)
        worst = max([worst, *(largest_difference(x, y) for x, y in zip(a, b, strict=True))])
    return Drift(steps, worst)


def score(
    wanted: RunRows, actual: RunRows, *, spec: StepSpec, initial: State, task: Task, length: int, sequences: int
) -> Score:
    """The task's wrong bits or answers by both sides on the same sequences. Raises ScoreFault, NonFiniteFault.

    The count of each sequence must be equal, but for as many as torch gave outputs within UNDECIDED of the
    threshold.
    """
    episodes = task.episodes(length=length, sequences=sequences, seed=SCORE_SEED)
    where = f"task of length {length}"
    by_torch = _outputs(wanted, spec, initial, episodes, f"{where}, torch")
    by_engine = _outputs(actual, spec, initial, episodes, f"{where}, the server's engine")
    wrong_torch, wrong_engine = episodes.wrong(by_torch), episodes.wrong(by_engine)
    undecided = episodes.undecided(by_torch, UNDECIDED)
    unexplained = np.flatnonzero(np.abs(wrong_torch - wrong_engine) > undecided)
    if len(unexplained):
        first = int(unexplained[0])
        raise ScoreFault(
            f"{where}, sequence {first}: expected torch's {wrong_torch[first]} wrong {episodes.unit}, got "
            f"{wrong_engine[first]} through the server's engine, with {undecided[first]} outputs within "
            f"{UNDECIDED:g} of the threshold; {len(unexplained)} of {sequences} sequences differ so"
        )
    entry = ScoreEntry(
        length=length,
        sequences=sequences,
        seed=SCORE_SEED,
        wrong_bits_torch=float(wrong_torch.mean()),
        wrong_bits_engine=float(wrong_engine.mean()),
        exact_engine=int((wrong_engine == 0).sum()),
        cost_bits_engine=None if episodes.optimal is None else float(episodes.cost_bits(by_engine).mean()),
        cost_bits_optimal=None if episodes.optimal is None else float(episodes.cost_bits(episodes.optimal).mean()),
    )
    return Score(entry, int(undecided.sum()), episodes.unit)


def _outputs(run_rows: RunRows, spec: StepSpec, initial: State, episodes: Episodes, where: str) -> Array:
    """The outputs that are scored of whole sequences, `[B, T, O]`."""
    inputs = [episodes.inputs[one.name] for one in spec.inputs]
    scored, parts = [one.name for one in spec.outputs].index(OUTPUT), []
    for start in range(0, len(episodes.x), SCORE_ROWS):
        rows = [array[start : start + SCORE_ROWS] for array in inputs]
        own = zip(spec.state, _repeated(initial, len(rows[0])), strict=True)
        begins = {name: array[start : start + SCORE_ROWS] for name, array in episodes.initial_state.items()}
        state, given = [begins.get(one.name, array) for one, array in own], []
        for at in range(episodes.steps):
            outputs, state = run_rows([np.ascontiguousarray(one[:, at]) for one in rows], state)
            _expect_finite(spec, [*outputs, *state], f"{where}, step {at}")
            given.append(outputs[scored])
        parts.append(np.stack(given, axis=1))
    return np.concatenate(parts)


def _expect_equal(name: str, actual: Array, wanted: Array, where: str, tolerance: float) -> float:
    """The difference of one tensor. Raises ParityFault beyond the tolerance."""
    if (actual.dtype, actual.shape) != (wanted.dtype, wanted.shape):
        raise ParityFault(
            f"{name}: {where}: expected torch's {described(wanted.dtype, wanted.shape)}, "
            f"got {described(actual.dtype, actual.shape)}"
        )
    error = largest_difference(actual, wanted)
    if not error <= tolerance:
        raise ParityFault(f"{name}: {where}: expected torch's values within {tolerance:g}, got {error:g} of difference")
    return error


def _expect_finite(spec: StepSpec, arrays: Sequence[Array], where: str) -> None:
    for name, array in zip(_names(spec), arrays, strict=True):
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            at = np.argwhere(~np.isfinite(array))[0]
            raise NonFiniteFault(
                f"{name}: {where}: expected finite numbers, got {array[tuple(at)]} in row {at[0]} at {at[1:].tolist()}"
            )


def _names(spec: StepSpec) -> list[str]:
    return [one.name for one in spec.outputs] + [f"next {one.name}" for one in spec.state]


def _named(specs: Sequence[TensorSpec], arrays: Sequence[Array]) -> dict[str, Array]:
    return {one.name: array for one, array in zip(specs, arrays, strict=True)}


def _repeated(initial: State, rows: int) -> list[Array]:
    """The first state of B sessions."""
    return [np.repeat(array[np.newaxis], rows, axis=0) for array in initial]
