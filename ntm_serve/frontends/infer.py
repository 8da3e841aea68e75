"""ModelInfer and ModelStreamInfer: requests of sequences to the service, and its answers back.

Rules of this file: a request is read whole before anything of it is admitted; a stream answers in the order of its
requests; whoever left is waited for no more.
"""

import asyncio
from collections import deque
from functools import lru_cache
from typing import Protocol

from ntm_serve.errors import DeadlinePassed, InvalidInput, ModelUnknown, NtmServeError, Unsupported
from ntm_serve.frontends.call import Call, fault_of
from ntm_serve.frontends.methods import fail, parsed
from ntm_serve.frontends.parameters import Parameters
from ntm_serve.frontends.responses import CAUSE, SNAPSHOT, ResponseWriter, error_reply, told
from ntm_serve.frontends.stream import MessageStream
from ntm_serve.frontends.tensors import Axes, Ports, arrays_of, expect_no_shared_memory
from ntm_serve.inference import service_pb2
from ntm_serve.message import StepRequest
from ntm_serve.sequences import GONE, Asked, Change, SequenceId, Sequences, session_name
from ntm_serve.service import Service
from ntm_serve.spec import expect_finite
from ntm_serve.step_model import ModelKey, StepModel
from ntm_serve.submission import Submission

MODEL_NAME_MAX = 128

# Names of sequences that are made once.
NAMES_KEPT = 65_536

# With it the first error of a stream is its status.
STRICT_KEY = "triton_grpc_error"

_NOTHING = StepRequest((), (), {})
_name_of = lru_cache(NAMES_KEPT)(session_name)


class Asker(Protocol):
    """Whoever sent a request."""

    def reply(self, request: "Request", submission: Submission) -> None: ...

    def refuse(self, request: "Request", error: NtmServeError) -> None: ...


class Request(Asked):
    """A request that was read. axes: those of its inputs before a step's. numbers: its sequence's next step and the
    step below which all is durable, where they were asked for.
    """

    __slots__ = (
        "_asker", "_numbered", "answer", "axes", "id", "model", "model_key", "numbers", "sequence_id", "size", "timer",
        "wants_final",
    )  # fmt: skip

    model: StepModel

    def __init__(self, asker: Asker, message: service_pb2.ModelInferRequest, size: int) -> None:
        super().__init__(_NOTHING, None)
        self._asker: Asker | None = asker
        self._numbered = False
        self.id: str = message.id
        self.size = size
        self.model_key = ModelKey(message.model_name, message.model_version)
        self.sequence_id: SequenceId | None = None
        self.axes: Axes = ()
        self.wants_final = False
        self.numbers: tuple[int, int] | None = None
        self.timer: asyncio.TimerHandle | None = None
        # What is to be written when its turn comes.
        self.answer: bytes | NtmServeError | None = None

    def read(self, message: service_pb2.ModelInferRequest, inference: "Inference") -> float:
        """Read all of the message; the seconds that it may take, 0 for no limit. Raises what refuses it."""
        parameters = Parameters(message.parameters)
        self.wants_final = parameters.wants_final
        self._numbered = parameters.step is not None
        sequence_id = self.sequence_id = parameters.sequence_id
        name, version = self.model_key
        if sequence_id is None:
            inference.served(name, version)
            raise _no_sequence(name)
        if len(name) > MODEL_NAME_MAX:  # No name is made of it, and kept.
            raise ModelUnknown(f"Request for unknown model: '{name[:MODEL_NAME_MAX]}...' is not found")
        session_id = _name_of(name, sequence_id)
        model = self.model = inference.model_of(session_id, self.model_key, start=parameters.start)
        ports = inference.ports_of(model)
        outputs = [_wanted(one) for one in message.outputs] if message.outputs else ()
        tensors, raw, snapshot = message.inputs, message.raw_input_contents, None
        if parameters.start:
            tensors, raw, snapshot = _without_snapshot(message)
        inputs, self.axes = arrays_of(ports, tensors, raw)
        self.steps = StepRequest((session_id,), (parameters.step,), inputs, outputs)
        if parameters.start or parameters.end or parameters.snapshot:
            self.change = _change(parameters, self.model_key, snapshot)
        if parameters.start:  # What was there is let go for it.
            for one, array in inputs.items():
                expect_finite(one, array)
        elif parameters.fork is not None or parameters.fork_step is not None:
            raise InvalidInput("ntm_fork: expected it with sequence_start")
        return parameters.timeout_s

    def answered(self, submission: Submission) -> None:
        self._end_timer()
        if self._numbered:
            self.numbers = submission.next_steps[0], submission.durable_steps[0]
        asker, self._asker = self._asker, None
        if asker is not None:
            asker.reply(self, submission)

    def failed(self, error: NtmServeError) -> None:
        self._end_timer()
        asker, self._asker = self._asker, None
        if asker is not None:
            started = self.change is not None and self.change.start
            asker.refuse(self, _not_started(self, error) if isinstance(error, GONE) and not started else error)

    def leave(self) -> None:
        """Whoever asked is gone."""
        self._asker = None
        self._end_timer()
        self.cancel()

    def expire(self, timeout_s: float) -> None:
        """Its time is over."""
        self.timer = None
        asker, self._asker = self._asker, None
        self.cancel()
        if asker is not None:
            asker.refuse(self, DeadlinePassed(f"Request timeout expired: it was not answered within {timeout_s:g} s"))

    def _end_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Inference:
    """What serves both methods."""

    def __init__(
        self, service: Service, sequences: Sequences, *, messages_in_flight_max: int, stream_bytes_max: int
    ) -> None:
        self._service = service
        self._sequences = sequences
        self._messages_in_flight_max = messages_in_flight_max
        self._stream_bytes_max = stream_bytes_max
        self._ports: dict[ModelKey, Ports] = {}
        self._streams: set[MessageStream] = set()
        self._writer = ResponseWriter(streamed=False)

    def ModelInfer(self, call: Call) -> None:
        call.read(_Single(self, call, self._writer).take)

    def ModelStreamInfer(self, call: Call) -> None:
        strict = any(key == STRICT_KEY and value in ("true", b"true", "1", b"1") for key, value in call.metadata)
        conversation = _Conversation(self, strict=strict)
        conversation.stream = stream = MessageStream(
            call,
            conversation,
            messages_max=self._messages_in_flight_max,
            bytes_max=self._stream_bytes_max,
            gone=self._streams.discard,
        )
        self._streams.add(stream)
        stream.begin(draining=self._service.draining)

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
            self._sequences.submit(request)
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

    def model_of(self, session_id: str, key: ModelKey, *, start: bool) -> StepModel:
        """The model that a request is for: that of its sequence, which stays with its version. Raises InvalidInput, and
        as `served`.
        """
        model = None if start else self._service.model_here(session_id)
        if model is None:
            return self.served(*key)
        if key.name != model.card.name or key.version not in ("", model.card.version):
            raise InvalidInput(f"model: expected {model.card.key}, which the sequence runs on, got {key}")
        return model

    def ports_of(self, model: StepModel) -> Ports:
        """A model's inputs and outputs on this wire."""
        ports = self._ports.get(model.card.key)
        if ports is None or ports.spec is not model.spec:
            ports = self._ports[model.card.key] = Ports(model.spec)
        return ports


class _Single:
    """A call with one request."""

    def __init__(self, inference: Inference, call: Call, writer: ResponseWriter) -> None:
        self._inference = inference
        self._call = call
        self._writer = writer

    def take(self, data: bytes | None) -> None:
        if data is None:
            return self._call.fail(InvalidInput("call: expected one message, got none"))
        try:
            message = parsed(service_pb2.ModelInferRequest, data)
        except InvalidInput as error:
            return fail(self._call, error)
        request = Request(self, message, len(data))
        self._call.on_over = lambda cut_short: request.leave() if cut_short else None
        return self._inference.ask(request, message)

    def reply(self, request: Request, submission: Submission) -> None:
        try:
            self._call.finish(self._writer.write(request, submission.form, submission.outputs()))
        except Exception as fault:
            fail(self._call, fault)

    def refuse(self, request: Request, error: NtmServeError) -> None:
        self._call.fail(told(error, request.id))


class _Conversation:
    """The requests of a stream."""

    def __init__(self, inference: Inference, *, strict: bool) -> None:
        self._inference = inference
        self._strict = strict
        self._writer = ResponseWriter(streamed=True)
        self._requests: deque[Request] = deque()
        self.stream: MessageStream | None = None

    def take(self, data: bytes) -> None:
        message = parsed(service_pb2.ModelInferRequest, data)
        request = Request(self, message, len(data))
        self._requests.append(request)
        self._inference.ask(request, message)

    def reply(self, request: Request, submission: Submission) -> None:
        try:
            answer: bytes | NtmServeError = self._writer.write(request, submission.form, submission.outputs())
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


def _change(parameters: Parameters, model: ModelKey, snapshot: bytes | None) -> Change:
    fork_of = ""
    if parameters.start:
        if parameters.fork is not None:
            fork_of = _name_of(model.name, parameters.fork)
            if parameters.fork == parameters.sequence_id or snapshot is not None:
                raise InvalidInput("ntm_fork: expected the id of another sequence, and no snapshot beside it")
        elif parameters.fork_step is not None:
            raise InvalidInput("ntm_fork_step: expected it with ntm_fork")
        elif parameters.step and snapshot is None:
            raise InvalidInput(f"ntm_step: expected 0 with sequence_start, got {parameters.step}")
    return Change(
        model.name,
        model.version,
        start=parameters.start,
        end=parameters.end,
        snapshot=parameters.snapshot,
        fork_of=fork_of,
        fork_step=parameters.fork_step,
        restore=snapshot,
    )


def _wanted(output: service_pb2.ModelInferRequest.InferRequestedOutputTensor) -> str:
    """The name of an output that is asked for. Raises Unsupported for what it is asked to be."""
    if output.parameters:
        expect_no_shared_memory(output.name, output.parameters)
        if output.parameters.get("classification") is not None:
            raise Unsupported(f"{output.name}: classification is not supported: read the values")
    name: str = output.name
    return name


def _without_snapshot(message: service_pb2.ModelInferRequest):  # type: ignore[no-untyped-def]
    """Inputs, raw contents, and the snapshot that stood among them, or None. Raises InvalidInput."""
    tensors, raw = list(message.inputs), list(message.raw_input_contents)
    places = [place for place, one in enumerate(tensors) if one.name == SNAPSHOT]
    if not places:
        return message.inputs, message.raw_input_contents, None
    place, one = places[0], tensors[places[0]]
    if len(places) > 1 or len(raw) != len(tensors) or (one.datatype, [*one.shape]) != ("UINT8", [len(raw[place])]):
        raise InvalidInput(f"{SNAPSHOT}: expected one UINT8 [N] with N raw bytes, got {one.datatype} {list(one.shape)}")
    del tensors[place]
    return tensors, raw, raw.pop(place)


def _no_sequence(name: str) -> NtmServeError:
    return InvalidInput(
        f"inference request to model '{name}' must specify a non-zero or non-empty correlation ID: the model has a "
        "memory; send sequence_id with each request, and sequence_start with a sequence's first"
    )


def _not_started(request: Request, error: NtmServeError) -> NtmServeError:
    return InvalidInput(
        f"inference request for sequence {request.sequence_id} to model '{request.model_key.name}' must specify the "
        f"START flag on the first request of the sequence: {error.message}",
        fields={**error.fields, CAUSE: error.reason},
    )
