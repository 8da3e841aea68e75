"""Everything that the sync and the aio client share: pure, without a channel.

What a caller passes as x is an array for a model with one input, or a mapping of names to arrays. Its rank
tells one step (`[...]`, as in the model's spec) from T steps (`[T, ...]`); what comes back has the same form.
"""

import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2, status_pb2
from numpy.typing import ArrayLike

from ntm_serve import errors
from ntm_serve.client.healing import RetryPolicy, expect_standing, meaning_of
from ntm_serve.durability import Durability
from ntm_serve.errors import InvalidInput, NtmServeError, TooLarge
from ntm_serve.spec import Array, TensorSpec, described, expect_names
from ntm_serve.v1 import sessions_pb2, tensor_pb2
from ntm_serve.wire import DETAILS_KEY, arrays_of, error_of, error_of_wire, spec_of, tensor_of, wire_durability

Inputs = ArrayLike | Mapping[str, ArrayLike]
Outputs = Array | dict[str, Array]

# State tensors by name, without leading axes, each of the dtype and shape that the model says.
InitialState = Mapping[str, ArrayLike]


# Messages on their way before the first is answered: enough to hide a round trip, few enough that all
# of them can be answered again from a session's reply window.
IN_FLIGHT_MAX_DEFAULT = 16

CHANNEL_OPTIONS: tuple[tuple[str, Any], ...] = (
    # The server's limit is the one that counts; the default of 4 MiB would refuse its longer replies.
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # gRPC's own waits between connections, by default up to two minutes: a server that is back shall be found soon.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # For all its name how long making a connection may take: enough for a slow line, and less than the default of
    # 20 s, which one that leads nowhere would cost.
    ("grpc.min_reconnect_backoff_ms", 5_000),
    # Pings go on while nothing but pings is sent, as when a stream waits for a long step.
    ("grpc.http2.max_pings_without_data", 0),
)

# Without details of ours these come from the transport: a stream that was reset, a frame that is none, a call that
# something between client and server gave up. A server's own faults carry their reason.
_OF_TRANSPORT = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})

_ERROR_OF_CODE: Mapping[grpc.StatusCode, type[NtmServeError]] = {
    **dict.fromkeys(_OF_TRANSPORT, errors.ServerUnreachable),
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlinePassed,
    grpc.StatusCode.CANCELLED: errors.StepCancelled,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.LimitReached,
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidInput,
}

# How gRPC's core says that a message is larger than the server takes: it read its length alone.
_LARGER = re.compile(r"message larger than max \((\d+) vs\. (\d+)\)")

# Kinds of Python numbers that a kind of tensor takes without losing anything but digits.
KINDS_TAKEN: Mapping[str, str] = {"b": "b", "i": "biu", "u": "biu", "f": "biuf"}


@dataclass(frozen=True, slots=True)
class Steps:
    """T steps of one session, ready to be sent: arrays `[T, ...]`, and whether the caller meant a single one."""

    inputs: dict[str, Array]
    single: bool

    @property
    def count(self) -> int:
        return len(next(iter(self.inputs.values())))


class SessionFacts:
    """What a client knows of the session that it opened: id, model, version, specs, and where it stands."""

    def __init__(self, opened: sessions_pb2.OpenResponse, asked: Sequence[str] = ()) -> None:
        """asked: names of the outputs that replies shall carry; empty is all."""
        self.id = opened.session.session_id
        self.model = opened.session.model
        self.version = opened.session.version
        self.next_step: int = opened.session.next_step
        # The replies of all steps below came, to this client or to who had the session before.
        self._answered_step = self.next_step
        self.inputs = tuple(spec_of(spec) for spec in opened.inputs)
        self._asked = tuple(asked)
        self.outputs = asked_outputs(tuple(spec_of(spec) for spec in opened.outputs), self._asked)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id!r} of {self.model}/{self.version} at step {self.next_step}>"

    def message_of(
        self, steps: Steps, *, first_step: int | None = None, tag: int = 0, asked: Sequence[str] | None = None
    ) -> sessions_pb2.StepRequest:
        """Steps as a message; first_step None is the session's next one. asked: as of the session, where None."""
        return sessions_pb2.StepRequest(
            tag=tag,
            session_ids=[self.id],
            first_steps=[self.next_step if first_step is None else first_step],
            inputs=[tensor_of(name, array[np.newaxis]) for name, array in steps.inputs.items()],
            output_names=self._asked if asked is None else asked,
        )

    def advance(self, response: sessions_pb2.StepResponse) -> dict[str, Array]:
        """One message's outputs `[T, ...]`; the session stands after it. Raises the error that it carries."""
        outputs = outputs_of_response(response)
        self.next_step = response.next_steps[0]
        self._answered_step = max(self._answered_step, self.next_step)
        return outputs

    def stand_at(self, step: int) -> None:
        """The caller had the server take the session there."""
        self.next_step = self._answered_step = step

    def meaning_of(self, error: NtmServeError) -> NtmServeError:
        """What an error means for this session: SessionLost where the server does not know it any more."""
        return meaning_of(error, self.id, self._answered_step)

    def expect_standing(self, stands_at: int, *, sent_step: int | None = None) -> None:
        """Check where the server says that the session stands, which was sent the steps below sent_step; None: nobody
        knows. Raises SessionLost, StepConflict.
        """
        # A caller may set next_step back, to hear again what was answered.
        sent_step = stands_at if sent_step is None else max(sent_step, self._answered_step)
        expect_standing(self.id, stands_at, answered_step=self._answered_step, sent_step=sent_step)


def open_request(
    model: str,
    version: str,
    session_id: str,
    *,
    resume: bool,
    durability: Durability | str | None,
    initial_state: InitialState | None,
    sizes: Mapping[str, int] | None,
) -> sessions_pb2.OpenRequest:
    """Raises InvalidInput for a durability that there is not, and for what is no array or size."""
    return sessions_pb2.OpenRequest(
        model=model,
        version=str(version),
        session_id=session_id,
        resume=resume,
        durability=durability_word(durability),
        initial_state=state_tensors({} if initial_state is None else initial_state),
        sizes=_sizes(sizes or {}),
    )


def _sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    try:
        whole = {str(name): operator.index(size) for name, size in sizes.items()}
    except (TypeError, AttributeError) as fault:
        raise InvalidInput(f"sizes: expected whole numbers by name, got: {fault}") from fault
    for name, size in whole.items():
        if not -(1 << 31) <= size < 1 << 31:
            raise InvalidInput(f"sizes: {name}: expected one that fits into 32 bits, got {size}")
    return whole


def state_tensors(initial_state: InitialState) -> list[tensor_pb2.Tensor]:
    """State tensors as they travel. Raises InvalidInput."""
    try:
        return [tensor_of(name, np.asarray(value)) for name, value in initial_state.items()]
    except (ValueError, TypeError, AttributeError) as fault:
        raise InvalidInput(f"initial_state: expected arrays by name, got: {fault}") from fault


def asked_outputs(specs: tuple[TensorSpec, ...], asked: Sequence[str]) -> tuple[TensorSpec, ...]:
    """Those outputs that are asked for, in that order; all where none is. Of a name that there is not the server tells,
    when it is asked.
    """
    by_name = {spec.name: spec for spec in specs}
    return tuple(by_name[name] for name in asked if name in by_name) if asked else specs


def durability_word(durability: Durability | str | None) -> sessions_pb2.Durability:
    """A durability as it travels. Raises InvalidInput."""
    try:
        return wire_durability(None if durability is None else Durability(durability))
    except ValueError:
        raise InvalidInput(f"durability: expected one of {', '.join(Durability)}, got {durability!r}") from None


def steps_of(x: Inputs, specs: Sequence[TensorSpec]) -> Steps:
    """What the caller passed, as T steps. Raises InvalidInput, naming the expected and the actual."""
    given: dict[str, ArrayLike]
    if isinstance(x, Mapping):
        given = dict(x)
    elif len(specs) == 1:
        given = {specs[0].name: x}
    else:
        raise InvalidInput(f"inputs: expected a mapping with {[spec.name for spec in specs]}, got one array")
    expect_names(specs, given, "inputs")
    arrays = {spec.name: _as_input(spec, given[spec.name]) for spec in specs}
    singles = {array.shape == spec.shape for spec, array in zip(specs, arrays.values(), strict=True)}
    if len(singles) != 1:
        raise InvalidInput("inputs: expected one step of each, or T steps of each, got both")
    single = singles.pop()
    if single:
        arrays = {name: array[np.newaxis] for name, array in arrays.items()}
    counts = {len(array) for array in arrays.values()}
    if len(counts) != 1 or 0 in counts:
        raise InvalidInput(f"inputs: expected the same T >= 1 steps of each, got {sorted(counts)}")
    return Steps(arrays, single)


def outputs_of(outputs: Mapping[str, Array], *, single: bool) -> Outputs:
    """In the form of what was passed: one step or T; an array for one output, else a mapping."""
    rows = {name: array[0] if single else array for name, array in outputs.items()}
    return next(iter(rows.values())) if len(rows) == 1 else rows


def outputs_of_response(response: sessions_pb2.StepResponse) -> dict[str, Array]:
    """One session's outputs `[T, ...]`. Raises the error that the response carries."""
    error = error_in(response)
    if error is not None:
        raise error
    return {name: array[0] for name, array in arrays_of(response.outputs).items()}


def error_in(response: sessions_pb2.StepResponse) -> NtmServeError | None:
    """The error that a response for one session carries."""
    if response.HasField("error"):
        return error_of_wire(response.error)
    return error_of_wire(response.failures[0].error) if response.failures else None


class Grouping:
    """Joins single steps to messages of `steps_per_message`; what is several steps already stays as it is."""

    def __init__(self, specs: Sequence[TensorSpec], steps_per_message: int) -> None:
        expect_positive("steps_per_message", steps_per_message)
        self._specs = specs
        self._steps_per_message = steps_per_message
        self._group: list[Steps] = []

    def add(self, x: Inputs) -> list[Steps]:
        """The messages that are whole with x. Raises InvalidInput."""
        steps = steps_of(x, self._specs)
        if not steps.single:
            return [*self.rest(), steps]
        self._group.append(steps)
        return self.rest() if len(self._group) == self._steps_per_message else []

    def rest(self) -> list[Steps]:
        """The message that the last steps make, though it is not full."""
        group, self._group = self._group, []
        return [joined(group)] if group else []


def joined(group: Sequence[Steps]) -> Steps:
    """Several messages' single steps as one message."""
    names = group[0].inputs
    return Steps({name: np.concatenate([steps.inputs[name] for steps in group]) for name in names}, single=True)


def parted(outputs: Mapping[str, Array], steps: Steps) -> Iterator[Outputs]:
    """A message's outputs in the form of what was passed: step by step where single steps were joined."""
    if not steps.single:
        yield outputs_of(outputs, single=False)
        return
    for at in range(steps.count):
        yield outputs_of({name: array[at] for name, array in outputs.items()}, single=False)


def error_of_call(call: Any) -> NtmServeError:
    """The domain's error for a call (a grpc.RpcError, sync or aio) that failed: by its details, else its status."""
    code, message = call.code(), call.details() or ""
    details = dict(call.trailing_metadata() or ()).get(DETAILS_KEY)
    if details is not None:
        return _error_of_details(details, message)
    larger = _LARGER.search(message) if code is grpc.StatusCode.RESOURCE_EXHAUSTED else None
    if larger is not None:
        actual, expected = map(int, larger.groups())
        return TooLarge.beyond("message_bytes_max", f"{code.name}: {message}", expected=expected, actual=actual)
    kind = _ERROR_OF_CODE.get(code, NtmServeError)
    hint = (
        "; is `ntm-serve serve` running there, is this its gRPC port, and are TLS and its authority "
        "(tls=, --tls-ca) as the server has them?"
        if code is grpc.StatusCode.UNAVAILABLE
        else ""
    )
    return kind(f"{code.name}: {message}{hint}")


def _error_of_details(serialized: bytes, message: str) -> NtmServeError:
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    retry_after_s = None
    for detail in status_pb2.Status.FromString(serialized).details:
        detail.Unpack(info)
        if detail.Unpack(retry):
            retry_after_s = retry.retry_delay.ToMilliseconds() / 1000
    return error_of(reason=info.reason, message=message, metadata=dict(info.metadata), retry_after_s=retry_after_s)


def channel_options(retry: RetryPolicy | None) -> tuple[tuple[str, Any], ...]:
    """Of a client that heals so. Without pings a connection that swallows everything is never found out."""
    if retry is None:
        return CHANNEL_OPTIONS
    half_ms = max(1, round(retry.silence_max_s * 500))
    return (
        *CHANNEL_OPTIONS,
        ("grpc.keepalive_time_ms", half_ms),
        ("grpc.keepalive_timeout_ms", half_ms),
        # Of every other ping: gRPC measures a line with some, and sends none to keep it alive while one is on its way.
        ("grpc.http2.ping_timeout_ms", half_ms),
    )


def expect_positive(name: str, value: int) -> None:
    """Refuse what would wait for ever. Raises InvalidInput."""
    if value < 1:
        raise InvalidInput(f"{name}: expected at least 1, got {value}")


def _as_input(spec: TensorSpec, value: ArrayLike) -> Array:
    """Python numbers and lists take the spec's dtype; an array has one of its own, and it must be the spec's."""
    array = value if isinstance(value, np.ndarray) else _array_of(spec, value)
    fits = array.shape == spec.shape or array.shape[1:] == spec.shape
    if array.dtype == spec.numpy_dtype:
        if fits:
            return array
        shapes = f"shape {[*spec.shape]} for one step or {_shown(('T', *spec.shape))} for several"
        raise InvalidInput(f"{spec.name}: expected {shapes}, got {[*array.shape]}")
    got = described(array.dtype, array.shape) if array.dtype.kind in "biufc" else f"no numbers: {type(value).__name__}"
    hint = f"; .astype({spec.dtype!r}) makes it that" if fits and isinstance(value, np.ndarray) else ""
    raise InvalidInput(f"{spec.name}: expected {_expected(spec)}, got {got}{hint}")


def _array_of(spec: TensorSpec, value: ArrayLike) -> Array:
    """Numbers without a dtype as the spec's; what would lose its kind (1.5 as an integer) keeps its own."""
    try:
        array: Array = np.asarray(value)
        if array.size and array.dtype.kind not in KINDS_TAKEN[spec.numpy_dtype.kind]:
            return array
        with np.errstate(over="raise"):
            return np.asarray(value, spec.numpy_dtype)
    except (ValueError, TypeError, ArithmeticError) as fault:
        raise InvalidInput(f"{spec.name}: expected {_expected(spec)}, got no such array: {fault}") from fault


def _shown(axes: Sequence[object]) -> str:
    return f"[{', '.join(str(axis) for axis in axes)}]"


def _expected(spec: TensorSpec) -> str:
    return f"{spec.layout} for one step or {described(spec.dtype, ('T', *spec.shape))} for several"
