"""Preflight: what of the settings can be looked at before models are loaded, which may take minutes.

Rules of this file: every look is made, so that all that is wrong is told at once; whatever is opened is closed again.
"""

from collections.abc import Callable, Iterator
from typing import Any

from ntm_serve.auth.callers import read_callers
from ntm_serve.auth.limits import read_tenants
from ntm_serve.config import Settings
from ntm_serve.engine import find_execution_provider
from ntm_serve.errors import NtmServeError, SettingsFault
from ntm_serve.exposure import expect_jwts_whole, expect_readers_known, read_jwts
from ntm_serve.frontends.server import expect_free
from ntm_serve.repository import find_models
from ntm_serve.stores.opening import open_store
from ntm_serve.tenants import NO_LIMITS
from ntm_serve.tls import read_tls, tls_files


def expect_usable(settings: Settings) -> None:
    """Raises SettingsFault for all that is wrong, or the error that it is where it is one."""
    faults: list[NtmServeError] = []
    for look in _looks(settings):
        try:
            look()
        except NtmServeError as fault:
            faults.append(fault)
    if len(faults) == 1:
        raise faults[0]
    if faults:
        said = "settings: " + "; ".join(fault.detail for fault in faults)
        raise SettingsFault(said, detail=said)  # However long.


def expect_store(settings: Settings) -> None:
    """Raises SettingsFault where sessions are to outlive the process, and there is no store for them."""
    if not settings.store and settings.durability in ("process", "disk"):
        raise SettingsFault(f"durability: expected a store for {settings.durability}, as in --store sqlite:FILE")


def find_tracing() -> Any:
    """The class of the tracer, which needs an extra. Raises SettingsFault where that is not installed."""
    try:
        from ntm_serve.tracing import Tracing  # The one place where the extra is imported.
    except ModuleNotFoundError as missing:
        hint = "it needs an extra: pip install 'ntm-serve[server,otel]'"
        raise SettingsFault(f"trace_endpoint: {hint} ({missing})") from missing
    return Tracing


def _looks(settings: Settings) -> Iterator[Callable[[], object]]:
    yield lambda: find_execution_provider(settings.execution_provider)
    yield lambda: find_models(settings.models)
    yield lambda: _look_at_ports(settings)
    yield lambda: _read_tls(settings)
    yield lambda: expect_readers_known(settings)
    if (callers := settings.auth_file) is not None:
        yield lambda: read_callers(callers)
    yield lambda: _read_keys(settings)
    if (tenants := settings.tenants_file) is not None:
        yield lambda: read_tenants(tenants, NO_LIMITS)
    yield lambda: expect_store(settings)
    if settings.store:
        yield lambda: open_store(settings.store, prefix=settings.store_prefix).close()
    if settings.trace_endpoint:
        yield find_tracing


def _look_at_ports(settings: Settings) -> None:
    if settings.port and settings.port == settings.http_port:
        raise SettingsFault(f"port, http_port: expected two, got {settings.port} for both")
    faults = []
    for name, port in (("port", settings.port), ("http_port", settings.http_port)):
        try:
            expect_free(settings.host, port, name=name)
        except SettingsFault as fault:
            faults.append(fault.message)
    if faults:
        raise SettingsFault("; ".join(faults))


def _read_tls(settings: Settings) -> None:
    files = tls_files(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    if files is not None:
        read_tls(files)


def _read_keys(settings: Settings) -> None:
    expect_jwts_whole(settings)
    if settings.auth_jwt_keys is not None:
        read_jwts(settings, settings.auth_jwt_keys)
