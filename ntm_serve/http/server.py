"""One HTTP server on the event loop of the gRPC server.

`/metrics` Prometheus text; `/healthz` 200 while the process is alive; `/readyz` 200 while it takes sessions, and with
`?exclude=store` also while its store is away.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from ntm_serve.errors import InvalidInput, SettingsFault

# Whoever scrapes and probes needs a few; the rest are told to come later. Of those that ask nothing the oldest make
# room: whoever holds so many would keep the probes out, and have the server taken for dead.
CONNECTIONS_MAX = 256
ROOM_SHARE = 0.5
# Whoever takes nothing of what is to be sent for so long is cut off: what it holds, others may need.
STALL_S = 30.0


class HttpServer:
    """Listens once started. Whoever starts it awaits `until_stopped`, which ends after `stop`."""

    def __init__(
        self,
        *,
        exposition: Callable[[], bytes],
        content_type: str,
        readiness: Callable[[Collection[str]], Sequence[str]],
        may_read: Callable[[str | None], bool] | None = None,
        context: ssl.SSLContext | None = None,
        more: Sequence[BaseRoute] = (),
    ) -> None:
        """readiness: given what is not to count, why the server is not ready. Raises InvalidInput for unknown words.
        may_read: whether who has this authorization reads the metrics; None lets everybody. context: of TLS; None is
        plain HTTP. more: what else is there.
        """
        self._context = context

        async def metrics(request: Request) -> Response:
            if may_read is not None and not may_read(request.headers.get("authorization")):
                challenge = {"www-authenticate": 'Bearer realm="metrics"'}
                return PlainTextResponse("expected a token with the role metrics\n", status_code=401, headers=challenge)
            return Response(exposition(), media_type=content_type)

        async def healthz(request: Request) -> Response:
            return PlainTextResponse("ok\n")

        async def readyz(request: Request) -> Response:
            try:
                faults = readiness(request.query_params.getlist("exclude"))
            except InvalidInput as fault:
                return PlainTextResponse(f"{fault.message}\n", status_code=400)
            if faults:
                return PlainTextResponse(f"not ready: {'; '.join(faults)}\n", status_code=503)
            return PlainTextResponse("ready\n")

        ours = (Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz))
        self._app = Starlette(routes=[*ours, *more])
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen; port 0 is any free one. Returns the port. Raises SettingsFault where it is taken."""
        listener = _listener(host, port)
        config = uvicorn.Config(
            self._app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=1,
            limit_concurrency=CONNECTIONS_MAX,
        )
        config.load()
        # Its own way reads the files once; this context is renewed with them.
        config.ssl = self._context
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve_and_close(listener))
        bound: int = listener.getsockname()[1]
        return bound

    async def until_stopped(self) -> None:
        """Until it has stopped. Raises what made it stop by itself."""
        if self._serving is not None:
            await asyncio.shield(self._serving)

    async def stop(self) -> None:
        """Answer what is being answered, and stop listening. Raises nothing: faults are for `until_stopped`."""
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await asyncio.gather(self._serving, return_exceptions=True)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers, which the app owns, and with room for the next connection."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        # In the order of their coming.
        self._came: dict[Any, None] = {}
        # Of those that did not take all that is to be sent: how much was left, and since when.
        self._left: dict[Any, tuple[int, float]] = {}

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        there: set[Any] = self.server_state.connections
        self._came = {one: None for one in (*self._came, *there) if one in there}
        if len(there) >= CONNECTIONS_MAX:
            idle = [one for one in self._came if one.cycle is None or one.cycle.response_complete]
            for one in idle[: int(ROOM_SHARE * CONNECTIONS_MAX)]:
                one.transport.close()
        for one in self._stalled(there, time.monotonic()):
            one.transport.abort()
        return await super().on_tick(counter)

    def _stalled(self, there: Collection[Any], now_s: float) -> Sequence[Any]:
        """Those that took nothing for STALL_S."""
        left, before = {}, self._left
        for one in there:
            size = one.transport.get_write_buffer_size()
            if size:
                was, since_s = before.get(one, (0, now_s))
                left[one] = (size, now_s if size < was or one not in before else since_s)
        self._left = left
        return [one for one, (_, since_s) in left.items() if now_s - since_s >= STALL_S]

    async def serve_and_close(self, listener: socket.socket) -> None:
        """Serve; however that ends, nothing listens any more."""
        try:
            await self.serve(sockets=[listener])
        finally:
            for one in getattr(self, "servers", ()):
                one.close()
            listener.close()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    # A port in TIME_WAIT after a restart is free; a port that another process listens on is not.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # From here on the port is ours, and whoever connects is answered once the server runs.
        listener.listen()
    except OSError as fault:
        listener.close()
        raise SettingsFault(f"http_port: expected {host}:{port} to be free, got: {fault.strerror}") from fault
    listener.set_inheritable(False)
    return listener
