"""The engine on a trained model: golden run, padding, and what it refuses."""

import dataclasses

import numpy as np
import onnxruntime as ort
import pytest
from serve import onnx_graphs

from ntm_serve import engine as engine_module
from ntm_serve.batch_size import SIZES
from ntm_serve.config import Settings
from ntm_serve.engine import (
    OrtEngine,
    find_batch_independence,
    find_execution_provider,
    golden_error,
    largest_difference,
)
from ntm_serve.errors import EngineFault, ModelDamaged, ModelRejected, SettingsFault
from ntm_serve.model_directory import Golden, read_model_directory
from ntm_serve.spec import StateSpec, TensorSpec


@pytest.fixture(scope="module", params=["copy-ff", "copy-lstm"])
def directory(request, zoo):
    return read_model_directory(zoo / request.param / "1")


@pytest.fixture(scope="module")
def engine(directory):
    return OrtEngine(directory, name="copy", version="1", batch_max=16)


def replaced(directory, **changes):
    return OrtEngine(dataclasses.replace(directory, **changes), name="copy", version="1", batch_max=4)


def test_a_run_gives_rows_in_the_order_of_the_specs(engine, directory):
    inputs = [np.repeat(array[:1], 3, axis=0) for array in directory.golden.inputs]
    state = [np.repeat(array[:1], 3, axis=0) for array in directory.golden.state]
    outputs, following = engine.run(inputs, state)
    assert [array.shape for array in outputs] == [(3, *spec.shape) for spec in directory.spec.outputs]
    assert [array.shape for array in following] == [(3, *spec.shape) for spec in directory.spec.state]
    assert [array.dtype.name for array in following] == [spec.dtype for spec in directory.spec.state]


def test_the_golden_run_is_what_the_engine_gives(engine, directory):
    assert engine.golden_error <= directory.manifest.verification.tolerance


def test_a_row_has_the_same_bits_alone_and_in_any_company(engine, directory):
    """Every batch size, every place, other neighbours each time: not one bit differs."""
    assert engine.batch_independence.holds
    golden, random = directory.golden, np.random.default_rng(7)

    def row(i):
        return [a[i : i + 1] for a in golden.inputs], [a[i : i + 1] for a in golden.state]

    alone = [[array.tobytes() for part in engine.run(*row(i)) for array in part] for i in range(golden.steps)]
    for rows in range(1, engine.batch_max + 1):
        chosen = random.integers(0, golden.steps, rows)
        outputs, following = engine.run([a[chosen] for a in golden.inputs], [a[chosen] for a in golden.state])
        for place, i in enumerate(chosen):
            assert [array[place].tobytes() for array in [*outputs, *following]] == alone[i]


class FakeKernels:
    """Rows whose bits depend on the batch, as those of a real kernel may: see `tile`."""

    def __init__(self, tile):
        self.tile = tile
        self.sizes = []

    def __call__(self, inputs, state):
        rows = len(inputs[0])
        self.sizes.append(rows)
        # Rows beyond the last whole tile are summed in another order.
        tail = np.arange(rows) >= rows // self.tile * self.tile
        return [inputs[0] + np.where(tail, np.float32(1e-7), np.float32(0))[:, np.newaxis]], [state[0]]


GOLDEN = Golden(
    inputs=(np.linspace(0.1, 0.9, 12, dtype=np.float32).reshape(12, 1),),
    outputs=(np.zeros((12, 1), np.float32),),
    state=(np.zeros((13, 1), np.float32),),
)


@pytest.mark.parametrize(("tile", "padding"), [(1, 2), (2, 2), (4, 4), (16, 16)])
def test_the_smallest_padding_that_makes_bits_independent_is_found(tile, padding):
    found = find_batch_independence(FakeKernels(tile), GOLDEN, batch_max=16)
    assert (found.holds, found.padding, found.rows_tested) == (True, padding, 16)


def test_where_no_padding_works_nothing_is_promised():
    found = find_batch_independence(FakeKernels(32), GOLDEN, batch_max=16)
    assert found.holds  # With every batch below the tile all rows are its tail, and agree.

    def by_neighbour(inputs, state):
        return [inputs[0] + np.float32(1e-7) * np.roll(inputs[0], 1, axis=0)], [state[0]]

    found = find_batch_independence(by_neighbour, GOLDEN, batch_max=16)
    assert (found.holds, found.padding) == (False, 1)


def test_a_bad_row_among_the_last_places_is_noticed():
    def last_place(inputs, state):
        bump = np.zeros_like(inputs[0])
        bump[15:16] = 1e-7
        return [inputs[0] + bump], [state[0]]

    assert not find_batch_independence(last_place, GOLDEN, batch_max=16).holds


def test_every_padded_size_up_to_64_is_tested_and_some_of_each_doubling_beyond():
    assert engine_module.tested_sizes(1, 64) == list(range(1, 65))
    assert engine_module.tested_sizes(4, 30) == [4, 8, 12, 16, 20, 24, 28]
    sizes = engine_module.tested_sizes(4, 300)
    assert sizes[:17] == [*range(4, 65, 4), 68]
    assert sizes[-1] == 300
    assert all(size % 4 == 0 for size in sizes)
    for low in (64, 128):
        assert sum(low < size <= 2 * low for size in sizes) == 8


def test_kernels_that_change_beyond_64_rows_are_noticed():
    def large(inputs, state):
        bump = np.float32(1e-7) if len(inputs[0]) > 100 else np.float32(0)
        return [inputs[0] + bump], [state[0]]

    assert find_batch_independence(large, GOLDEN, batch_max=100).holds
    # Where no batch is of 100 rows or fewer, all are alike again.
    assert find_batch_independence(large, GOLDEN, batch_max=256).padding == 128


def test_where_nobody_says_the_batch_is_measured_and_wholly_tested(directory):
    engine = OrtEngine(directory, name="copy", version="1")
    assert list(engine.run_s) == sorted(engine.run_s)
    assert all(seconds > 0 for seconds in engine.run_s.values())
    assert engine.batch_max in SIZES
    assert engine.batch_max == engine.batch_independence.rows_tested


def test_where_it_is_said_nothing_is_measured(engine):
    assert (engine.batch_max, engine.run_s) == (16, {})


@pytest.mark.parametrize("batch_max", [4, 5, 8, 64])
@pytest.mark.parametrize("size", [4, 6, 8])
def test_rows_that_rarely_differ_are_noticed_however_small_the_batches(batch_max, size):
    """Of real kernels that add up in another order one row in 25 may have other bits."""
    random = np.random.default_rng(1)
    golden = Golden(
        inputs=(random.random((32, 1), np.float32),),
        outputs=(np.zeros((32, 1), np.float32),),
        state=(random.random((33, 1), np.float32),),
    )

    def rare(inputs, state):
        bump = (len(inputs[0]) == size) & (np.sin(1e4 * (inputs[0] + state[0])) > 0.992)
        return [inputs[0] + np.float32(1e-6) * bump], [state[0]]

    found = find_batch_independence(rare, golden, batch_max)
    assert (found.padding == 2) == (size > batch_max)


def test_no_row_runs_by_itself_where_batches_are_larger():
    assert find_batch_independence(FakeKernels(1), GOLDEN, batch_max=1).padding == 1
    kernels = FakeKernels(1)
    assert find_batch_independence(kernels, GOLDEN, batch_max=5).rows_tested == 4
    assert set(kernels.sizes) == {2, 4}


@pytest.mark.parametrize("asked", [5, 6])
def test_no_padded_batch_is_larger_than_what_was_tested(directory, asked):
    engine = OrtEngine(directory, name="copy", version="1", batch_max=asked)
    padding = engine.batch_independence.padding
    assert engine.batch_max == engine.batch_independence.rows_tested == asked // padding * padding


def test_a_run_is_padded_and_the_padding_is_not_seen(engine, directory, monkeypatch):
    sizes = []
    run_rows = engine._run_rows

    def seen(inputs, state):
        sizes.append(len(inputs[0]))
        return run_rows(inputs, state)

    monkeypatch.setattr(engine, "_run_rows", seen)
    independence = dataclasses.replace(engine.batch_independence, padding=4)
    monkeypatch.setattr(engine, "_independence", independence)
    for rows in (1, 3, 4, 5):
        outputs, following = engine.run(
            [a[:rows] for a in directory.golden.inputs], [a[:rows] for a in directory.golden.state]
        )
        assert {len(array) for array in [*outputs, *following]} == {rows}
    assert sizes == [4, 4, 4, 8]


def test_an_error_of_the_runtime_is_an_engine_fault(engine, directory):
    with pytest.raises(EngineFault, match="onnxruntime: ") as raised:
        engine.run([np.zeros((1, 3), np.float32)], [array[:1] for array in directory.golden.state])
    assert raised.value.message == f"model {engine.card.key}: a run failed; the server's log says why"


def test_a_golden_run_that_differs_is_refused(directory):
    outputs = (directory.golden.outputs[0] + 0.01,)
    with pytest.raises(ModelDamaged, match=r"golden run: expected an error of at most .* got 0.0"):
        replaced(directory, golden=dataclasses.replace(directory.golden, outputs=outputs))


def test_a_golden_run_that_is_not_a_number_is_refused(directory):
    outputs = (np.full_like(directory.golden.outputs[0], np.nan),)
    with pytest.raises(ModelDamaged, match="got inf"):
        replaced(directory, golden=dataclasses.replace(directory.golden, outputs=outputs))


def test_bytes_that_are_no_graph_are_refused(directory):
    with pytest.raises(ModelRejected, match="onnxruntime refuses it"):
        replaced(directory, model=b"not a graph")


def test_weights_in_another_file_are_not_taken_from_wherever_the_process_is(directory, tmp_path, monkeypatch):
    (tmp_path / "weights.bin").write_bytes(np.ones(3, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelRejected, match=r"onnxruntime refuses it: .*weights\.bin"):
        replaced(directory, model=onnx_graphs.scaled_elsewhere("weights.bin"))


def test_the_settings_words_are_the_engines():
    assert list(engine_module.EXECUTION_PROVIDERS) == list(
        Settings.model_fields["execution_provider"].annotation.__args__
    )


def test_a_provider_that_is_not_installed_is_refused_with_those_that_are_and_its_package(directory, monkeypatch):
    installed = ["OpenVINOExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(engine_module.ort, "get_available_providers", lambda: installed)
    assert find_execution_provider("openvino").package == "onnxruntime-openvino"
    with pytest.raises(
        SettingsFault, match=r"expected one that is installed \(cpu, openvino\), got cuda; .* onnxruntime-gpu"
    ):
        OrtEngine(directory, name="copy", version="1", execution_provider="cuda")


class FakeSession:
    """A session on a provider that is not here: its graph runs on the CPU. `gives` is what it says it runs on."""

    def __init__(self, monkeypatch, gives):
        self.providers = None
        self._gives = gives
        real = ort.InferenceSession

        def made(model, options, providers):
            self.providers = providers
            self._session = real(model, options, providers=["CPUExecutionProvider"])
            return self

        monkeypatch.setattr(engine_module.ort, "InferenceSession", made)
        monkeypatch.setattr(engine_module.ort, "get_available_providers", lambda: [gives[0], "CPUExecutionProvider"])

    def get_providers(self):
        return self._gives

    def __getattr__(self, name):
        return getattr(self._session, name)


@pytest.mark.parametrize(
    ("word", "name", "options"),
    [
        ("openvino", "OpenVINOExecutionProvider", {"precision": "ACCURACY", "num_of_threads": "1"}),
        ("cuda", "CUDAExecutionProvider", {"use_tf32": "0"}),
    ],
)
def test_another_provider_computes_in_the_models_own_precision_and_not_on_the_event_loop(
    directory, monkeypatch, word, name, options
):
    session = FakeSession(monkeypatch, gives=[name, "CPUExecutionProvider"])
    engine = OrtEngine(directory, name="copy", version="1", batch_max=4, execution_provider=word)
    ((chosen, given),) = session.providers
    assert chosen == name
    assert options.items() <= given.items()
    assert engine.card.engine == f"onnxruntime {ort.__version__} {name}"
    assert not engine.runs_inline
    assert engine.batch_independence.rows_tested == 4


def test_the_cpu_computes_where_nothing_else_is_asked_for(engine):
    assert engine.card.engine == f"onnxruntime {ort.__version__} CPUExecutionProvider"
    assert engine.runs_inline


def test_a_provider_for_which_the_runtime_takes_the_cpu_is_refused(directory, monkeypatch):
    session = FakeSession(monkeypatch, gives=["CUDAExecutionProvider"])
    session._gives = ["CPUExecutionProvider"]
    with pytest.raises(
        ModelRejected, match=r"expected CUDAExecutionProvider to run it, got \['CPUExecutionProvider'\]"
    ):
        OrtEngine(directory, name="copy", version="1", batch_max=4, execution_provider="cuda")


def test_a_graph_with_other_tensors_than_the_manifest_says_is_refused(directory):
    spec = directory.spec
    wider = (TensorSpec("x", "float32", (11,)),)
    with pytest.raises(ModelRejected, match=r"x: expected float32\[11\] after the batch axis, got float32"):
        replaced(directory, spec=dataclasses.replace(spec, inputs=wider))
    others = tuple(entry.model_copy(update={"graph_output": "gone"}) for entry in directory.manifest.state)
    with pytest.raises(ModelRejected, match=r"graph outputs: expected \['gone'"):
        replaced(directory, manifest=directory.manifest.model_copy(update={"state": others}))


def test_a_frozen_batch_axis_is_refused(directory):
    class Node:
        name, type, shape = "x", "tensor(float)", [1, 9]

    with pytest.raises(ModelRejected, match=r"x: expected a symbolic batch axis, got shape \[1, 9\]"):
        engine_module._expect_node(directory, "x", directory.spec.inputs[0], Node())


def test_the_golden_error_is_the_largest_over_outputs_and_states():
    def off(inputs, state):
        return [inputs[0] * 0 + 0.25], [state[0] + 0.5]

    assert golden_error(off, GOLDEN) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("a", "b", "difference"),
    [
        ([1.0], [1.0], 0.0),
        ([0.5], [0.25], 0.25),
        ([200.0], [100.0], 1.0),
        ([np.nan], [0.0], np.inf),
        ([np.nan], [np.nan], 0.0),
        ([np.inf], [np.inf], 0.0),
        ([np.inf], [0.0], np.inf),
        ([], [], 0.0),
    ],
)
def test_a_difference_is_absolute_below_one_and_relative_above(a, b, difference):
    assert largest_difference(np.array(a), np.array(b)) == difference


def test_one_thread_per_run_whatever_the_host_has(directory, monkeypatch):
    seen = []
    real = ort.InferenceSession

    def session(model, options, providers):
        seen.append((options.intra_op_num_threads, options.inter_op_num_threads))
        return real(model, options, providers=providers)

    monkeypatch.setattr(engine_module.ort, "InferenceSession", session)
    replaced(directory)
    assert seen == [(1, 1)]


def test_state_specs_carry_their_roles(directory):
    roles = {spec.name: spec.role for spec in directory.spec.state if isinstance(spec, StateSpec)}
    assert roles["memory"] == "memory"
    assert roles["write_weighting"] == "write_weighting"
