"""ModelInfer and ModelStreamInfer: requests to the service, and its answers back.

Rules of this file: a stream answers in the order of its requests; whoever left is waited for no more.
"""

import asyncio
from collections import deque

from ntm_serve.errors import InvalidInput, ModelUnknown, NtmServeError
from ntm_serve.frontends.call import Call, fault_of
from ntm_serve.frontends.infer_request import Plan, Request
from ntm_serve.frontends.methods import fail, parsed
from ntm_serve.frontends.responses import ResponseWriter, error_reply, told
from ntm_serve.frontends.stream import MessageStream
from ntm_serve.frontends.tensors import Ports
from ntm_serve.inference import service_pb2
from ntm_serve.message import StepRequest
from ntm_serve.observer import CallTrace, Tracer
from ntm_serve.sequences import Sequences
from ntm_serve.service import Service
from ntm_serve.step_model import ModelKey, StepModel
from ntm_serve.submission import Submission
from ntm_serve.tenancy import TenantService

# With it the first error of a stream is its status.
STRICT_KEY = "triton_grpc_error"


class Inference:
    """What serves both methods."""

    def __init__(
        self,
        service: Service | TenantService,
        sequences: Sequences,
        *,
        messages_in_flight_max: int,
        stream_bytes_max: int,
        tracer: Tracer | None = None,
    ) -> None:
        self._service = service
        self._tracer = tracer
        self._sequences = sequences
        self._messages_in_flight_max = messages_in_flight_max
        self._stream_bytes_max = stream_bytes_max
        self.plans: dict[bytes, Plan] = {}
        # On the path of a step, and so without a call of our own.
        self.model_here, self.is_held = service.model_here, sequences.is_held
        self._ports: dict[ModelKey, Ports] = {}
        self._streams: set[MessageStream] = set()
        self._writer = ResponseWriter(streamed=False)

    def ModelInfer(self, call: Call) -> None:
        call.read(_Single(self, call, self._writer, self._trace_of(call)).take)

    def ModelStreamInfer(self, call: Call) -> None:
        strict = any(key == STRICT_KEY and value in ("true", b"true", "1", b"1") for key, value in call.metadata)
        conversation = _Conversation(self, strict=strict, trace=self._trace_of(call))
        conversation.stream = stream = MessageStream(
            call,
            conversation,
            messages_max=self._messages_in_flight_max,
            bytes_max=self._stream_bytes_max,
            held_s=lambda: self._service.held_s,
            gone=self._streams.discard,
        )
        self._streams.add(stream)
        stream.begin(draining=self._service.draining)

    def _trace_of(self, call: Call) -> CallTrace | None:
        return None if self._tracer is None else self._tracer.call(call.method, call.metadata)

    def drain(self) -> None:
        """Have every stream answer what it has in flight, and end with a status that says: connect again."""
        for stream in list(self._streams):
            stream.drain()

    def ask(self, request: Request, message: service_pb2.ModelInferRequest) -> None:
        """Have a request answered; it is refused where it cannot be read."""
        try:
            timeout_s = request.read(message, self)
            if timeout_s:
                request.timer = asyncio.get_running_loop().call_later(timeout_s, request.expire, timeout_s)
            if request.rows is None:
                self._sequences.submit(request)
            else:
                submission = self._service.submit_rows(request.rows, request.settled)
                request.submission = None if submission.answered else submission
        except NtmServeError as error:
            request.failed(error.with_traceback(None))
        except Exception as fault:
            request.failed(fault_of("ModelInfer", fault))

    def served(self, name: str, version: str) -> StepModel:
        """A model that is served, perhaps to the sequences that it has alone. Raises ModelUnknown, or its fault."""
        try:
            view = self._service.model(name, version)
        except ModelUnknown as error:
            raise ModelUnknown(f"Request for unknown model: '{name}' is not found: {error.message}") from None
        if view.model is not None:
            return view.model
        assert view.fault is not None, "a model that is not served has a fault"
        raise view.fault

    def model_of(self, session_id: str, key: ModelKey, *, start: bool) -> StepModel | None:
        """The model that a request is for: that of its sequence, which stays with its version; None where that is not
        known before its turn, because it is not in memory or about to begin anew, and the model has several. Raises
        InvalidInput, and as `served`.
        """
        if start or not session_id:
            return self.served(*key)
        model = self.model_here(session_id)
        if model is not None and not self.is_held(session_id):
            return _expected(model, key)
        newest = self.served(*key)
        may_differ = newest.spec.state and (model is not None or self._service.has_store)
        return None if may_differ and self.has_versions(key.name) else newest

    def model_now(self, session_id: str, key: ModelKey) -> StepModel:
        """That of a sequence whose turn it is. Raises InvalidInput, and as `served`."""
        model = self.model_here(session_id)
        return self.served(*key) if model is None else _expected(model, key)

    def has_versions(self, name: str) -> bool:
        """See infer_request.Models."""
        return sum(view.key.name == name and view.model is not None for view in self._service.models()) > 1

    def expect_readable(self, steps: StepRequest, model: StepModel) -> None:
        """See Service.expect_readable."""
        self._service.expect_readable(steps, model)

    def ports_of(self, model: StepModel) -> Ports:
        """A model's inputs and outputs on this wire."""
        ports = self._ports.get(model.card.key)
        if ports is None or ports.spec is not model.spec:
            ports = self._ports[model.card.key] = Ports(model.spec)
        return ports


def _expected(model: StepModel, key: ModelKey) -> StepModel:
    """The model of a sequence that a request says is of `key`. Raises InvalidInput."""
    if key.name != model.card.name or key.version not in ("", model.card.version):
        raise InvalidInput(f"model: expected {model.card.key}, which the sequence runs on, got {key}")
    return model


class _Single:
    """A call with one request."""

    def __init__(self, inference: Inference, call: Call, writer: ResponseWriter, trace: CallTrace | None) -> None:
        self._inference = inference
        self._trace = trace
        self._call = call
        self._writer = writer

    def take(self, data: bytes | None) -> None:
        if data is None:
            return self._call.fail(InvalidInput("call: expected one message, got none"))
        trace = None if self._trace is None else self._trace.message()
        try:
            message = parsed(service_pb2.ModelInferRequest, data)
        except InvalidInput as error:
            return fail(self._call, error, trace)
        request = Request(self, message, len(data), trace)
        self._call.on_over = lambda cut_short: request.leave() if cut_short else None
        return self._inference.ask(request, message)

    def reply(self, request: Request, submission: Submission) -> None:
        try:
            self._call.finish(self._writer.write(request, submission))
        except Exception as fault:
            fail(self._call, fault)

    def refuse(self, request: Request, error: NtmServeError) -> None:
        self._call.fail(told(error, request.id))


class _Conversation:
    """The requests of a stream."""

    def __init__(self, inference: Inference, *, strict: bool, trace: CallTrace | None) -> None:
        self._inference = inference
        self._trace = trace
        self._strict = strict
        self._writer = ResponseWriter(streamed=True)
        self._requests: deque[Request] = deque()
        self.stream: MessageStream | None = None

    def take(self, data: bytes) -> None:
        message = parsed(service_pb2.ModelInferRequest, data)
        trace = None if self._trace is None else self._trace.message()
        request = Request(self, message, len(data), trace)
        self._requests.append(request)
        self._inference.ask(request, message)

    def reply(self, request: Request, submission: Submission) -> None:
        try:
            answer: bytes | NtmServeError = self._writer.write(request, submission)
        except Exception as fault:  # Its steps are committed, and those who rode along are still to be answered.
            answer = fault_of("ModelStreamInfer", fault)
        self._answer(request, answer)

    def refuse(self, request: Request, error: NtmServeError) -> None:
        if self._strict:
            self._answer(request, told(error, request.id))
        else:
            reply = error_reply(error, request.id, request.model_key, wants_final=request.wants_final)
            self._answer(request, reply)

    def _answer(self, request: Request, answer: bytes | NtmServeError) -> None:
        request.answer = answer
        requests, stream = self._requests, self.stream
        while stream is not None and requests and (first := requests[0].answer) is not None:
            if isinstance(first, NtmServeError):
                return stream.fail(first)
            stream.answer(first, requests.popleft().size)
        return None

    def give_up(self) -> None:
        """The last first: none is then aborted because of another."""
        requests, self._requests, self.stream = self._requests, deque(), None
        for request in reversed(requests):
            request.leave()
