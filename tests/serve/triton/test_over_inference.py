"""Imported models as Triton's clients ask them: the same requests, and what the graph by itself gives."""

import numpy as np
import onnxruntime as ort
import pytest
from serve import onnx_graphs as onnx
from serve.frontends.inference_client import InferenceWire, infer_request, y_of
from serve.triton.repositories import PERCEPTRON_CONFIG, SUM_CONFIG, put

from ntm_serve.app import load_models
from ntm_serve.testing import test_server
from ntm_serve.triton.importing import Options, import_repository

SCALARS = """
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } }
output { name: "y" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] } }
"""


@pytest.fixture
def wire(tmp_path):
    put(tmp_path / "triton", "mlp", PERCEPTRON_CONFIG, onnx.perceptron())
    put(tmp_path / "triton", "sum", SUM_CONFIG, onnx.accumulator())
    graph = onnx.model([onnx.node("Tanh", ["x"], ["y"])], [("x", "float32", ("N",))], [("y", "float32", ("N",))])
    put(tmp_path / "triton", "number", SCALARS, graph)
    outcomes = list(import_repository(tmp_path / "triton", Options(out=tmp_path / "models")))
    assert [one.fault for one in outcomes] == [None] * 3
    with test_server(load_models(tmp_path / "models", batch_max=8)) as server:
        wire = InferenceWire(server.target)
        yield wire
        wire.channel.close()


def test_rows_give_what_the_graph_gives(wire):
    x = np.random.default_rng(6).standard_normal((20, 8)).astype(np.float32)
    y = y_of(wire.infer_response(infer_request(None, x, model="mlp", shape=(20, 8))))
    wanted = ort.InferenceSession(onnx.perceptron()).run(["y"], {"x": x})[0]
    np.testing.assert_allclose(y, wanted, rtol=1e-6, atol=1e-6)


def test_a_sequence_keeps_its_state_and_begins_anew_with_start(wire):
    x = np.arange(18, dtype=np.float32).reshape(6, 3)
    for _ in range(2):
        given = [
            y_of(wire.infer_response(infer_request(9, row, model="sum", shape=(1, 3), start=i == 0, end=i == 5)))[0]
            for i, row in enumerate(x)
        ]
        np.testing.assert_array_equal(given, 2 * np.cumsum(x, axis=0))


def test_a_number_alone_travels_as_it_does_to_triton(wire):
    y = y_of(wire.infer_response(infer_request(None, [1, 2], model="number", shape=(2, 1))))
    assert y.shape == (2, 1)
    np.testing.assert_allclose(y[:, 0], np.tanh([1, 2]), rtol=1e-6)


@pytest.mark.parametrize(("model", "dims"), [("mlp", [8]), ("sum", [3]), ("number", [1])])
def test_its_config_is_the_one_that_was_imported(wire, model, dims):
    config = wire.call("ModelConfig", name=model).config
    assert config.name == model
    assert [(one.name, list(one.dims)) for one in config.input] == [("x", dims)]
    assert [one.input_name for one in config.sequence_batching.state] == (["total_in"] if model == "sum" else [])
