"""A ride: some steps of the same company, run one after another without anybody getting on or off.

Rules of this file: it runs on a compute thread, or on the event loop, and changes nothing; it returns rows, which
the event loop hands out. It ends early when somebody waits to get on, when a row must get off, or when nobody is
left. A row that fails, fails alone.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ntm_serve.errors import EngineFault, NonFiniteState, NtmServeError
from ntm_serve.spec import Array, all_finite, described
from ntm_serve.state import StateBlock, gather
from ntm_serve.step_model import StepModel
from ntm_serve.ticket import Ticket

# Steps of one ride: what is stacked beforehand stays small, and a cancelled ticket is noticed soon.
STEPS_MAX = 64


@dataclass(frozen=True, slots=True)
class Ride:
    """What a ride gave: steps made, outputs `[steps, rows, ...]` of each output, the states after the last
    step, an error or None for each place, and the engine's time.
    """

    steps: int
    outputs: Sequence[Array]
    block: StateBlock
    errors: Sequence[NtmServeError | None]
    compute_s: float


def run_ride(model: StepModel, company: Sequence[Ticket], somebody_waits: Callable[[], bool]) -> Ride:
    """As many steps as all of the company have left, until somebody waits; at least one.

    Raises nothing: what goes wrong is the error of its places.
    """
    try:
        return _run_ride(model, company, somebody_waits)
    except Exception as fault:  # The boundary: a fault of ours ends these tickets and not the scheduler.
        said = f"model {model.card.key}: a batch failed"
        error = EngineFault(f"{said}; the server's log says why", detail=f"{said}: {fault!r}")
        return Ride(0, [], StateBlock([], 0), [error] * len(company), 0.0)


def _run_ride(model: StepModel, company: Sequence[Ticket], somebody_waits: Callable[[], bool]) -> Ride:
    count = len(company)
    rows = -(-count // model.batch_independence.padding) * model.batch_independence.padding
    steps_max = min(STEPS_MAX, min([ticket.steps - ticket.steps_done for ticket in company]))
    inputs = [
        _stacked([ticket.inputs[i][ticket.steps_done : ticket.steps_done + steps_max] for ticket in company], rows)
        for i in range(len(model.spec.inputs))
    ]
    states = [ticket.session.state if ticket.state is None else ticket.state for ticket in company]
    state: Sequence[Array] = gather(states, rows)
    made: list[Sequence[Array]] = []
    errors: list[NtmServeError | None] = [None] * count
    started_s = time.perf_counter()
    while len(made) < steps_max and not any(errors):
        step = [array[len(made)] for array in inputs]
        try:
            ran = _checked_run(model, step, state)
        except EngineFault:  # Forgotten here, so that the faults of the rows do not lead to it.
            ran = None
        if ran is None and made:  # The next ride begins where this one ends, and meets the fault at its first step.
            break
        outputs, state = ran or _run_rows_alone(model, step, state, errors)
        made.append(outputs)
        for place in _non_finite_places(state, count):
            errors[place] = errors[place] or _refused(company[place], len(made) - 1)
        if len(made) < steps_max and (somebody_waits() or _nobody_rides(company)):
            break
    compute_s = time.perf_counter() - started_s
    together = [np.stack(arrays) if len(made) > 1 else arrays[0][np.newaxis] for arrays in zip(*made, strict=True)]
    return Ride(len(made), together, StateBlock(state, rows), errors, compute_s)


def _checked_run(
    model: StepModel, inputs: Sequence[Array], state: Sequence[Array]
) -> tuple[Sequence[Array], Sequence[Array]]:
    """A run whose arrays are what the specs say: a wrong one would be somebody's state before it was noticed."""
    outputs, following = model.run(inputs, state)
    rows, spec = len(inputs[0]), model.spec
    for one, array in zip(spec.given, (*outputs, *following), strict=True):
        if array.shape != (rows, *one.shape) or array.dtype != one.numpy_dtype:
            expected, actual = described(one.dtype, (rows, *one.shape)), described(array.dtype, array.shape)
            raise EngineFault(f"model {model.card.key}: {one.name}: expected {expected}, got {actual}")
    return outputs, following


def _nobody_rides(company: Sequence[Ticket]) -> bool:
    """Whether all of them were cancelled meanwhile: steps for nobody are not made."""
    return company[0].settled and all(ticket.settled for ticket in company)


def _stacked(parts: Sequence[Array], rows: int) -> Array:
    """The tickets' inputs `[steps, ...]` as `[steps, rows, ...]`, the rows at the end filled with the first."""
    batch = np.empty((len(parts[0]), rows, *parts[0].shape[1:]), parts[0].dtype)
    for row, part in enumerate(parts):
        batch[:, row] = part
    batch[:, len(parts) :] = batch[:, :1]
    return batch


def _run_rows_alone(
    model: StepModel, inputs: Sequence[Array], state: Sequence[Array], errors: list[NtmServeError | None]
) -> tuple[list[Array], list[Array]]:
    """The batch failed: run each row by itself, so that only the rows at fault fail."""
    padding = model.batch_independence.padding
    outputs = [np.zeros((len(inputs[0]), *spec.shape), spec.numpy_dtype) for spec in model.spec.outputs]
    following = [array.copy() for array in state]
    for row in range(len(errors)):
        copies = [row] * padding
        try:
            given, after = _checked_run(model, [array[copies] for array in inputs], [array[copies] for array in state])
        except EngineFault as fault:
            errors[row] = fault.with_traceback(None)  # It leads here, and so to every row's state.
            continue
        for kept, array in zip([*outputs, *following], [*given, *after], strict=True):
            kept[row] = array[0]
    return outputs, following


def _refused(ticket: Ticket, step: int) -> NonFiniteState:
    session = ticket.session
    return NonFiniteState(
        f"session {session.id}: step {ticket.first_step + ticket.steps_done + step}: expected a finite next state, "
        f"got NaN or infinity; the session stays at step {session.next_step}",
        fields={"expected_step": str(session.next_step)},
    )


def _non_finite_places(following: Sequence[Array], count: int) -> list[int]:
    """Places with NaN or infinity in any float tensor of the next state."""
    bad: set[int] = set()
    for array in following:
        if not all_finite(array):
            rows = np.isfinite(array[:count].reshape(count, -1)).all(axis=1)
            bad.update(int(row) for row in np.flatnonzero(~rows))
    return sorted(bad)
