"""Standard services that tools expect: grpc.health.v1.Health and server reflection."""

from grpc_health.v1 import health_pb2

from ntm_serve.errors import NtmServeError

_Status = health_pb2.HealthCheckResponse


class HealthUnknown(NtmServeError):
    """No service or model of that name: the standard wants NOT_FOUND."""

    reason = "HEALTH_UNKNOWN"
