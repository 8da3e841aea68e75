"""Answers of the API: JSON, errors, and streams of events.

Rules of this file: every error has one form; an event is written when there is room for it, so whoever reads slowly is
sent less; a stream ends with its reader, and is closed whatever way it ends.
"""

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import wraps
from typing import Any

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ntm_serve.errors import EngineFault, NtmServeError, Unauthenticated
from ntm_serve.http.forms import error_json

# On everything: no answer is anybody else's, and none is what its type does not say.
HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}

log = structlog.get_logger()

Handler = Callable[[Any, Request], Awaitable[Response]]


class HttpFault(NtmServeError):
    """What HTTP has a status for, and gRPC none."""

    def __init__(self, status: int, error: NtmServeError) -> None:
        super().__init__(error.message, fields=error.fields)
        self.status = status
        self.error = error


def json_answer(content: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return Response(body, status, headers={**HEADERS, **(headers or {})}, media_type="application/json; charset=utf-8")


def error_answer(error: NtmServeError, **more: str) -> Response:
    """more: headers."""
    status = None
    if isinstance(error, HttpFault):
        status, error = error.status, error.error
    told, headers = error_json(error, status=status), more
    if isinstance(error, Unauthenticated):
        headers["www-authenticate"] = 'Bearer realm="ntm-serve"'
    if told["retry_after_s"] is not None:
        headers["retry-after"] = str(math.ceil(told["retry_after_s"]))
    return json_answer({"error": told}, status=told["status"], headers=headers)


def known_fault(path: str, fault: Exception) -> NtmServeError:
    """What whoever asked learns of it; of a fault of ours that it was one, and the log has the rest."""
    if isinstance(fault, NtmServeError):
        return fault
    log.error("request failed", path=path, exc_info=fault)
    return EngineFault(f"{path}: an internal fault; the server's log has it")


def answering(handler: Handler) -> Handler:
    """The boundary of a request: whatever is raised becomes its answer."""

    @wraps(handler)
    async def answered(api: Any, request: Request) -> Response:
        try:
            return await handler(api, request)
        except ClientDisconnect:
            raise
        except Exception as fault:
            return error_answer(known_fault(request.url.path, fault))

    return answered


def event(name: str, content: Any) -> bytes:
    """One event as it travels."""
    return f"event: {name}\ndata: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


class EventStream(Response):
    """Events, until they end or their reader leaves."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None]) -> None:
        # A proxy that collects what it passes on would have them come late.
        super().__init__(headers={**HEADERS, "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        left = asyncio.ensure_future(_until_left(receive))
        try:
            await asyncio.wait([sending, left], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (sending, left):
                task.cancel()
            results = await asyncio.gather(sending, left, return_exceptions=True)
        if isinstance(results[0], Exception) and not isinstance(results[0], OSError):
            raise results[0]

    async def _send(self, send: Send) -> None:
        async with aclosing(self._events) as events:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async for one in events:
                await send({"type": "http.response.body", "body": one, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
