"""A request of the Open Inference Protocol: what it asks for, and of whom.

Rules of this file: a request is read whole, and refused where it cannot be; it is answered once, or its asker left.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, Protocol

import numpy as np

from ntm_serve.errors import DeadlinePassed, InvalidInput, ModelUnknown, NtmServeError, Unsupported
from ntm_serve.frontends.methods import LEFT
from ntm_serve.frontends.parameters import Parameters
from ntm_serve.frontends.responses import CAUSE, SNAPSHOT
from ntm_serve.frontends.tensors import Axes, Ports, arrays_of, expect_no_shared_memory
from ntm_serve.inference import service_pb2
from ntm_serve.message import StepRequest
from ntm_serve.observer import MessageTrace
from ntm_serve.sequences import GONE, Asked, Change, SequenceId, session_name
from ntm_serve.stateless import InferRequest
from ntm_serve.step_model import ModelKey, StepModel
from ntm_serve.submission import Submission

MODEL_NAME_MAX = 128

# Names of sequences that are made once.
NAMES_KEPT = 65_536

Tensors = Sequence[service_pb2.ModelInferRequest.InferInputTensor]

_NOTHING = StepRequest((), (), {})
_name_of = lru_cache(NAMES_KEPT)(session_name)


class Plan(NamedTuple):
    """What was read of a request in the middle of a sequence: one that differs in its id and its inputs' bytes alone
    need not be read, and 17 of 20 requests of a sequence of 20 are such. inputs: name, shape, dtype, bytes of each.
    """

    session_ids: tuple[str]
    sequence_id: SequenceId
    model: StepModel
    inputs: tuple[tuple[str, Axes, np.dtype[Any], int], ...]
    outputs: Sequence[str]
    axes: Axes
    wants_final: bool


# Plans that are kept, and how long the rest of a request may be that is kept for one.
PLANS_MAX, PLANNED_BYTES_MAX = 4096, 512


class Models(Protocol):
    """The models that are served. plans: of requests that came, by their bytes without the id and the inputs'."""

    plans: dict[bytes, Plan]

    def model_here(self, session_id: str) -> StepModel | None:
        """The model of a session that is in memory."""
        ...

    def model_of(self, session_id: str, key: ModelKey, *, start: bool) -> StepModel | None:
        """The model that a request is for; None where that is not known before its turn. Raises ModelUnknown,
        InvalidInput, and the fault of one not served.
        """
        ...

    def model_now(self, session_id: str, key: ModelKey) -> StepModel:
        """As `model_of`, for one whose turn it is."""
        ...

    def is_held(self, session_id: str) -> bool:
        """Whether a request has the sequence to itself."""
        ...

    def has_versions(self, name: str) -> bool:
        """Whether sequences of a model may be on several."""
        ...

    def ports_of(self, model: StepModel) -> Ports: ...

    def expect_readable(self, steps: StepRequest, model: StepModel) -> None:
        """Raises InvalidInput for steps that no sequence of the model would take."""
        ...


class Asker(Protocol):
    """Whoever sent a request."""

    def reply(self, request: "Request", submission: Submission) -> None: ...

    def refuse(self, request: "Request", error: NtmServeError) -> None: ...


class Request(Asked):
    """A request that was read. axes: those of its inputs before a step's. numbers: its sequence's next step and the
    step below which all is durable, where they were asked for.
    """

    __slots__ = (
        "_asker", "_numbered", "_trace", "_unread", "answer", "axes", "id", "model", "model_key", "numbers", "rows",
        "sequence_id", "size", "timer", "wants_final",
    )  # fmt: skip

    model: StepModel

    def __init__(
        self, asker: Asker, message: service_pb2.ModelInferRequest, size: int, trace: MessageTrace | None = None
    ) -> None:
        super().__init__(_NOTHING, None)
        self._asker: Asker | None = asker
        # Until it is told how the request ended.
        self._trace = trace
        self._numbered = False
        # Reads what waits for its turn.
        self._unread: Callable[[], None] | None = None
        self.id: str = message.id
        self.size = size
        self.model_key = ModelKey(message.model_name, message.model_version)
        self.sequence_id: SequenceId | None = None
        # Of a model without state; there are no steps then.
        self.rows: InferRequest | None = None
        self.axes: Axes = ()
        self.wants_final = False
        self.numbers: tuple[int, int] | None = None
        self.timer: asyncio.TimerHandle | None = None
        # What is to be written when its turn comes.
        self.answer: bytes | NtmServeError | None = None

    def read(self, message: service_pb2.ModelInferRequest, models: Models) -> float:
        """Read all of the message, which is taken apart; the seconds that it may take, 0 for no limit. Raises what
        refuses it.
        """
        raw: list[bytes] = message.raw_input_contents[:]
        if not raw or self.size - len(raw[0]) > PLANNED_BYTES_MAX:
            return self._read(message, raw, models)
        message.ClearField("raw_input_contents")
        message.ClearField("id")
        form = message.SerializeToString()
        plan = models.plans.get(form)
        if plan is not None and self._follow(plan, raw, models):
            return 0.0
        timeout_s = self._read(message, raw, models)
        special = timeout_s or self.rows or self.change or self._numbered or self.unread
        if not (special or models.ports_of(self.model).have_bools):
            if len(models.plans) >= PLANS_MAX:
                models.plans.clear()
            models.plans[form] = self._planned(raw)
        return timeout_s

    def _follow(self, plan: Plan, raw: Sequence[bytes], models: Models) -> bool:
        """Take what was read of a request like this one, if it is still so, and its bytes are as many."""
        session_id = plan.session_ids[0]
        if models.model_here(session_id) is not plan.model or len(raw) != len(plan.inputs):
            return False
        if models.is_held(session_id) and models.has_versions(self.model_key.name):  # It may be another's by then.
            return False
        inputs = {}
        for (name, shape, dtype, nbytes), data in zip(plan.inputs, raw, strict=True):
            if len(data) != nbytes:
                return False
            inputs[name] = np.ndarray(shape, dtype, data)
        self.steps = StepRequest(plan.session_ids, (None,), inputs, plan.outputs)
        self.model, self.sequence_id = plan.model, plan.sequence_id
        self.axes, self.wants_final = plan.axes, plan.wants_final
        return True

    def _planned(self, raw: Sequence[bytes]) -> Plan:
        steps = self.steps
        assert self.sequence_id is not None, "a request of a sequence"
        arrays = zip(steps.inputs.items(), raw, strict=True)
        return Plan(
            (steps.session_ids[0],),
            self.sequence_id,
            self.model,
            tuple([(name, array.shape, array.dtype, len(data)) for (name, array), data in arrays]),
            steps.output_names,
            self.axes,
            self.wants_final,
        )

    def _read(self, message: service_pb2.ModelInferRequest, raw: Sequence[bytes], models: Models) -> float:
        parameters = Parameters(message.parameters)
        self.wants_final = parameters.wants_final
        self._numbered = parameters.step is not None
        sequence_id = self.sequence_id = parameters.sequence_id
        name = self.model_key.name
        if len(name) > MODEL_NAME_MAX:  # No name is made of it, and kept.
            raise ModelUnknown(f"Request for unknown model: '{name[:MODEL_NAME_MAX]}...' is not found")
        session_id = "" if sequence_id is None else _name_of(name, sequence_id)
        model = models.model_of(session_id, self.model_key, start=parameters.start)
        if model is None:
            self.steps, self.unread = StepRequest((session_id,), (None,), {}), True
            self._unread = partial(self._read_tensors, message, raw, parameters, models, session_id)
        else:
            self._read_tensors(message, raw, parameters, models, session_id, model)
        return parameters.timeout_s

    def read_now(self) -> None:
        """See Asked.read_now."""
        unread, self._unread = self._unread, None
        if unread is not None:
            unread()

    def _read_tensors(
        self,
        message: service_pb2.ModelInferRequest,
        raw: Sequence[bytes],
        parameters: Parameters,
        models: Models,
        session_id: str,
        model: StepModel | None = None,
    ) -> None:
        """model: None where it is the turn of its sequence."""
        model = self.model = model or models.model_now(session_id, self.model_key)
        outputs = [_wanted(one) for one in message.outputs] if message.outputs else ()
        if not model.spec.state:
            self._read_rows(message, raw, parameters, models.ports_of(model), outputs)
        elif not session_id:
            raise _no_sequence(self.model_key.name)
        else:
            self._read_steps(message, raw, parameters, models.ports_of(model), outputs, session_id)
            if parameters.start:  # What was there is let go for it.
                models.expect_readable(self.steps, model)

    def _read_rows(
        self,
        message: service_pb2.ModelInferRequest,
        raw: Sequence[bytes],
        parameters: Parameters,
        ports: Ports,
        outputs: Sequence[str],
    ) -> None:
        """Of a model without state: whether they are of a sequence is all the same to it."""
        if parameters.asks_for_memory:
            raise InvalidInput(f"ntm_: expected a model with a memory, and {self.model_key.name} has none")
        inputs, self.axes = arrays_of(ports, message.inputs, raw)
        if len(self.axes) > 1:
            raise InvalidInput(f"inputs: expected one axis of rows before a row's own, got {list(self.axes)}")
        rows = {name: array[0] for name, array in inputs.items()}
        self.rows = InferRequest(*self.model.card.key, rows, outputs)

    def _read_steps(
        self,
        message: service_pb2.ModelInferRequest,
        raw: Sequence[bytes],
        parameters: Parameters,
        ports: Ports,
        outputs: Sequence[str],
        session_id: str,
    ) -> None:
        tensors: Tensors = message.inputs
        snapshot = None
        if parameters.start:
            tensors, raw, snapshot = _without_snapshot(message.inputs, raw)
        inputs, self.axes = arrays_of(ports, tensors, raw)
        self.steps = StepRequest((session_id,), (parameters.step,), inputs, outputs)
        if parameters.start or parameters.end or parameters.snapshot:
            self.change = _change(parameters, self.model_key, snapshot)
        if not parameters.start and (parameters.fork is not None or parameters.fork_step is not None):
            raise InvalidInput("ntm_fork: expected it with sequence_start")

    def answered(self, submission: Submission) -> None:
        self._end_timer()
        trace, self._trace = self._trace, None
        if trace is not None:
            trace.answered(submission.timeline())
        if self._numbered:
            self.numbers = submission.next_steps[0], submission.durable_steps[0]
        asker, self._asker = self._asker, None
        if asker is not None:
            asker.reply(self, submission)

    def failed(self, error: NtmServeError) -> None:
        self._end_timer()
        self._end_trace(error)
        asker, self._asker = self._asker, None
        if asker is not None:
            started = self.change is not None and self.change.start
            asker.refuse(self, _not_started(self, error) if isinstance(error, GONE) and not started else error)

    def leave(self) -> None:
        """Whoever asked is gone."""
        self._asker = None
        self._end_timer()
        self._end_trace(LEFT)
        self.cancel()

    def expire(self, timeout_s: float) -> None:
        """Its time is over."""
        self.timer = None
        asker, self._asker = self._asker, None
        error = DeadlinePassed(f"Request timeout expired: it was not answered within {timeout_s:g} s")
        self._end_trace(error)
        self.cancel()
        if asker is not None:
            asker.refuse(self, error)

    def _end_trace(self, error: NtmServeError) -> None:
        trace, self._trace = self._trace, None
        if trace is not None:
            trace.failed(error)

    def _end_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


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


def _without_snapshot(tensors: Tensors, raw: Sequence[bytes]) -> tuple[Tensors, Sequence[bytes], bytes | None]:
    """Inputs and their bytes, and the snapshot that stood among them, or None. Raises InvalidInput."""
    places = [place for place, one in enumerate(tensors) if one.name == SNAPSHOT]
    if not places:
        return tensors, raw, None
    place, one = places[0], tensors[places[0]]
    if len(places) > 1 or len(raw) != len(tensors) or (one.datatype, [*one.shape]) != ("UINT8", [len(raw[place])]):
        raise InvalidInput(f"{SNAPSHOT}: expected one UINT8 [N] with N raw bytes, got {one.datatype} {list(one.shape)}")
    others = [number for number in range(len(tensors)) if number != place]
    return [tensors[number] for number in others], [raw[number] for number in others], raw[place]


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
