"""Scoring a served model on a task, through the client SDK alone: what a card promises, anyone can measure.

Rules of this file: no torch; every sequence is a session of its own, so the server batches them as it would
anybody's; the same seed gives the same sequences, whatever order they are answered in.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from ntm_models.errors import EvaluationFault
from ntm_models.tasks import TASKS, Task
from ntm_models.tasks.episode import FloatArray
from ntm_serve.client import Client, ModelInfo

# Enough that the server's batches are full, and few enough that no thread waits for long.
SESSIONS_AT_ONCE = 32


@dataclass(frozen=True)
class Evaluation:
    """What a model scored on B sequences of one length, in bits.

    score: the mean per sequence: wrong bits, or of a task of chance those of cost beyond the optimum, where
    `cost` and `optimum` are the mean costs and otherwise None. exact: how many have no wrong bit; None where
    chance decides.
    """

    length: int
    steps: int
    sequences: int
    score: float
    exact: int | None
    cost: float | None = None
    optimum: float | None = None


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

    def outputs_of(x: FloatArray) -> FloatArray:
        with client.session(model, version=version) as session:
            outputs = np.asarray(session.step(x), dtype=np.float32)
        advance()
        return outputs

    with ThreadPoolExecutor(SESSIONS_AT_ONCE) as pool:
        outputs = np.stack(list(pool.map(outputs_of, episodes.x)))
    score = float(episodes.score(outputs).mean())
    if episodes.optimal is None:
        exact = int((episodes.wrong_bits(outputs) == 0).sum())
        return Evaluation(length, episodes.x.shape[1], sequences, score, exact)
    cost, optimum = (float(episodes.cost_bits(given).mean()) for given in (outputs, episodes.optimal))
    return Evaluation(length, episodes.x.shape[1], sequences, score, None, cost, optimum)


def task_for(model: ModelInfo, name: str) -> Task:
    """The task by its name, or by that which the model says it learned. Raises EvaluationFault."""
    name = name or model.task
    if name not in TASKS:
        raise EvaluationFault(f"task: expected one of {', '.join(TASKS)}, got {name!r}")
    task = TASKS[name]()
    expected = {"input": (task.inputs,), "output": (task.outputs,)}
    specs = {"input": model.inputs, "output": model.outputs}
    for kind, shape in expected.items():
        if [one.shape for one in specs[kind]] != [shape]:
            given = ", ".join(str(one) for one in specs[kind])
            raise EvaluationFault(f"{model.name}: {name} needs one {kind} of {shape[0]} channels, got {given}")
    return task
