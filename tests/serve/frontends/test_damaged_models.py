"""Damaged and incomplete model directories, over a real socket: named, refused, and no harm to their neighbours."""

import shutil

import grpc
import pytest

from ntm_serve.app import load_models
from ntm_serve.errors import SettingsFault
from ntm_serve.testing import test_server
from ntm_serve.v1 import models_pb2

from .wire_client import Wire, reason_of


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
        ("flipped", grpc.StatusCode.DATA_LOSS, "MODEL_DAMAGED", "flipped/1/model.onnx: expected 63"),
        (
            "incomplete",
            grpc.StatusCode.FAILED_PRECONDITION,
            "MODEL_INCOMPLETE",
            "incomplete/1/golden.npz: expected a readable file, got: No such file",
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
