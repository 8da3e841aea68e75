"""A step model checkable by hand: the state is the sum of all inputs, and so is the output."""

from collections.abc import Callable, Sequence

import numpy as np

from ntm_serve.errors import EngineFault
from ntm_serve.spec import Array, StateSpec, StepSpec, TensorSpec, frozen
from ntm_serve.step_model import BatchIndependence, ModelCard, State

# An input that makes the engine fail, as a bad index inside a graph does.
FAILING_INPUT = -666.0


class RunningSum:
    """total' = total + x, y = total'. Input x `[width]`, output y `[width]`, state total `[width]`.

    batches: the rows of every run, in order. before_run is called with the rows of each run, on the
    compute thread. An x of 3e38 twice overflows to infinity; one of FAILING_INPUT fails its whole batch.
    """

    def __init__(
        self,
        *,
        name: str = "running-sum",
        version: str = "1",
        width: int = 1,
        batch_max: int = 64,
        before_run: Callable[[int], None] | None = None,
    ) -> None:
        shape = (width,)
        self.card = ModelCard(name=name, version=version, family="running-sum", engine="numpy")
        self.spec = StepSpec(
            inputs=(TensorSpec("x", "float32", shape),),
            outputs=(TensorSpec("y", "float32", shape),),
            state=(StateSpec("total", "float32", shape, role="memory"),),
        )
        self.initial_state: State = (frozen(np.zeros(shape, np.float32)),)
        self.batch_max = batch_max
        self.batch_independence = BatchIndependence(holds=True, padding=1, rows_tested=batch_max)
        self.runs_inline = before_run is None
        self.batches: list[int] = []
        self._before_run = before_run

    def run(self, inputs: Sequence[Array], state: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """See StepModel.run."""
        self.batches.append(len(inputs[0]))
        if self._before_run is not None:
            self._before_run(len(inputs[0]))
        if (inputs[0] == FAILING_INPUT).any():
            raise EngineFault(f"running-sum: {FAILING_INPUT} was asked to fail")
        with np.errstate(over="ignore"):
            total = state[0] + inputs[0]
        return [total.copy()], [total]
