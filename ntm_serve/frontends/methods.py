"""The methods of a server: what is called for each, and how a call with one request is answered.

Rules of this file: a service's methods come from its descriptor, so that none is forgotten; whatever a
behaviour raises becomes the status of its call, and nothing else.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from ntm_serve.errors import InvalidInput, NtmServeError, StepCancelled
from ntm_serve.frontends.call import Call, fault_of
from ntm_serve.observer import MessageTrace, Tracer

# What a trace says of messages that nobody waits for any more.
LEFT = StepCancelled("call: ended before the message was answered")

Takes = TypeVar("Takes", bound=Callable[..., Any])
Behaviour = Callable[..., Message | Awaitable[Message]]


@dataclass(frozen=True)
class Method:
    """path: as on the wire. kind: in the words of the Prometheus middleware for gRPC. serve: takes the call over."""

    path: str
    kind: str
    serve: Callable[[Call], None]


def methods_of(service: ServiceDescriptor, behaviours: object, tracer: Tracer | None = None) -> Iterator[Method]:
    """Every method of a service, by the attribute of its name: for a unary method a function of the request, which
    gives the response or is awaited for it; for one that streams, a function that takes the call over. tracer: told of
    the unary ones.
    """
    for method in service.methods:
        behaviour = getattr(behaviours, method.name)
        streams = method.client_streaming or method.server_streaming
        serve = behaviour if streams else Unary(method, behaviour, tracer)
        yield Method(f"/{service.full_name}/{method.name}", kind_of(method), serve)


def kind_of(method: MethodDescriptor) -> str:
    """A method's kind."""
    if method.client_streaming:
        return "bidi_stream" if method.server_streaming else "client_stream"
    return "server_stream" if method.server_streaming else "unary"


def parsed(kind: Any, data: bytes) -> Any:
    """A message of that kind. Raises InvalidInput."""
    try:
        return kind.FromString(data)
    except DecodeError as fault:
        raise InvalidInput(f"message: expected a {kind.DESCRIPTOR.name}, got bytes that are none") from fault


def takes_trace(behaviour: Takes) -> Takes:
    """A unary behaviour that is given the trace of its message as well as the request, or None: it tells it what was
    answered, and raises what was not.
    """
    behaviour.takes_trace = True  # type: ignore[attr-defined]
    return behaviour


class Unary:
    """A method that answers one request with one response."""

    def __init__(self, method: MethodDescriptor, behaviour: Behaviour, tracer: Tracer | None = None) -> None:
        self._request = GetMessageClass(method.input_type)
        self._behaviour = behaviour
        self._tracer = tracer
        self._takes_trace = getattr(behaviour, "takes_trace", False)
        self._waiting: set[asyncio.Future[Message]] = set()

    def __call__(self, call: Call) -> None:
        def answer(data: bytes | None) -> None:
            if data is None:
                return call.fail(InvalidInput("call: expected one message, got none"))
            trace = None if self._tracer is None else self._tracer.call(call.method, call.metadata).message()
            try:
                request = parsed(self._request, data)
                response = self._behaviour(request, trace) if self._takes_trace else self._behaviour(request)
            except Exception as fault:
                return fail(call, fault, trace)
            if isinstance(response, Message):
                return self._finish(call, trace, response)
            # The behaviour itself is the task: one around it that is cancelled before it begins would never await it.
            task = asyncio.ensure_future(response)
            self._waiting.add(task)

            def over(cut_short: bool) -> None:
                if cut_short:
                    task.cancel()

            call.on_over = over
            return task.add_done_callback(partial(self._answer, call, trace))

        call.read(answer)

    def _answer(self, call: Call, trace: MessageTrace | None, task: asyncio.Future[Message]) -> None:
        self._waiting.discard(task)
        try:
            response = task.result()
        except asyncio.CancelledError:  # Its client left.
            if trace is not None:
                trace.failed(LEFT)
        except Exception as fault:
            fail(call, fault, trace)
        else:
            self._finish(call, trace, response)

    def _finish(self, call: Call, trace: MessageTrace | None, response: Message) -> None:
        try:
            written = response.SerializeToString()
        except Exception as fault:
            return fail(call, fault, trace)
        if trace is not None and not self._takes_trace:
            trace.answered()
        return call.finish(written)


def fail(call: Call, fault: Exception, trace: MessageTrace | None = None) -> None:
    """End the call with the status of what was raised. trace: of its message."""
    error = fault if isinstance(fault, NtmServeError) else fault_of(call.method, fault)
    if trace is not None:
        trace.failed(error)
    call.fail(error)
    # Where it was raised knows of the call, and may know of the fault.
    fault.__traceback__ = None
