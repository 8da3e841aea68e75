"""Numbers beyond an input's range, over real sockets: refused before anything runs, in one session's name."""

import grpc
import httpx
import numpy as np
import pytest

from ntm_serve.app import load_models
from ntm_serve.client import Client
from ntm_serve.errors import InvalidInput
from ntm_serve.http.forms import spec_json
from ntm_serve.inference import service_pb2
from ntm_serve.spec import Range
from ntm_serve.testing import test_server
from ntm_serve.v1 import models_pb2
from ntm_serve.wire import array_of, spec_of
from tests.serve.embedding import RANGE, TABLE, write_embedding, write_lookup

from .inference_client import InferenceWire, set_parameter, y_of
from .wire_client import Wire, reason_of, request_of


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The embedding in two versions, of which the second says its range; and a table without state."""
    repository = tmp_path_factory.mktemp("repository")
    write_embedding(repository / "embedding" / "1")
    write_embedding(repository / "embedding" / "2", RANGE)
    write_lookup(repository / "lookup" / "1", RANGE)
    with test_server(load_models(repository, batch_max=4), inspector="write") as server:
        yield server


@pytest.fixture
def wire(server):
    it = Wire(server.target)
    yield it
    it.channel.close()


@pytest.fixture
def triton(server):
    it = InferenceWire(server.target)
    yield it
    it.channel.close()


def tokens(*sessions):
    """[S, T, 1]."""
    return {"token": np.array(sessions, np.int64)[..., None]}


def rows_of(model, values, *, dtype="INT64", **parameters):
    array = np.array(values, np.int64).reshape(-1, 1)
    request = service_pb2.ModelInferRequest(model_name=model, raw_input_contents=[array.tobytes()])
    request.inputs.add(name="token", datatype=dtype, shape=array.shape)
    for name, value in parameters.items():
        set_parameter(request.parameters[name], value)
    return request


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ((1, 8), "token: expected numbers from 0 to 7, got 8 at [1, 0]"),
        ((-1, 1), "token: expected numbers from 0 to 7, got -1 at [0, 0]"),
        ((3, -(2**63)), "token: expected numbers from 0 to 7, got -9223372036854775808 at [1, 0]"),
    ],
)
def test_one_session_of_a_message_is_refused_and_its_neighbours_are_answered(wire, bad, told):
    before, at_fault, after = (wire.open(model="embedding").session_id for _ in range(3))
    response = wire.sessions.Step(request_of([before, at_fault, after], tokens((1, 2), bad, (7, 0))))

    (failure,) = response.failures
    assert (failure.session_id, failure.error.reason, failure.next_step) == (at_fault, "INVALID_INPUT", 0)
    assert failure.error.message == told
    (y,) = (array_of(one) for one in response.outputs)
    assert y[:, -1, 0].tolist() == [(TABLE[1] + TABLE[2]).tolist(), (TABLE[7] + TABLE[0]).tolist()]

    assert [wire.get(one).next_step for one in (before, at_fault, after)] == [2, 0, 2]
    again = wire.outputs(request_of([at_fault], tokens((1, 2)), first_steps=[0]))["y"]
    assert again[0, -1, 0].tolist() == (TABLE[1] + TABLE[2]).tolist()


def test_a_message_of_one_session_fails_with_it_and_nothing_ran(wire):
    session = wire.open(model="embedding").session_id
    with pytest.raises(grpc.RpcError) as refused:
        wire.sessions.Step(request_of([session], tokens((0, 99))))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason_of(refused.value)[0] == "INVALID_INPUT"
    assert refused.value.details() == "token: expected numbers from 0 to 7, got 99 at [1, 0]"
    assert wire.get(session).next_step == 0


@pytest.mark.parametrize("order", [("1", "2"), ("2", "1"), ("1", "2", "1"), ("2", "1", "2")])
def test_versions_of_other_ranges_share_a_message_and_each_has_its_own(wire, order):
    sessions = [wire.open(model="embedding", version=version).session_id for version in order]
    # The graph takes -1 as the last row; the version without a range says nothing against it.
    response = wire.sessions.Step(request_of(sessions, tokens(*[(-1,)] * len(order))))
    assert [one.session_id for one in response.failures] == [
        session for session, version in zip(sessions, order, strict=True) if version == "2"
    ]
    assert {one.error.reason for one in response.failures} == {"INVALID_INPUT"}
    both = wire.outputs(request_of(sessions, tokens(*[(7,)] * len(order))))["y"]
    assert len(both) == len(order)


def test_the_range_is_told_by_every_face(server, wire):
    of_grpc = wire.models.Get(models_pb2.GetModelRequest(name="embedding")).model.inputs[0]
    assert spec_of(of_grpc).range == (0, 7)
    assert (
        not wire.models.Get(models_pb2.GetModelRequest(name="embedding", version="1")).model.inputs[0].HasField("range")
    )
    with Client(server.target) as client, client.session("embedding") as session:
        assert session.inputs[0].range == Range(0, 7)
        assert str(client.model("embedding").inputs[0]) == "int64[1] in 0..7"
        with pytest.raises(InvalidInput, match=r"token: expected numbers from 0 to 7, got 8 at \[0, 0\]"):
            session.step(np.array([8]))
        assert session.step(np.array([7])).tolist() == [TABLE[7].tolist()]
    listed = httpx.get(f"{server.http}/api/v1/models").json()["models"]
    told = {(one["name"], one["version"]): one["inputs"][0]["range"] for one in listed}
    assert told[("embedding", "2")] == {"min": 0, "max": 7}
    assert told[("embedding", "1")] is None
    assert spec_json(spec_of(of_grpc))["range"] == {"min": 0, "max": 7}


def test_steps_by_hand_are_refused_over_http(server, wire):
    session = wire.open(model="embedding").session_id
    steps = f"{server.http}/api/v1/sessions/{session}/steps"
    answer = httpx.post(steps, json={"inputs": {"token": [[0], [8]]}})
    assert (answer.status_code, answer.json()["error"]["reason"]) == (400, "INVALID_INPUT")
    assert answer.json()["error"]["message"] == "token: expected numbers from 0 to 7, got 8 at [1, 0]"
    assert httpx.post(steps, json={"inputs": {"token": [[0], [7]]}}).json()["next_step"] == 2


def test_a_stream_goes_on_after_a_message_that_is_refused(wire):
    session = wire.open(model="embedding").session_id
    good, bad, again = wire.stream(request_of([session], tokens((one,))) for one in (1, 8, 2))
    assert not good.failures
    assert bad.failures[0].error.message == "token: expected numbers from 0 to 7, got 8 at [0, 0]"
    assert array_of(again.outputs[0])[0, 0, 0].tolist() == (TABLE[1] + TABLE[2]).tolist()


def test_a_sequence_is_refused_and_goes_on(triton):
    triton.infer_response(rows_of("embedding", [1], sequence_id=5, sequence_start=True))
    with pytest.raises(grpc.RpcError) as refused:
        triton.infer_response(rows_of("embedding", [2, -3], sequence_id=5))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "token: expected numbers from 0 to 7, got -3 at [1, 0]" in refused.value.details()
    reply = triton.infer_response(rows_of("embedding", [2], sequence_id=5, sequence_end=True))
    assert y_of(reply)[0].tolist() == [(TABLE[1] + TABLE[2]).tolist()]


def test_a_start_beyond_the_range_leaves_the_sequence_as_it_was(triton):
    triton.infer_response(rows_of("embedding", [1], sequence_id=6, sequence_start=True))
    with pytest.raises(grpc.RpcError, match="got 8 at"):
        triton.infer_response(rows_of("embedding", [8], sequence_id=6, sequence_start=True))
    reply = triton.infer_response(rows_of("embedding", [2], sequence_id=6, sequence_end=True))
    assert y_of(reply)[0].tolist() == [(TABLE[1] + TABLE[2]).tolist()]


def test_rows_without_state_are_refused_whole_and_by_their_place(triton):
    with pytest.raises(grpc.RpcError) as refused:
        triton.infer_response(rows_of("lookup", [0, 7, -1]))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "token: expected numbers from 0 to 7, got -1 at [2, 0]" in refused.value.details()
    reply = triton.infer_response(rows_of("lookup", [0, 7]))
    assert y_of(reply)[:, 0].tolist() == [TABLE[0].tolist(), TABLE[7].tolist()]
