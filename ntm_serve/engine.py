"""The engine: one ONNX step on ONNX Runtime. The only file of the serving side that imports it.

Rules of this file: nothing of a session is kept here; a run is a pure function of its rows; what is
promised of batch independence was seen on this machine when the model was loaded.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnxruntime as ort

from ntm_serve.errors import EngineFault, ModelDamaged, ModelRejected
from ntm_serve.model_directory import Golden, ModelDirectory
from ntm_serve.spec import Array, StepSpec, TensorSpec
from ntm_serve.step_model import BatchIndependence, ModelCard, State

PROVIDER = "CPUExecutionProvider"
ORT_VERSION = ort.__version__

# Beyond this a recurrent step's state and temporaries leave the second-level cache, and the rate falls.
BATCH_MAX_DEFAULT = 64

# How far an ORT build on another machine may differ from the golden run, in units of the export's own
# tolerance: kernels chosen for other CPU features add up in another order.
GOLDEN_SLACK = 10.0

_DTYPE_OF_ORT = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16",
    "tensor(int8)": "int8", "tensor(int16)": "int16", "tensor(int32)": "int32", "tensor(int64)": "int64",
    "tensor(uint8)": "uint8", "tensor(uint16)": "uint16", "tensor(uint32)": "uint32", "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}  # fmt: skip

RunRows = Callable[[Sequence[Array], Sequence[Array]], tuple[list[Array], list[Array]]]


class OrtEngine:
    """A StepModel that runs the ONNX graph of a model directory on one CPU thread per run."""

    def __init__(
        self, directory: ModelDirectory, *, name: str, version: str, batch_max: int = BATCH_MAX_DEFAULT
    ) -> None:
        """Load the graph, check it against the manifest and the golden run, and find the padding.

        Raises ModelRejected, ModelDamaged.
        """
        self._session = _ort_session(directory)
        self._spec = directory.spec
        entries = directory.manifest
        self._feeds = [entry.name for entry in entries.inputs] + [entry.graph_input for entry in entries.state]
        self._fetches = [entry.name for entry in entries.outputs] + [entry.graph_output for entry in entries.state]
        _expect_graph(self._session, directory, self._feeds, self._fetches)
        self._initial_state = directory.initial_state
        self.golden_error = expect_golden(self._run_rows, directory)
        self._independence = find_batch_independence(self._run_rows, directory.golden, batch_max)
        self._card = ModelCard(
            name=name,
            version=version,
            family=entries.family,
            task=entries.task,
            licence=entries.provenance.licence,
            digest=directory.digest,
            engine=f"onnxruntime {ORT_VERSION} {PROVIDER}",
        )

    runs_inline = True

    @property
    def card(self) -> ModelCard:
        return self._card

    @property
    def spec(self) -> StepSpec:
        return self._spec

    @property
    def initial_state(self) -> State:
        return self._initial_state

    @property
    def batch_max(self) -> int:
        # Padded, a batch must not be larger than what was tested.
        return self._independence.rows_tested

    @property
    def batch_independence(self) -> BatchIndependence:
        return self._independence

    def run(self, inputs: Sequence[Array], state: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """See StepModel.run. Rows are padded to the multiple that makes their bits independent of company."""
        rows = len(inputs[0])
        missing = -rows % self._independence.padding
        if not missing:
            return self._run_rows(inputs, state)
        outputs, following = self._run_rows(padded(inputs, missing), padded(state, missing))
        return [array[:rows] for array in outputs], [array[:rows] for array in following]

    def _run_rows(self, inputs: Sequence[Array], state: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        try:
            fetched = self._session.run(self._fetches, dict(zip(self._feeds, [*inputs, *state], strict=True)))
        except Exception as fault:  # ORT raises a family of its own for every kernel; the boundary is here.
            raise EngineFault(f"onnxruntime: {fault}") from fault
        split = len(self._spec.outputs)
        return fetched[:split], fetched[split:]


def padded(arrays: Sequence[Array], missing: int) -> list[Array]:
    """The arrays with their first row repeated at the end: numbers of an ordinary size, unlike zeros,
    never slow and never a division by zero.
    """
    return [np.concatenate([array, np.repeat(array[:1], missing, axis=0)]) for array in arrays]


def find_batch_independence(run_rows: RunRows, golden: Golden, batch_max: int) -> BatchIndependence:
    """The smallest padding with which no row's bits depend on the batch size, its place or its company.

    Rows come from the golden run, so that they are what the model meets. Each is run alone, then in
    batches of every padded size up to batch_max, in another order each time.
    """
    padding = 1
    while padding <= batch_max:
        if _is_independent(run_rows, golden, padding, batch_max):
            return BatchIndependence(holds=True, padding=padding, rows_tested=batch_max // padding * padding)
        padding *= 2
    return BatchIndependence(holds=False, padding=1, rows_tested=batch_max)


def _is_independent(run_rows: RunRows, golden: Golden, padding: int, batch_max: int) -> bool:
    pool = np.arange(batch_max) % golden.steps
    inputs = [array[pool] for array in golden.inputs]
    state = [array[pool] for array in golden.state]
    alone = []
    for i in range(min(batch_max, golden.steps)):
        copies = np.full(padding, i)
        alone.append(_bits(run_rows, [a[copies] for a in inputs], [a[copies] for a in state])[0])
    random = np.random.default_rng(0)
    for rows in range(padding, batch_max + 1, padding):
        order = random.permutation(batch_max)[:rows]
        together = _bits(run_rows, [a[order] for a in inputs], [a[order] for a in state])
        if any(together[place] != alone[pool[i]] for place, i in enumerate(order)):
            return False
    return True


def _bits(run_rows: RunRows, inputs: Sequence[Array], state: Sequence[Array]) -> list[bytes]:
    """Everything that a run gives, row by row, as bytes."""
    outputs, following = run_rows(inputs, state)
    return [b"".join(array[row].tobytes() for array in [*outputs, *following]) for row in range(len(inputs[0]))]


def golden_error(run_rows: RunRows, golden: Golden) -> float:
    """The largest difference to the golden run, one step at a time from each recorded state."""
    worst = 0.0
    for step in range(golden.steps):
        outputs, following = run_rows(
            [array[step : step + 1] for array in golden.inputs], [array[step : step + 1] for array in golden.state]
        )
        wanted = [array[step] for array in golden.outputs] + [array[step + 1] for array in golden.state]
        differences = (largest_difference(a[0], b) for a, b in zip([*outputs, *following], wanted, strict=True))
        worst = max(worst, *differences)
    return worst


def largest_difference(actual: Array, wanted: Array) -> float:
    """The largest difference of two arrays, absolute or, beyond 1, relative; infinite where one is not a
    number and the other is.
    """
    a, b = np.asarray(actual, np.float64), np.asarray(wanted, np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.where(a == b, 0.0, np.abs(a - b) / np.maximum(1.0, np.abs(b)))
    difference = np.where(np.isnan(a) & np.isnan(b), 0.0, difference)
    return float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max(initial=0.0))


def expect_golden(run_rows: RunRows, directory: ModelDirectory) -> float:
    """Replay the golden run; returns its largest error. Raises ModelDamaged beyond the tolerance."""
    error = golden_error(run_rows, directory.golden)
    allowed = directory.manifest.verification.tolerance * GOLDEN_SLACK
    if not error <= allowed:
        raise ModelDamaged(f"{directory.path}: golden run: expected an error of at most {allowed:g}, got {error:g}")
    return error


def _ort_session(directory: ModelDirectory) -> ort.InferenceSession:
    options = ort.SessionOptions()
    # One thread per run: the server runs batches side by side, and a pool of ORT's own would be sized
    # by the host's cores and not by the container's.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(directory.model, options, providers=[PROVIDER])
    except Exception as fault:  # As above: whatever ORT has against a graph is the operator's to know.
        raise ModelRejected(f"{directory.path / 'model.onnx'}: onnxruntime refuses it: {fault}") from fault


def _expect_graph(
    session: ort.InferenceSession, directory: ModelDirectory, feeds: Sequence[str], fetches: Sequence[str]
) -> None:
    """Refuse a graph whose tensors differ from the manifest's, or whose batch axis is frozen."""
    spec = directory.spec
    for kind, names, specs, nodes in (
        ("inputs", feeds, [*spec.inputs, *spec.state], session.get_inputs()),
        ("outputs", fetches, [*spec.outputs, *spec.state], session.get_outputs()),
    ):
        graph = {node.name: node for node in nodes}
        if set(graph) != set(names):
            raise ModelRejected(f"{directory.path}: graph {kind}: expected {sorted(names)}, got {sorted(graph)}")
        for name, one in zip(names, specs, strict=True):
            _expect_node(directory, name, one, graph[name])


def _expect_node(directory: ModelDirectory, name: str, spec: TensorSpec, node: ort.NodeArg) -> None:
    shape = list(node.shape or [])
    if isinstance(shape[0] if shape else 0, int):
        raise ModelRejected(f"{directory.path}: {name}: expected a symbolic batch axis, got shape {shape}")
    dtype = _DTYPE_OF_ORT.get(node.type, node.type)
    sizes_fit = len(shape) == 1 + len(spec.shape) and all(
        not isinstance(actual, int) or actual == wanted for actual, wanted in zip(shape[1:], spec.shape, strict=True)
    )
    if dtype != spec.dtype or not sizes_fit:
        raise ModelRejected(f"{directory.path}: {name}: expected {spec} after the batch axis, got {dtype}{shape}")
