"""Counting gRPC calls: an interceptor that tells an observer of calls begun and ended, by method and status.

Rules of this file: methods that the server does not have are counted under one name, so that a caller
cannot make series; a call is counted as ended once, also when it is cancelled.
"""

from __future__ import annotations  # grpc.RpcMethodHandler is generic for type checkers alone.

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import grpc

UNKNOWN_METHOD = "other"


class CallObserver(Protocol):
    """Told of every call; must not block."""

    def call_started(self, method: str, kind: str) -> None: ...

    def call_handled(self, method: str, kind: str, code: str) -> None: ...

    def message_received(self, method: str, kind: str) -> None: ...

    def message_sent(self, method: str, kind: str) -> None: ...


def kind_of(handler: grpc.RpcMethodHandler[Any, Any]) -> str:
    """A method's kind, in the words of the Prometheus middleware for gRPC."""
    if handler.request_streaming:
        return "bidi_stream" if handler.response_streaming else "client_stream"
    return "server_stream" if handler.response_streaming else "unary"


class CallCounter(grpc.aio.ServerInterceptor):
    """Counts the calls of every service of a server."""

    def __init__(self, observer: CallObserver) -> None:
        self._observer = observer

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            self._observer.call_started(UNKNOWN_METHOD, "unary")
            self._observer.call_handled(UNKNOWN_METHOD, "unary", grpc.StatusCode.UNIMPLEMENTED.name)
            return None
        method, kind = handler_call_details.method, kind_of(handler)
        serializers = (handler.request_deserializer, handler.response_serializer)
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                self._counted_unary(handler.unary_unary, method, kind), *serializers
            )
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                self._counted_stream(handler.unary_stream, method, kind), *serializers
            )
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(
                self._counted_stream(handler.stream_stream, method, kind), *serializers
            )
        raise TypeError(f"{method}: expected no method that answers a stream with one message, got one")

    def _counted_unary(self, behaviour: Any, method: str, kind: str) -> Any:
        async def counted(request: Any, context: Any) -> Any:
            with self._counted(method, kind, context):
                self._observer.message_received(method, kind)
                response = await behaviour(request, context)
                self._observer.message_sent(method, kind)
                return response

        return counted

    def _counted_stream(self, behaviour: Any, method: str, kind: str) -> Any:
        """The messages of a stream are counted by who reads and writes them; those of a generator here."""

        async def counted(requests: Any, context: Any) -> None:
            with self._counted(method, kind, context):
                await behaviour(requests, context)

        async def counted_generator(requests: Any, context: Any) -> AsyncIterator[Any]:
            with self._counted(method, kind, context):
                async for response in behaviour(requests, context):
                    self._observer.message_sent(method, kind)
                    yield response

        return counted_generator if inspect.isasyncgenfunction(behaviour) else counted

    @contextmanager
    def _counted(self, method: str, kind: str, context: Any) -> Iterator[None]:
        self._observer.call_started(method, kind)
        code = grpc.StatusCode.CANCELLED
        try:
            yield
            code = _code_of(context)
        except Exception:
            code = _code_of(context, otherwise=grpc.StatusCode.UNKNOWN)
            raise
        finally:
            self._observer.call_handled(method, kind, code.name)


def _code_of(context: Any, *, otherwise: grpc.StatusCode = grpc.StatusCode.OK) -> grpc.StatusCode:
    code = context.code()
    if isinstance(code, grpc.StatusCode):
        return code
    # grpc.aio keeps the number; 0 stands for "none was set" as well as for OK.
    return next((one for one in grpc.StatusCode if code and one.value[0] == code), otherwise)
