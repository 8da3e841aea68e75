"""What connections to the gRPC port may be: their bounds, and their TLS.

Rules of this file: what one connection may use has a limit, so that whoever opens them pays for them too; a renewed
certificate serves the next handshake.
"""

from dataclasses import dataclass

import grpc

from ntm_serve.renewal import Renewed
from ntm_serve.tls import TlsContent

# Clients ping to find out dead lines, also behind balancers: ten times a second is more than any of them needs, and
# who pings faster a hundred times in a row is sent away.
PING_INTERVAL_MIN_MS, PING_STRIKES_MAX = 100, 100

# A server's own pings, so that a client that is gone without a word does not keep its connection for ever.
KEEPALIVE_MS, KEEPALIVE_TIMEOUT_MS = 60_000, 20_000

# Of a connection that says nothing: time to shake hands over a slow line, no more.
HANDSHAKE_MAX_MS = 10_000


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """message_bytes_max: of one message. calls_max: at once over one connection; those beyond wait in the client.
    connections_max: at once; None is as many as there are files for. idle_s: a connection is closed after so long
    without a call; None is never.
    """

    message_bytes_max: int
    calls_max: int = 10_000
    connections_max: int | None = None
    idle_s: float | None = None


def options_of(limits: ConnectionLimits) -> list[tuple[bytes, int]]:
    """As gRPC's core takes them."""
    options = {
        # Without it a second server shares the port silently, and gets half of the calls.
        b"grpc.so_reuseport": 0,
        b"grpc.max_receive_message_length": limits.message_bytes_max,
        # A reply is bounded by its request; refused after its steps were committed, it would be lost.
        b"grpc.max_send_message_length": -1,
        b"grpc.max_concurrent_streams": limits.calls_max,
        b"grpc.server_handshake_timeout_ms": HANDSHAKE_MAX_MS,
        b"grpc.keepalive_time_ms": KEEPALIVE_MS,
        b"grpc.keepalive_timeout_ms": KEEPALIVE_TIMEOUT_MS,
        # Clients behind balancers ping often; the default answers with GOAWAY too_many_pings.
        b"grpc.keepalive_permit_without_calls": 1,
        b"grpc.http2.min_ping_interval_without_data_ms": PING_INTERVAL_MIN_MS,
        b"grpc.http2.max_ping_strikes": PING_STRIKES_MAX,
    }
    if limits.connections_max is not None:
        options[b"grpc.max_allowed_incoming_connections"] = limits.connections_max
    if limits.idle_s is not None:
        options[b"grpc.max_connection_idle_ms"] = round(limits.idle_s * 1000)
    return list(options.items())


def credentials_of(tls: Renewed[TlsContent]) -> object:
    """The server's credentials, in the words of gRPC's core."""
    served = tls.value

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        """Asked at every handshake; None is as before."""
        nonlocal served
        content = tls.value
        if content is served:
            return None
        served = content
        return _configuration(content)

    made = grpc.dynamic_ssl_server_credentials(
        _configuration(served),
        renewed,  # type: ignore[arg-type]  # Its stub knows no None.
        served.client_ca is not None,
    )
    return made._credentials  # type: ignore[attr-defined]


def _configuration(content: TlsContent) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(content.key, content.chain)], content.client_ca)
