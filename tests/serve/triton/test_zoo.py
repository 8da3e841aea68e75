"""A trained memory model by way of Triton: its graph, its states and their initial values, said in a config.pbtxt."""

import numpy as np
import onnxruntime as ort
import pytest
from serve.triton.repositories import put

from ntm_serve.engine import OrtEngine
from ntm_serve.model_directory import read_model_directory
from ntm_serve.triton.graph import Flag, changed, read_graph
from ntm_serve.triton.importing import Options, import_repository

TYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}


def config_of(directory):
    """What a user of Triton would have written for this model."""

    def tensor(kind, one):
        return f'{kind} {{ name: "{one.name}" data_type: {TYPES[one.dtype]} dims: {list(one.shape)} }}'

    states = [
        f'state {{ input_name: "{one.graph_input}" output_name: "{one.graph_output}" data_type: {TYPES[one.dtype]} '
        f"dims: {list(one.shape)} initial_state {{ data_type: {TYPES[one.dtype]} dims: {list(one.shape)} "
        f'data_file: "{one.name}" }} }}'
        for one in directory.manifest.state
    ]
    tensors = [tensor("input", one) for one in directory.manifest.inputs]
    tensors += [tensor("output", one) for one in directory.manifest.outputs]
    return f"max_batch_size: 64 {' '.join(tensors)} sequence_batching {{ direct {{ }} {' '.join(states)} }}"


@pytest.mark.parametrize("name", ["copy-ff", "copy-lstm"])
def test_its_outputs_are_those_of_the_model_itself_bit_for_bit(zoo, tmp_path, name):
    original = read_model_directory(zoo / name / "1")
    initial = {
        one.name: np.ascontiguousarray(array).tobytes()
        for one, array in zip(original.spec.state, original.initial_state, strict=True)
    }
    put(tmp_path / "triton", name, config_of(original), original.model, initial=initial)
    [one] = import_repository(tmp_path / "triton", Options(out=tmp_path / "models"))
    assert one.fault is None, one.fault
    assert one.notes == ()
    copy = read_model_directory(one.path)
    assert copy.model == original.model
    engines = [OrtEngine(directory, name=name, version="1", batch_max=8) for directory in (original, copy)]
    states = [
        [np.repeat(array[np.newaxis], 3, axis=0) for array in directory.initial_state] for directory in (original, copy)
    ]
    by_input = {one.graph_input: place for place, one in enumerate(original.manifest.state)}
    order = [by_input[one.graph_input] for one in copy.manifest.state]
    random = np.random.default_rng(3)
    for _ in range(50):
        x = [random.integers(0, 2, (3, *spec.shape)).astype(spec.dtype) for spec in original.spec.inputs]
        (outputs, states[0]), (ours, states[1]) = (
            engine.run(x, state) for engine, state in zip(engines, states, strict=True)
        )
        assert [array.tobytes() for array in outputs] == [array.tobytes() for array in ours]
    assert [states[0][place].tobytes() for place in order] == [array.tobytes() for array in states[1]]


@pytest.mark.parametrize("name", ["copy-ff", "copy-lstm"])
def test_a_graph_that_is_added_to_keeps_all_that_is_not_understood(zoo, name):
    """Attributes of its nodes, its own names, its weights: whatever the schema of an import does not have."""
    original = read_model_directory(zoo / name / "1")
    graph = read_graph(original.model, name)
    flag = Flag(next(iter(graph.inputs)), "flag", np.zeros(1, np.float32))
    made = changed(graph, flags=[flag], left_out=[next(iter(graph.outputs))])
    sessions = [ort.InferenceSession(content) for content in (original.model, made)]
    feeds = {one.name: array[:1] for one, array in zip(original.manifest.inputs, original.golden.inputs, strict=True)}
    for one, array in zip(original.manifest.state, original.golden.state, strict=True):
        feeds[one.graph_input] = array[5:6]
    kept = list(graph.outputs)[1:]
    assert [one.name for one in sessions[1].get_outputs()] == [*kept, "flag"]
    before, after = (session.run(kept, feeds) for session in sessions)
    assert [array.tobytes() for array in before] == [array.tobytes() for array in after]
    assert len(made) > len(original.model) - 200
