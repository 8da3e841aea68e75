"""Access: which callers each method is for, and who a call's caller is.

Rules of this file: every method of every service stands in the table, so that none is open because it was forgotten;
who calls is asked once a call, before anything that the caller sent is read, and never for a step.
"""

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, Protocol

from grpc._cython import cygrpc  # type: ignore[attr-defined]

from ntm_serve.caller import ANYBODY, Caller, Credentials, Role
from ntm_serve.errors import PermissionDenied, Unauthenticated

AUTHORIZATION = "authorization"
_BEARER = "bearer "

# Names in a client's certificate, as gRPC calls them: alternative ones first, which are what it is known by today.
_CERTIFICATE_NAMES = (b"x509_subject_alternative_name", b"x509_common_name")


class Rule(Enum):
    """Who may call a method."""

    # Probes and balancers have no token; it tells nothing but whether the server serves.
    ANYBODY = "anybody"
    # It sees the sessions of its tenant.
    CALLER = "caller"
    # It sees or changes what is everybody's.
    ADMIN = "admin"


def _of(service: str, rule: Rule, *methods: str) -> dict[str, Rule]:
    return {f"/{service}/{method}": rule for method in methods}


_TRITON = "inference.GRPCInferenceService"

RULES: Mapping[str, Rule] = {
    **_of(
        "ntm_serve.v1.Sessions", Rule.CALLER,
        "Open", "Step", "Stream", "Get", "List", "Close", "Snapshot", "Restore", "Fork", "Rewind", "Watch",
    ),
    **_of("ntm_serve.v1.Models", Rule.CALLER, "List", "Get"),
    **_of("ntm_serve.v1.Admin", Rule.ADMIN, "ListSessions", "Drain"),
    **_of("grpc.health.v1.Health", Rule.ANYBODY, "Check", "Watch"),
    **_of("grpc.health.v1.Health", Rule.CALLER, "List"),
    **_of("grpc.reflection.v1alpha.ServerReflection", Rule.CALLER, "ServerReflectionInfo"),
    **_of("grpc.reflection.v1.ServerReflection", Rule.CALLER, "ServerReflectionInfo"),
    **_of(_TRITON, Rule.ANYBODY, "ServerLive", "ServerReady"),
    **_of(
        _TRITON, Rule.CALLER,
        "ModelReady", "ServerMetadata", "ModelMetadata", "ModelInfer", "ModelStreamInfer", "ModelConfig",
        "RepositoryIndex", "SystemSharedMemoryStatus", "CudaSharedMemoryStatus",
    ),
    # Statistics count the inferences of every tenant; shared memory is the machine's.
    **_of(
        _TRITON, Rule.ADMIN,
        "ModelStatistics", "RepositoryModelLoad", "RepositoryModelUnload", "SystemSharedMemoryRegister",
        "SystemSharedMemoryUnregister", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister", "TraceSetting",
        "LogSettings",
    ),
}  # fmt: skip


def expect_rules(paths: Iterable[str]) -> None:
    """Refuse methods that nobody has decided on. Raises LookupError: a fault of ours."""
    forgotten = sorted(set(paths) - set(RULES))
    if forgotten:
        raise LookupError(f"access: expected a rule for each method, got none for {', '.join(forgotten)}")


class Authenticator(Protocol):
    """See ntm_serve.auth.authenticator."""

    @property
    def asks_for_certificates(self) -> bool: ...

    def authenticate(self, credentials: Credentials) -> Caller:
        """Raises Unauthenticated."""
        ...


class Gate:
    """Where a call shows who makes it."""

    def __init__(self, authenticator: Authenticator | None) -> None:
        """authenticator: None lets everybody do everything."""
        self._authenticator = authenticator

    @property
    def asks(self) -> bool:
        """Whether anybody is asked who calls."""
        return self._authenticator is not None

    def credentials_of(self, event: Any) -> Credentials:
        """What a call that has come in says of its caller. Raises Unauthenticated where it cannot be read."""
        authenticator = self._authenticator
        if authenticator is None:
            return Credentials(None)
        token = None
        for key, value in event.invocation_metadata:
            if key == AUTHORIZATION:
                if token is not None or value[: len(_BEARER)].lower() != _BEARER:
                    raise Unauthenticated("authorization: expected one, Bearer and a token, got something else")
                token = value[len(_BEARER) :].strip()
        names = _names_of(event.call) if token is None and authenticator.asks_for_certificates else ()
        return Credentials(token, names)

    def caller_of(self, credentials: Credentials, rule: Rule) -> Caller:
        """Raises Unauthenticated, PermissionDenied."""
        if self._authenticator is None or rule is Rule.ANYBODY:
            return ANYBODY
        caller = self._authenticator.authenticate(credentials)
        if rule is Rule.ADMIN and Role.ADMIN not in caller.roles:
            raise PermissionDenied(
                f"call: expected a caller with the role admin, got {caller.name}", fields={"role": Role.ADMIN.value}
            )
        return caller


def _names_of(call: Any) -> list[str]:
    """The names in the certificate of a call's client."""
    context: Mapping[bytes, Iterable[bytes]] = cygrpc.auth_context(call)
    return [name.decode(errors="replace") for kind in _CERTIFICATE_NAMES for name in context.get(kind, ())]
