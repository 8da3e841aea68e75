"""The engine: one ONNX step on ONNX Runtime. The only file of the serving side that imports it.

Rules of this file: nothing of a session is kept here; a run is a pure function of its rows; what is
promised of batch independence was seen on this machine when the model was loaded.
"""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import count, takewhile
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import onnxruntime as ort

from ntm_serve.batch_size import Run, best_size, measured_run_s, sizes_within
from ntm_serve.errors import EngineFault, ModelDamaged, ModelRejected, SettingsFault
from ntm_serve.manifest import MODEL_FILE
from ntm_serve.model_directory import Golden, ModelDirectory
from ntm_serve.sizes import Sizes, sized_spec, sized_state
from ntm_serve.spec import Array, StateSpec, StepSpec, TensorSpec, all_finite
from ntm_serve.step_model import BatchIndependence, ModelCard, ModelKey, State

ORT_VERSION = ort.__version__

# Where a graph looks for weights that are not in its file. Otherwise that is the folder that the process happens to be
# in: no directory vouches for what is there. As a file is no folder, nothing is found.
OTHER_FILES_KEY, NO_FOLDER = "session.model_external_initializers_file_folder_path", os.devnull

# Some of its packages tell their makers what they run.
ort.disable_telemetry_events()


class ExecutionProvider(NamedTuple):
    """What runs the graph: its name in ONNX Runtime, the package that brings it, and its options."""

    name: str
    package: str
    options: Mapping[str, str]


# By the word of the setting. Where a provider would round for speed it is told not to: the golden run decides.
EXECUTION_PROVIDERS = {
    "cpu": ExecutionProvider("CPUExecutionProvider", "onnxruntime", {}),
    "openvino": ExecutionProvider(
        "OpenVINOExecutionProvider",
        "onnxruntime-openvino",
        {"device_type": "CPU", "precision": "ACCURACY", "num_of_threads": "1"},
    ),
    "cuda": ExecutionProvider("CUDAExecutionProvider", "onnxruntime-gpu", {"use_tf32": "0"}),
}

# Up to here the self-test tries every size; beyond, so many of each doubling, or it would take longer than all else.
EVERY_SIZE_UP_TO = 64
SIZES_A_DOUBLING = 8

# A row by itself, and the last of an odd number, may be another kernel's. With one of the zoo's models that shows in
# one row of a thousand: too seldom for a test at load to meet, so no run is of an odd number of rows.
PADDING_MIN = 2

# How many rows the self-test compares at least, of each size and in all: where kernels add up in another order it
# shows in some rows alone. The golden run's inputs are paired with its states in so many ways.
ROWS_A_SIZE = 64
ROWS_IN_ALL = 512
PAIRINGS = 4

# Of the states of the run that a size is tested with, each of which the test holds some times: so many bytes, but two
# states at least.
EXAMPLE_BYTES_MAX = 64 << 20
EXAMPLE_STEPS_MIN = 2

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
    """A StepModel that runs the ONNX graph of a model directory on one CPU thread per run, or on a device."""

    def __init__(
        self,
        directory: ModelDirectory,
        *,
        name: str,
        version: str,
        batch_max: int | None = None,
        execution_provider: str = "cpu",
    ) -> None:
        """Load the graph, check it against the manifest and the golden run, and find the padding.

        batch_max: the most rows of a run; None is what makes the most steps a second here, measured. Raises
        ModelRejected, ModelDamaged, and SettingsFault where the execution provider is not installed.
        """
        provider = find_execution_provider(execution_provider)
        # The others wait, for threads of their own or a device.
        self.runs_inline = execution_provider == "cpu"
        self._key = ModelKey(name, version)
        self._session = _ort_session(directory.model, directory.path / MODEL_FILE, provider)
        self._spec = directory.spec
        entries = directory.manifest
        self._feeds = [entry.name for entry in entries.inputs] + [entry.graph_input for entry in entries.state]
        self._fetches = [entry.name for entry in entries.outputs] + [entry.graph_output for entry in entries.state]
        _expect_graph(self._session, directory, self._feeds, self._fetches)
        self._initial_state = directory.initial_state
        self.golden_error = expect_golden(self._run_rows, directory)
        self.run_s: Mapping[int, float] = {}
        if batch_max is None:
            sizes = sizes_within(directory.spec.step_bytes + 2 * directory.spec.state_bytes)
            self.run_s = measured_run_s(self._golden_run_of(directory.golden), sizes)
            self._release_memory(directory.golden)
            batch_max = best_size(self.run_s, sizes)
        self._independence = find_batch_independence(self._run_rows, directory.golden, batch_max)
        # What a state of another size is tested with.
        self._example = directory.golden.inputs if directory.spec.axes else ()
        self._card = ModelCard(
            name=name,
            version=version,
            family=entries.family,
            task=entries.task,
            licence=entries.provenance.licence,
            digest=directory.digest,
            engine=f"onnxruntime {ORT_VERSION} {provider.name}",
        )

    def resized(self, sizes: Sizes) -> Self:
        """See ResizableModel.resized. The golden run's inputs lead to the states that it is tested with."""
        other = copy.copy(self)
        other._spec = sized_spec(self._spec, sizes)
        other._initial_state = sized_state(self._spec, self._initial_state, sizes)
        spec = other._spec
        steps = max(EXAMPLE_STEPS_MIN, EXAMPLE_BYTES_MAX // max(1, spec.state_bytes))
        golden = _recorded(other._run_rows, [array[:steps] for array in self._example], other._initial_state)
        for one, array in zip(spec.state, golden.state, strict=True):
            if array.shape[1:] != one.shape or not all_finite(array):
                raise ModelRejected(
                    f"model {self._card.key}: at sizes {dict(sizes)}: {one.name}: expected finite {one}"
                )
        # A state that is many times the model's own must not make batches that memory has no room for.
        rows_max = min(self.batch_max, max(sizes_within(spec.step_bytes + 2 * spec.state_bytes)))
        other._independence = find_batch_independence(other._run_rows, golden, rows_max)
        other._release_memory(golden)
        return other

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

    def _golden_run_of(self, golden: Golden) -> Callable[[int], Run]:
        """A run of so many rows of the golden run."""

        def prepared(rows: int) -> Run:
            chosen = np.arange(rows) % golden.steps
            inputs, state = [array[chosen] for array in golden.inputs], [array[chosen] for array in golden.state]
            return lambda: self._run_rows(inputs, state)

        return prepared

    def _release_memory(self, golden: Golden) -> None:
        """Give back what the largest run that was measured needed, and no other will: with a run of one row."""
        options = ort.RunOptions()
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._run_rows([array[:1] for array in golden.inputs], [array[:1] for array in golden.state], options)

    def _run_rows(
        self, inputs: Sequence[Array], state: Sequence[Array], options: ort.RunOptions | None = None
    ) -> tuple[list[Array], list[Array]]:
        try:
            fetched = self._session.run(self._fetches, dict(zip(self._feeds, [*inputs, *state], strict=True)), options)
        except Exception as fault:  # ORT raises a family of its own for every kernel; the boundary is here.
            said = f"model {self._key}: a run failed"
            raise EngineFault(f"{said}; the server's log says why", detail=f"{said}: onnxruntime: {fault}") from fault
        split = len(self._spec.outputs)
        return fetched[:split], fetched[split:]


def find_execution_provider(word: str) -> ExecutionProvider:
    """What the setting names, if ONNX Runtime has it here. Raises SettingsFault."""
    available = ort.get_available_providers()
    if EXECUTION_PROVIDERS[word].name not in available:
        here = [one for one, provider in EXECUTION_PROVIDERS.items() if provider.name in available]
        raise SettingsFault(
            f"execution_provider: expected one that is installed ({', '.join(here)}), got {word}; "
            f"it comes with the package {EXECUTION_PROVIDERS[word].package}, in place of onnxruntime"
        )
    return EXECUTION_PROVIDERS[word]


def _recorded(run_rows: RunRows, inputs: Sequence[Array], initial: State) -> Golden:
    """A run of these inputs `[T, ...]` from this state."""
    state = [array[np.newaxis] for array in initial]
    states, outputs = [state], []
    for step in range(len(inputs[0])):
        given, state = run_rows([array[step : step + 1] for array in inputs], state)
        outputs.append(given)
        states.append(state)
    together = [tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True)) for parts in (outputs, states)]
    return Golden(tuple(inputs), together[0], together[1])


def padded(arrays: Sequence[Array], missing: int) -> list[Array]:
    """The arrays with their first row repeated at the end: numbers of an ordinary size, unlike zeros,
    never slow and never a division by zero.
    """
    return [np.concatenate([array, np.repeat(array[:1], missing, axis=0)]) for array in arrays]


def find_batch_independence(run_rows: RunRows, golden: Golden, batch_max: int) -> BatchIndependence:
    """The smallest padding, from PADDING_MIN on, with which no row's bits depend on the batch size, its place or its
    company.

    Rows are inputs and states of the golden run, so that they are what the model meets. Each is run alone, then
    in batches of the sizes that tested_sizes gives, of which each has rows enough, in another order each time.
    """
    padding = min(PADDING_MIN, batch_max)
    while padding <= batch_max:
        if _is_independent(run_rows, golden, padding, batch_max):
            return BatchIndependence(holds=True, padding=padding, rows_tested=batch_max // padding * padding)
        padding *= 2
    return BatchIndependence(holds=False, padding=1, rows_tested=batch_max)


def tested_sizes(padding: int, batch_max: int) -> list[int]:
    """The batches of the self-test: every multiple of the padding up to 64, beyond it eight to a doubling, and the
    largest. What a kernel does otherwise for another size it does by the size's remainder of a small tile, which
    the first 64 have seen, or from some size on, which the spread sees; so what lies between is taken to be alike.
    """
    every = range(padding, min(batch_max, EVERY_SIZE_UP_TO) + 1, padding)
    doublings = (EVERY_SIZE_UP_TO * 2 ** (place / SIZES_A_DOUBLING) for place in count(1))
    spread = [int(size) // padding * padding for size in takewhile(lambda size: size < batch_max, doublings)]
    return sorted({*every, *spread, batch_max // padding * padding} - {0})


def _is_independent(run_rows: RunRows, golden: Golden, padding: int, batch_max: int) -> bool:
    step = np.tile(np.arange(golden.steps), PAIRINGS)
    held = (step + np.repeat(np.arange(PAIRINGS), golden.steps)) % (golden.steps + 1)

    def bits(rows: Array) -> Array:
        """What a run of these rows gives, row by row, as bytes."""
        outputs, following = run_rows([a[step[rows]] for a in golden.inputs], [a[held[rows]] for a in golden.state])
        given = [np.ascontiguousarray(array).reshape(len(rows), -1) for array in (*outputs, *following)]
        return np.concatenate([array.view(np.uint8) for array in given], axis=1)

    alone = np.stack([bits(np.full(padding, row))[0] for row in range(len(step))])
    random = np.random.default_rng(0)
    sizes = tested_sizes(padding, batch_max)
    rows_each = max(ROWS_A_SIZE, ROWS_IN_ALL // len(sizes))
    for size in sizes:
        runs = -(-rows_each // size)
        rounds = np.tile(np.arange(len(step)), (-(-runs * size // len(step)), 1))
        for rows in random.permuted(rounds, axis=1).ravel()[: runs * size].reshape(runs, size):
            if not np.array_equal(bits(rows), alone[rows]):
                return False
    return True


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


def graph_run(model: bytes, path: Path) -> Callable[[Mapping[str, Array], Sequence[str]], list[Array]]:
    """A graph that has no manifest yet, as a function of its inputs by name and of the outputs that are wanted; `path`
    is for messages. Raises ModelRejected; a run raises EngineFault.
    """
    session = _ort_session(model, path, EXECUTION_PROVIDERS["cpu"])

    def run(inputs: Mapping[str, Array], outputs: Sequence[str]) -> list[Array]:
        try:
            fetched: list[Array] = session.run(list(outputs), dict(inputs))
        except Exception as fault:  # The boundary, as above.
            raise EngineFault(f"{path}: onnxruntime: {fault}") from fault
        return fetched

    return run


def _ort_session(model: bytes, path: Path, provider: ExecutionProvider) -> ort.InferenceSession:
    options = ort.SessionOptions()
    # One thread per run: the server runs batches side by side, and a pool of ORT's own would be sized
    # by the host's cores and not by the container's.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    options.add_session_config_entry(OTHER_FILES_KEY, NO_FOLDER)
    try:
        session = ort.InferenceSession(model, options, providers=[(provider.name, dict(provider.options))])
    except Exception as fault:  # As above: whatever ORT has against a graph is the operator's to know.
        said = f"{path}: onnxruntime refuses it"
        raise ModelRejected(f"{said}; the server's log says why", detail=f"{said}: {fault}") from fault
    # Where a device or a library is missing ORT says so on stderr and goes on with the CPU.
    if session.get_providers()[0] != provider.name:
        raise ModelRejected(f"{path}: expected {provider.name} to run it, got {session.get_providers()}")
    return session


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
    axes = spec.axes if isinstance(spec, StateSpec) else ()
    if fixed := [axis for axis, actual in zip(axes, shape[1:], strict=False) if axis and isinstance(actual, int)]:
        raise ModelRejected(f"{directory.path}: {name}: expected axes {fixed} to be symbolic, got shape {shape}")
    if dtype != spec.dtype or not sizes_fit:
        said = f"{directory.path}: {name}: expected {spec.layout} after the batch axis"
        raise ModelRejected(f"{said}, got {dtype}{shape}")
