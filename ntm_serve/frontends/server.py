"""The gRPC server: our services, standard health and reflection, on one port."""

import socket
from collections.abc import Iterable

import grpc
from grpc_health.v1 import health_pb2
from grpc_health.v1.health import OVERALL_HEALTH
from grpc_health.v1.health import SERVICE_NAME as HEALTH_SERVICE
from grpc_health.v1.health import aio as health
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha import reflection

from ntm_serve.errors import SettingsFault
from ntm_serve.frontends.calls import CallCounter, CallObserver
from ntm_serve.frontends.sessions import ModelsServicer, SessionsServicer
from ntm_serve.service import Service
from ntm_serve.v1 import models_pb2, models_pb2_grpc, sessions_pb2, sessions_pb2_grpc

MODELS_SERVICE = models_pb2.DESCRIPTOR.services_by_name["Models"].full_name
SESSIONS_SERVICE = sessions_pb2.DESCRIPTOR.services_by_name["Sessions"].full_name


class GrpcServer:
    """Listens once started. Health knows the server (""), its services and every served model."""

    def __init__(
        self,
        service: Service,
        *,
        message_bytes_max: int,
        messages_in_flight_max: int,
        observer: CallObserver,
    ) -> None:
        self._server = grpc.aio.server(
            interceptors=[CallCounter(observer)],
            options=[
                # Without it a second server shares the port silently, and gets half of the calls.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", message_bytes_max),
                # A reply is bounded by its request; refused after its steps were committed, it would be lost.
                ("grpc.max_send_message_length", -1),
                # Clients behind balancers ping often; the default answers with GOAWAY too_many_pings.
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.http2.max_ping_strikes", 0),
            ],
        )
        self._health = health.HealthServicer()
        self._sessions = SessionsServicer(service, messages_in_flight_max=messages_in_flight_max, observer=observer)
        sessions_pb2_grpc.add_SessionsServicer_to_server(self._sessions, self._server)
        models_pb2_grpc.add_ModelsServicer_to_server(ModelsServicer(service), self._server)
        add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            [SESSIONS_SERVICE, MODELS_SERVICE, HEALTH_SERVICE, reflection.SERVICE_NAME], self._server
        )

    async def start(self, host: str, port: int) -> int:
        """Listen; port 0 is any free one. Returns the port. Raises SettingsFault where it is taken."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        _expect_free(host, port, address)
        try:
            bound = self._server.add_insecure_port(address)
        except RuntimeError as fault:
            raise SettingsFault(f"port: expected {address} to be free, got: {fault}") from fault
        if bound == 0:
            raise SettingsFault(f"port: expected {address} to be free; it cannot be listened on")
        await self._server.start()
        return bound

    async def set_serving(self, models: Iterable[str], *, serving: bool) -> None:
        """What health answers for the server, its services and these models."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in (OVERALL_HEALTH, SESSIONS_SERVICE, MODELS_SERVICE, *models):
            await self._health.set(name, status)

    def drain(self) -> None:
        """Have every stream answer what it has in flight and end."""
        self._sessions.drain()

    async def stop(self, grace_s: float) -> None:
        """Take no more calls; end those that are still there after grace_s seconds."""
        await self._server.stop(grace_s)


def _expect_free(host: str, port: int, address: str) -> None:
    """Refuse a taken port in our words; gRPC's core would log its own first. Raises SettingsFault."""
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as fault:
        raise SettingsFault(f"port: expected {address} to be free, got: {fault.strerror}") from fault
