"""A model without state that is checkable by hand: the output is twice the input."""

from collections.abc import Callable, Sequence

from ntm_serve.errors import EngineFault
from ntm_serve.spec import Array, StepSpec, TensorSpec
from ntm_serve.step_model import BatchIndependence, ModelCard, State
from ntm_serve.testing.running_sum import FAILING_INPUT


class Doubling:
    """y = 2 x. Input x `[width]`, output y `[width]`, no state. batches and before_run as of RunningSum; an x of
    FAILING_INPUT fails its whole batch.
    """

    def __init__(
        self,
        *,
        name: str = "doubling",
        version: str = "1",
        width: int = 1,
        batch_max: int = 64,
        before_run: Callable[[int], None] | None = None,
    ) -> None:
        self.card = ModelCard(name=name, version=version, family="doubling", engine="numpy")
        self.spec = StepSpec(
            inputs=(TensorSpec("x", "float32", (width,)),), outputs=(TensorSpec("y", "float32", (width,)),), state=()
        )
        self.initial_state: State = ()
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
            raise EngineFault(f"doubling: {FAILING_INPUT} was asked to fail")
        return [inputs[0] * 2], []
