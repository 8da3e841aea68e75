"""Responses of the Open Inference Protocol as bytes, and what their errors say. Pure."""

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ntm_serve.errors import NtmServeError
from ntm_serve.frontends.tensors import Axes, Port
from ntm_serve.inference import service_pb2
from ntm_serve.spec import Array, TensorSpec
from ntm_serve.step_model import ModelKey
from ntm_serve.submission import Submission

if TYPE_CHECKING:
    from ntm_serve.frontends.infer_request import Request

# The output with a sequence's state, and the input that takes it.
SNAPSHOT = "ntm_snapshot"

FINAL = "triton_final_response"
UNKNOWN_ID = "<id_unknown>"
# Characters of a request's id in a text: the metadata of a status has room for little.
ID_SHOWN_MAX = 128

# As NtmServeError.fields has it: the reason that a client acts on, where the error stands for another.
CAUSE = "cause"

Outputs = Sequence[tuple[TensorSpec, Array]]


class ResponseWriter:
    """Responses of one kind: of a stream, or of a call. Most are like the one before: then only the id and the outputs'
    bytes are written anew.
    """

    def __init__(self, *, streamed: bool) -> None:
        self._streamed = streamed
        self._whole: Any = service_pb2.ModelStreamInferResponse() if streamed else service_pb2.ModelInferResponse()
        self._form: tuple[object, Axes, ModelKey | None, bool] | None = None

    def write(self, request: "Request", submission: Submission) -> bytes:
        """The response to a request that was answered."""
        whole, outputs = self._whole, submission.outputs()
        mine = (submission.form, request.axes, submission.model, request.wants_final)
        if mine != self._form:
            whole.Clear()
            _begin(self._response(whole), request, submission.model, outputs)
            self._form = mine
        response = self._response(whole)
        response.id = request.id
        response.raw_output_contents[:] = [array.tobytes() for _, array in outputs]
        if request.numbers is None and request.snapshot is None:
            return _bytes(whole)
        special = type(whole)()
        special.CopyFrom(whole)
        _add(self._response(special), request)
        return _bytes(special)

    def _response(self, whole: Any) -> service_pb2.ModelInferResponse:
        response: service_pb2.ModelInferResponse = whole.infer_response if self._streamed else whole
        return response


def _bytes(message: Any) -> bytes:
    serialized: bytes = message.SerializeToString()
    return serialized


def _begin(
    response: service_pb2.ModelInferResponse, request: "Request", model: ModelKey | None, outputs: Outputs
) -> None:
    assert model is not None, "what is answered was admitted"
    response.model_name, response.model_version = model
    if request.wants_final:
        response.parameters[FINAL].bool_param = True
    for spec, _ in outputs:
        port = Port(spec)
        response.outputs.add(name=port.name, datatype=port.datatype, shape=(*request.axes, *port.shape))


def _add(response: service_pb2.ModelInferResponse, request: "Request") -> None:
    if request.numbers is not None:
        next_step, durable_step = request.numbers
        response.parameters["ntm_next_step"].int64_param = next_step
        response.parameters["ntm_durable_step"].int64_param = durable_step
    if request.snapshot is not None:
        response.outputs.add(name=SNAPSHOT, datatype="UINT8", shape=(len(request.snapshot),))
        response.raw_output_contents.append(request.snapshot)


def told(error: NtmServeError, request_id: str = "") -> NtmServeError:
    """The error as a client is told it that may see its text alone: with the request and the reason in it."""
    telling = copy.copy(error)
    telling.message = f"{error.message}; reason={error.fields.get(CAUSE, error.reason)}"
    if request_id:
        telling.message = f"[request id: {request_id[:ID_SHOWN_MAX]}] {telling.message}"
    return telling


def error_reply(error: NtmServeError, request_id: str, model: ModelKey, *, wants_final: bool) -> bytes:
    """An error in a stream."""
    reply = service_pb2.ModelStreamInferResponse(error_message=told(error, request_id or UNKNOWN_ID).message)
    response = reply.infer_response
    response.id = request_id
    response.model_name, response.model_version = model
    if wants_final:
        response.parameters[FINAL].bool_param = True
    return reply.SerializeToString()
