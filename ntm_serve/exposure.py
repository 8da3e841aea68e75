"""Exposure: what the settings say of who may reach the ports, and how.

Rules of this file: what cannot be used keeps the server from starting; what is open to others than this machine, and to
anybody there, is said in the log.
"""

import asyncio
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from ntm_serve.auth.authenticator import Authenticator
from ntm_serve.auth.callers import read_callers
from ntm_serve.auth.limits import read_tenants
from ntm_serve.caller import Credentials, Role
from ntm_serve.config import Settings
from ntm_serve.errors import SettingsFault, Unauthenticated
from ntm_serve.frontends.server import CallLimits, GrpcServer
from ntm_serve.frontends.transport import ConnectionLimits
from ntm_serve.metrics import Metrics
from ntm_serve.renewal import LOOK_S, Renewed
from ntm_serve.tenants import NO_LIMITS, Accounts, TenantLimits
from ntm_serve.tls import https_context, is_loopback, renew_https, renewed_tls, tls_files

if TYPE_CHECKING:
    from ntm_serve.auth.jwts import Jwts

log = structlog.get_logger()


class Tls:
    """Of both ports: what the settings' files hold, and the context of the HTTP port."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Raises SettingsFault."""
        files = tls_files(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        self._files = files
        self._metrics = metrics
        self.content = None if files is None else renewed_tls(files)
        self.https = https_context(files) if files is not None and settings.http_tls else None
        self._tell()

    def look(self) -> None:
        """Take renewed files."""
        if self.content is None or self._files is None or not self.content.look():
            return
        if self.https is not None:
            try:
                renew_https(self.https, self._files)
            except SettingsFault as fault:  # They changed once more; the next look finds it.
                log.error("renewed files cannot be used; what was read before stays", of="http", fault=fault.message)
        self._tell()

    def _tell(self) -> None:
        if self.content is not None:
            self._metrics.certificate_ends(self.content.value.ends_s)


class Access:
    """Who may what: the authenticator, and the accounts of tenants, as settings and files say."""

    def __init__(self, settings: Settings) -> None:
        """Raises SettingsFault."""
        self.authenticator = _authenticator(settings)
        every, total = _limits_of_each(settings), _limits_of_all(settings)
        path = settings.tenants_file
        self._tenants = None if path is None else Renewed("tenants", [path], lambda: read_tenants(path, every))
        counts = self._tenants is not None or (every, total) != (NO_LIMITS, NO_LIMITS)
        self.accounts: Accounts | None = None
        if counts or self.authenticator is not None:
            total = replace(total, call_bytes_max=_of_calls(settings).call_bytes_max)
            self.accounts = Accounts(every=every, total=total, clock=time.monotonic)
            self.accounts.renew({} if self._tenants is None else self._tenants.value)
        # Where calls are counted also if nothing else is.
        self.calls = self.accounts or Accounts(every=NO_LIMITS, total=_of_calls(settings), clock=time.monotonic)

    def look(self) -> bool:
        """Take renewed files; whether what callers may has changed."""
        if self._tenants is not None and self.accounts is not None and self._tenants.look():
            self.accounts.renew(self._tenants.value)
        return self.authenticator is not None and self.authenticator.look()

    def may_read_metrics(self, authorization: str | None) -> bool:
        """Whether the bearer of this header reads what the metrics say."""
        if self.authenticator is None or authorization is None or not authorization.lower().startswith("bearer "):
            return False
        try:
            caller = self.authenticator.authenticate(Credentials(authorization[len("bearer ") :].strip()))
        except Unauthenticated:
            return False
        return not caller.roles.isdisjoint({Role.METRICS, Role.ADMIN})


def expect_jwts_whole(settings: Settings) -> None:
    """Raises SettingsFault where some of what says whose tokens are taken is set, and some is not."""
    parts = settings.auth_jwt_keys, settings.auth_jwt_issuer, settings.auth_jwt_audience
    if any(parts) and not all(parts):
        raise SettingsFault("auth_jwt_keys, auth_jwt_issuer, auth_jwt_audience: expected all of them or none, got some")


def read_jwts(settings: Settings, keys: Path) -> "Jwts":
    """Who verifies an issuer's tokens, by the keys that the file has now. Raises SettingsFault."""
    # Here, as it takes a server that knows none 50 ms to import.
    from ntm_serve.auth.jwts import Jwts, JwtSettings

    words = settings.auth_jwt_issuer, settings.auth_jwt_audience
    claims = settings.auth_jwt_tenant_claim, settings.auth_jwt_roles_claim
    return Jwts(JwtSettings(keys, *words, *claims))


def expect_readers_known(settings: Settings) -> None:
    """Raises SettingsFault where metrics are for callers alone, and none is known."""
    if settings.metrics_access == "token" and settings.auth_file is None and settings.auth_jwt_keys is None:
        raise SettingsFault("metrics_access: expected auth_file or auth_jwt_keys for token, got none")


def _authenticator(settings: Settings) -> Authenticator | None:
    expect_jwts_whole(settings)
    expect_readers_known(settings)
    path, keys = settings.auth_file, settings.auth_jwt_keys
    if path is None and keys is None:
        return None
    callers = None if path is None else Renewed("callers", [path], lambda: read_callers(path))
    jwts = None if keys is None else Renewed("keys of tokens", [keys], lambda: read_jwts(settings, keys))
    return Authenticator(callers, jwts, now_s=time.time)


def _limits_of_each(settings: Settings) -> TenantLimits:
    return TenantLimits(
        sessions_max=settings.tenant_sessions_max or None,
        state_bytes_max=settings.tenant_state_bytes_max or None,
        steps_waiting_max=settings.tenant_steps_waiting_max or None,
        steps_per_s_max=settings.tenant_steps_per_s_max or None,
        message_bytes_max=settings.tenant_message_bytes_max or None,
        steps_per_message_max=settings.tenant_steps_per_message_max or None,
        calls_max=settings.tenant_calls_max or None,
        call_bytes_max=settings.tenant_call_bytes_max or None,
        watches_max=settings.tenant_watches_max or None,
        model_sizes_max=settings.tenant_model_sizes_max or None,
    )


def _limits_of_all(settings: Settings) -> TenantLimits:
    """Those that nobody else holds: sessions, what waits and messages have limits where they are counted."""
    return TenantLimits(
        state_bytes_max=settings.state_bytes_max or None, steps_per_s_max=settings.steps_per_s_max or None
    )


def _of_calls(settings: Settings) -> TenantLimits:
    """What calls of all tenants may hold."""
    return TenantLimits(call_bytes_max=settings.call_bytes_max or None)


def call_limits(settings: Settings) -> CallLimits:
    """Of the gRPC port."""
    return CallLimits(
        messages_in_flight_max=settings.messages_in_flight_max,
        stream_bytes_max=settings.stream_bytes_max,
        calls_max=settings.calls_max,
        stream_age_max_s=settings.stream_age_max_s or None,
    )


def connection_limits(settings: Settings) -> ConnectionLimits:
    return ConnectionLimits(
        message_bytes_max=settings.message_bytes_max,
        calls_max=settings.connection_calls_max,
        connections_max=settings.connections_max or None,
        idle_s=settings.connection_idle_s or None,
    )


def warn_of_exposure(settings: Settings) -> None:
    """Say what whoever reaches the ports may read and do: where callers are known, what is open all the same; where
    they are not, all, if others than this machine reach it.
    """
    if settings.metrics_access == "open" and not (settings.auth_file is None and settings.auth_jwt_keys is None):
        log.warning("whoever reaches the HTTP port reads /metrics, which name tenants: set metrics_access to token")
    if is_loopback(settings.host):
        return
    if settings.tls_cert is None:
        log.warning("traffic is readable to whoever is between: no tls_cert", host=settings.host)
    if settings.auth_file is None and settings.auth_jwt_keys is None and settings.tls_client_ca is None:
        log.warning("whoever reaches the port may do everything: no auth_file, no auth_jwt_keys", host=settings.host)


async def look_now_and_then(tls: Tls, access: Access, frontend: GrpcServer) -> None:
    """Look now and then whether files were renewed, and which streams are to end for it, or for their age."""
    while True:
        await asyncio.sleep(LOOK_S)
        tls.look()
        frontend.look(renewed=access.look())
