"""Scoring a served model on a task, through the client SDK alone: what a card promises, anyone can measure.

Rules of this file: no torch; every sequence is a session of its own, so the server batches them as it would
anybody's; the same seed gives the same sequences, whatever order they are answered in.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ntm_models.errors import EvaluationFault
from ntm_models.tasks import OUTPUT, TASKS, Task, tensors_of
from ntm_models.tasks.episode import FloatArray
from ntm_serve.client import Client, ModelInfo

# Enough that the server's batches are full, and few enough that no thread waits for long.
SESSIONS_AT_ONCE = 32


@dataclass(frozen=True)
class Evaluation:
    """What a model scored on B sequences of one length.

    score: the mean per sequence: wrong bits or answers, as `unit` says, or of a task of chance the bits of cost beyond
    the optimum, where `cost` and `optimum` are the mean costs and otherwise None. exact: how many have nothing wrong;
    None where chance decides.
    """

    length: int
    steps: int
    sequences: int
    score: float
    exact: int | None
    cost: float | None = None
    optimum: float | None = None
    unit: str = "bits"


def evaluate(
    client: Client,
    model: str,
    task: Task,
    *,
    length: int,
    sequences: int,
    seed: int,
    version: str = "",
    advance: Callable[[], object] = lambda: None,
) -> Evaluation:
    """Run whole sequences through sessions of a served model and score them. advance: called after each.

    Raises EvaluationFault where the task has no such episodes, and what the client raises.
    """
    try:
        episodes = task.episodes(length=length, sequences=sequences, seed=seed)
    except ValueError as fault:
        raise EvaluationFault(str(fault)) from fault

    def outputs_of(nth: int) -> FloatArray:
        given = {name: array[nth] for name, array in episodes.initial_state.items()}
        with client.session(model, version=version, initial_state=given) as session:
            outputs = session.step({name: array[nth] for name, array in episodes.inputs.items()})
        advance()
        # A model with several outputs answers with a mapping.
        return np.asarray(outputs[OUTPUT] if isinstance(outputs, dict) else outputs, dtype=np.float32)

    with ThreadPoolExecutor(SESSIONS_AT_ONCE) as pool:
        outputs = np.stack(list(pool.map(outputs_of, range(sequences))))
    score = float(episodes.score(outputs).mean())
    if episodes.optimal is None:
        exact = int((episodes.wrong(outputs) == 0).sum())
        return Evaluation(length, episodes.steps, sequences, score, exact, unit=episodes.unit)
    cost, optimum = (float(episodes.cost_bits(given).mean()) for given in (outputs, episodes.optimal))
    return Evaluation(length, episodes.steps, sequences, score, None, cost, optimum)


def task_for(model: ModelInfo, name: str) -> Task:
    """The task by its name, or by that which the model says it learned. Raises EvaluationFault."""
    name = name or model.task
    if name not in TASKS:
        raise EvaluationFault(f"task: expected one of {', '.join(TASKS)}, got {name!r}")
    task = TASKS[name]()
    inputs, outputs = tensors_of(task)
    taken, given = ({one.name: one.layout for one in specs} for specs in (model.inputs, model.outputs))
    if taken != inputs:
        raise EvaluationFault(f"{model.name}: {name} needs the inputs {_listed(inputs)}, got {_listed(taken)}")
    if not outputs.items() <= given.items():
        raise EvaluationFault(f"{model.name}: {name} needs the output {_listed(outputs)}, got {_listed(given)}")
    return task


def _listed(tensors: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {described}" for name, described in tensors.items())
