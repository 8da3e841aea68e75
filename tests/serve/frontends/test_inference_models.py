"""What the Open Inference Protocol says of models, and how it loads and unloads them."""

import shutil
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import json_format

from ntm_serve.app import load_models
from ntm_serve.frontends.model_config import config_of, metadata_of
from ntm_serve.spec import StateSpec, StepSpec, TensorSpec
from ntm_serve.testing import Gate, RunningSum, test_server

from .inference_client import InferenceWire, infer_request
from .wire_client import reason_of

ZOO = Path(__file__).parents[3] / "models" / "zoo"
X = np.ones((1, 9))


@pytest.fixture(params=["", "sqlite"])
def triton(request, tmp_path):
    """A server that follows a repository of copy-ff, and lets its clients load and unload."""
    shutil.copytree(ZOO / "copy-ff", tmp_path / "models" / "copy-ff")
    store = request.param and f"sqlite:{tmp_path}/sessions.db"
    settings = {"models": tmp_path / "models", "repository_poll_s": 0.02, "store": store, "model_control": True}
    with test_server(load_models(tmp_path / "models", batch_max=8), **settings) as server:
        it = InferenceWire(server.target)
        it.repository = tmp_path / "models"
        yield it
        it.channel.close()


def states(triton):
    return {f"{one.name}/{one.version}": one.state for one in triton.call("RepositoryIndex").models}


def step(triton, sequence, **more):
    return triton.infer(sequence, X, model="copy-ff", shape=(1, 9), **more)


def test_state_is_not_among_the_inputs_and_the_batch_axis_comes_first(triton):
    metadata = triton.call("ModelMetadata", name="copy-ff")
    assert [(one.name, one.datatype, list(one.shape)) for one in metadata.inputs] == [("x", "FP32", [-1, 9])]
    assert [(one.name, one.datatype, list(one.shape)) for one in metadata.outputs] == [("y", "FP32", [-1, 8])]
    config = triton.call("ModelConfig", name="copy-ff").config
    assert config.max_batch_size == 8
    assert [(one.name, list(one.dims)) for one in config.input] == [("x", [9])]
    batching = config.sequence_batching
    assert [one.input_name for one in batching.state] == ["memory", "read_weighting", "write_weighting", "read_vector"]
    assert batching.max_sequence_idle_microseconds == 7 * 24 * 3600 * 10**6
    assert batching.oldest.max_candidate_sequences == 200_000
    assert config.parameters["family"].string_value == "ntm"


def test_a_scalar_goes_as_an_axis_of_one_and_idling_for_ever_has_a_number():
    model = RunningSum()
    model.spec = StepSpec(
        inputs=(TensorSpec("x", "int64", ()),),
        outputs=(TensorSpec("y", "bool", (2, 3)),),
        state=(StateSpec("n", "float16", ()),),
    )
    assert list(metadata_of(model, ["1"]).inputs[0].shape) == [-1, 1]
    config = json_format.MessageToDict(config_of(model, ["1", "2"], idle_life_s=None, sessions_max=2**40))
    assert config["input"] == [{"name": "x", "dataType": "TYPE_INT64", "dims": ["1"], "reshape": {}}]
    assert config["output"] == [{"name": "y", "dataType": "TYPE_BOOL", "dims": ["2", "3"]}]
    assert config["versionPolicy"] == {"specific": {"versions": ["1", "2"]}}
    assert config["sequenceBatching"]["maxSequenceIdleMicroseconds"] == str(2**63 - 1)
    assert config["sequenceBatching"]["oldest"]["maxCandidateSequences"] == 2**31 - 1


def test_an_unloaded_model_serves_its_sequences_to_the_last_and_comes_back_when_loaded(triton):
    step(triton, 1, start=True)
    triton.call("RepositoryModelUnload", model_name="copy-ff")
    assert states(triton) == {"copy-ff/1": "UNAVAILABLE"}
    assert not triton.call("ModelReady", name="copy-ff").ready
    with pytest.raises(grpc.RpcError, match="was unloaded; load it to have it served") as refused:
        step(triton, 2, start=True)
    assert reason_of(refused.value)[0] == "MODEL_REJECTED"
    step(triton, 1, end=True)
    for _ in range(20):  # However often the repository is looked through.
        assert states(triton) == {"copy-ff/1": "UNAVAILABLE"}
    triton.call("RepositoryModelUnload", model_name="copy-ff")
    triton.call("RepositoryModelLoad", model_name="copy-ff")
    assert states(triton) == {"copy-ff/1": "READY"}
    step(triton, 1, start=True, end=True)


def test_a_model_that_is_loaded_before_its_last_sequence_ended_goes_on(triton):
    first = step(triton, 1, start=True)
    triton.call("RepositoryModelUnload", model_name="copy-ff")
    triton.call("RepositoryModelLoad", model_name="copy-ff")
    assert step(triton, 2, start=True).tobytes() == first.tobytes()
    step(triton, 1)


def test_loading_takes_up_a_version_that_has_just_come(triton):
    shutil.copytree(triton.repository / "copy-ff" / "1", triton.repository / "beside")
    (triton.repository / "beside").rename(triton.repository / "copy-ff" / "2")
    triton.call("RepositoryModelLoad", model_name="copy-ff")
    assert states(triton) == {"copy-ff/1": "READY", "copy-ff/2": "READY"}
    assert triton.infer_response(infer_request(1, X, start=True, model="copy-ff", shape=(1, 9))).model_version == "2"


def test_what_cannot_be_loaded_says_why(triton):
    for call in ("RepositoryModelLoad", "RepositoryModelUnload"):
        with pytest.raises(grpc.RpcError, match="failed to") as refused:
            triton.call(call, model_name="nothing")
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError, match="a model is what its directory says"):
        triton.call("RepositoryModelLoad", model_name="copy-ff", parameters={"config": {"string_param": "{}"}})
    with pytest.raises(grpc.RpcError, match="repository_name: expected none"):
        triton.call("RepositoryIndex", repository_name="other")


def test_a_server_without_model_control_says_how_to_have_it(server):
    triton = InferenceWire(server.target)
    for call in ("RepositoryModelLoad", "RepositoryModelUnload"):
        with pytest.raises(grpc.RpcError, match="start the server with --model-control") as refused:
            triton.call(call, model_name="running-sum")
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
    extensions = triton.call("ServerMetadata").extensions
    assert list(extensions) == ["sequence", "sequence(string_id)", "statistics", "model_repository"]


def test_statistics_count_requests_steps_and_runs():
    gate = Gate()
    gate.open()
    with test_server([RunningSum(before_run=gate), RunningSum(name="other")]) as server:
        triton = InferenceWire(server.target)
        triton.infer(1, [1, 2, 3], start=True)
        triton.infer(1, [4])
        with pytest.raises(grpc.RpcError):
            triton.infer(1, [np.nan])
        (one,) = triton.call("ModelStatistics", name="running-sum").model_stats
        assert (one.name, one.version, one.inference_count, one.execution_count) == ("running-sum", "1", 4, 4)
        stats = one.inference_stats
        assert [getattr(stats, name).count for name in ("success", "queue", "compute_infer")] == [2, 2, 2]
        parts = stats.queue.ns + stats.compute_infer.ns
        assert 0 < stats.compute_infer.ns <= stats.success.ns == pytest.approx(parts, abs=1000)
        assert [(runs.batch_size, runs.compute_infer.count) for runs in one.batch_stats] == [(1, 4)]
        assert one.last_inference > 1.7e12
        assert [every.name for every in triton.call("ModelStatistics").model_stats] == ["other", "running-sum"]


@pytest.mark.parametrize("call", ["ModelMetadata", "ModelConfig", "ModelStatistics"])
def test_a_model_that_is_not_there_is_not_found(server, call):
    with pytest.raises(grpc.RpcError, match="Request for unknown model: 'nothing' is not found") as refused:
        InferenceWire(server.target).call(call, name="nothing")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
