"""The gRPC server: our services and the standard ones, on one port, on the event loop that waits for gRPC.

Rules of this file: every call that comes in is counted and belongs to a method or is refused; when the
server has stopped, gRPC holds nothing of it any more.
"""

import asyncio
import socket
from collections.abc import Iterable
from typing import Any

import grpc
import structlog
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from ntm_serve.errors import SettingsFault
from ntm_serve.frontends.call import Call, CallObserver
from ntm_serve.frontends.completion_queue import CompletionQueueLoop
from ntm_serve.frontends.methods import Method, fail, methods_of
from ntm_serve.frontends.sessions import ModelsBehaviours, SessionsBehaviours
from ntm_serve.frontends.standard import Health, Reflection
from ntm_serve.frontends.transport import ConnectionLimits, credentials_of, options_of
from ntm_serve.renewal import Renewed
from ntm_serve.service import Service
from ntm_serve.tls import TlsContent
from ntm_serve.v1 import models_pb2, sessions_pb2

MODELS = models_pb2.DESCRIPTOR.services_by_name["Models"]
SESSIONS = sessions_pb2.DESCRIPTOR.services_by_name["Sessions"]

# The name under which calls of methods are counted that the server does not have: a caller cannot make series.
UNKNOWN_METHOD = "other"

# What stopping waits for calls that were cancelled to end. gRPC ends them; this is for its faults.
CANCEL_WAIT_S = 5.0

log = structlog.get_logger()


class GrpcServer:
    """Listens once started. Health knows the server (""), its services and every served model."""

    def __init__(
        self,
        service: Service,
        loop: CompletionQueueLoop,
        *,
        connections: ConnectionLimits,
        tls: Renewed[TlsContent] | None = None,
        messages_in_flight_max: int,
        stream_bytes_max: int,
        observer: CallObserver,
    ) -> None:
        """tls: None takes connections as they are, readable to whoever is between."""
        self._options = options_of(connections)
        self._tls = tls
        self._loop = loop
        self._observer = observer
        self._server: Any = None
        self._health = Health()
        self._sessions = SessionsBehaviours(
            service, messages_in_flight_max=messages_in_flight_max, stream_bytes_max=stream_bytes_max
        )
        reflection = Reflection([SESSIONS.full_name, MODELS.full_name])
        self._methods: dict[str, Method] = {
            method.path: method
            for methods in (
                methods_of(SESSIONS, self._sessions),
                methods_of(MODELS, ModelsBehaviours(service)),
                self._health.methods(),
                reflection.methods(),
            )
            for method in methods
        }

    async def start(self, host: str, port: int) -> int:
        """Listen; port 0 is any free one. Returns the port. Raises SettingsFault where it is taken."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        _expect_free(host, port, address)
        server = cygrpc.Server(self._options, False)
        server.register_completion_queue(self._loop.queue)
        try:
            secured = () if self._tls is None else (credentials_of(self._tls),)
            bound: int = server.add_http2_port(address.encode(), *secured)
            if bound == 0:
                raise RuntimeError("it cannot be listened on")
        except RuntimeError as fault:
            server.destroy()
            raise SettingsFault(f"port: expected {address} to be free, got: {fault}") from fault
        server.start()
        self._server = server
        self._await_call()
        return bound

    def set_serving(self, models: Iterable[str], *, serving: bool) -> None:
        """What health answers for the server, its services and these models."""
        self._health.set_serving((SESSIONS.full_name, MODELS.full_name, *models), serving=serving)

    def forget(self, models: Iterable[str]) -> None:
        """These models are no more: health does not know them."""
        self._health.forget(models)

    def drain(self) -> None:
        """Have every stream answer what it has in flight and end."""
        self._sessions.drain()

    async def stop(self, grace_s: float) -> None:
        """Take no more calls; end those that are still there after grace_s seconds."""
        server, self._server = self._server, None
        stopped: asyncio.Future[None] = self._loop.create_future()
        server.shutdown(self._loop.queue, lambda _: stopped.set_result(None))
        await asyncio.wait([stopped], timeout=grace_s)
        if not stopped.done():
            server.cancel_all_calls()
            await asyncio.wait([stopped], timeout=CANCEL_WAIT_S)
        if stopped.done():
            server.destroy()
        else:  # Destroying it would wait, without an end, on the thread that would see it stop.
            log.error("gRPC did not end all calls", waited_s=grace_s + CANCEL_WAIT_S)

    def _await_call(self) -> None:
        self._server.request_call(self._loop.queue, self._loop.queue, self._accept)

    def _accept(self, event: Any) -> None:
        if not event.success:  # The server stops.
            return
        self._loop.ring_with(event.call)
        if self._server is not None:
            self._await_call()
        path = event.call_details.method.decode(errors="replace")
        method = self._methods.get(path)
        if method is None:
            call = Call(event, method=UNKNOWN_METHOD, kind="unary", observer=self._observer)
            call.refuse(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
            return
        call = Call(event, method=path, kind=method.kind, observer=self._observer)
        try:
            method.serve(call)
        except Exception as fault:
            fail(call, fault)


def _expect_free(host: str, port: int, address: str) -> None:
    """Refuse a taken port in our words; gRPC's core would log its own first. Raises SettingsFault."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as fault:
        raise SettingsFault(f"port: expected {address} to be free, got: {fault.strerror}") from fault
