"""Damaged and incomplete model directories, over a real socket: named, refused, and no harm to their neighbours."""

import shutil

import grpc
import numpy as np
import pytest
from structlog.testing import capture_logs

from ntm_serve.app import load_models
from ntm_serve.bundle import file_entries
from ntm_serve.errors import SettingsFault
from ntm_serve.manifest import MANIFEST_FILE, MODEL_FILE, parse_manifest
from ntm_serve.testing import test_server
from ntm_serve.v1 import models_pb2
from tests.serve.embedding import write_embedding

from .inference_client import InferenceWire
from .wire_client import Wire, reason_of, request_of


@pytest.fixture(scope="module")
def wire(zoo, tmp_path_factory):
    """A repository with a whole model, one with a flipped bit, one without its golden run."""
    repository = tmp_path_factory.mktemp("repository")
    for name in ("whole", "flipped", "incomplete"):
        shutil.copytree(zoo / "copy-ff", repository / name)
    graph = repository / "flipped" / "1" / "model.onnx"
    content = bytearray(graph.read_bytes())
    content[1000] ^= 4
    graph.write_bytes(content)
    (repository / "incomplete" / "1" / "golden.npz").unlink()
    with test_server(load_models(repository, batch_max=4)) as server:
        it = Wire(server.target)
        yield it
        it.channel.close()


@pytest.mark.parametrize(
    ("model", "code", "reason", "says"),
    [
        ("flipped", grpc.StatusCode.DATA_LOSS, "MODEL_DAMAGED", "model flipped/1: model.onnx: expected 63"),
        (
            "incomplete",
            grpc.StatusCode.FAILED_PRECONDITION,
            "MODEL_INCOMPLETE",
            "model incomplete/1: golden.npz: expected a readable file, got: No such file",
        ),
    ],
)
def test_opening_a_session_of_it_says_what_is_wrong(wire, model, code, reason, says):
    with pytest.raises(grpc.RpcError) as refused:
        wire.open(model=model)
    assert refused.value.code() is code
    assert reason_of(refused.value)[0] == reason
    assert says in refused.value.details()


def test_it_is_listed_with_its_fault(wire):
    models = {model.name: model for model in wire.models.List(models_pb2.ListModelsRequest()).models}
    assert {name: model.ready for name, model in models.items()} == {
        "whole": True,
        "flipped": False,
        "incomplete": False,
    }
    assert models["flipped"].fault.reason == "MODEL_DAMAGED"


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Models that ONNX Runtime has something against: one when it is loaded, one when it runs some tokens."""
    repository = tmp_path_factory.mktemp("secret-place")
    write_embedding(repository / "embedding" / "1")
    refused = write_embedding(repository / "refused" / "1")
    (refused / MODEL_FILE).write_bytes(b"no graph at all")
    manifest = parse_manifest((refused / MANIFEST_FILE).read_bytes(), refused / MANIFEST_FILE)
    files = {**manifest.files, **file_entries({MODEL_FILE: b"no graph at all"})}
    (refused / MANIFEST_FILE).write_text(manifest.model_copy(update={"files": files}).signed().to_json())
    return repository


def test_callers_are_told_the_model_and_the_log_where_it_is_and_why(repository):
    with capture_logs() as logged, test_server(load_models(repository, batch_max=4)) as server:
        wire = Wire(server.target)
        with pytest.raises(grpc.RpcError) as refused:
            wire.open(model="refused")
        listed = wire.models.Get(models_pb2.GetModelRequest(name="refused")).model.fault.message
        index = {one.name: one.reason for one in InferenceWire(server.target).call("RepositoryIndex").models}
        session = wire.open(model="embedding").session_id
        with pytest.raises(grpc.RpcError) as failed:
            wire.sessions.Step(request_of([session], {"token": np.array([[[99]]])}))
        wire.channel.close()
    expected = "model refused/1: model.onnx: onnxruntime refuses it; the server's log says why"
    assert (refused.value.details(), listed, index["refused"]) == (expected, expected, expected)
    assert reason_of(failed.value)[0] == "ENGINE_FAULT"
    assert failed.value.details() == "model embedding/1: a run failed; the server's log says why"
    (at_load,) = [one["fault"] for one in logged if one["event"] == "model is not served"]
    assert f"{repository}/refused/1/model.onnx: onnxruntime refuses it: " in at_load
    assert "protobuf" in at_load, "in ONNX Runtime's own words"
    (at_run,) = [one["fault"] for one in logged if one["event"] == "a step failed"]
    assert "indices element out of data bounds" in at_run


def test_its_neighbour_is_served(wire):
    assert wire.open(model="whole").next_step == 0


def test_a_repository_with_nothing_to_serve_is_a_fault_of_settings(zoo, tmp_path):
    shutil.copytree(zoo / "copy-ff", tmp_path / "flipped")
    (tmp_path / "flipped" / "1" / "model.onnx").write_bytes(b"")
    with (
        pytest.raises(SettingsFault, match=r"expected at least one that can be served; .*model\.onnx: expected"),
        test_server(load_models(tmp_path, batch_max=4)),
    ):
        pass
