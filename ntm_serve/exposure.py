"""Exposure: what the settings say of who may reach the ports, and how.

Rules of this file: what cannot be used keeps the server from starting; what is open to others than this machine, and to
anybody there, is said in the log.
"""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from ntm_serve.config import Settings
from ntm_serve.errors import SettingsFault
from ntm_serve.frontends.transport import ConnectionLimits
from ntm_serve.metrics import Metrics
from ntm_serve.renewal import LOOK_S
from ntm_serve.tls import https_context, is_loopback, renew_https, renewed_tls, tls_files

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


async def look_now_and_then(looks: Sequence[Callable[[], object]]) -> None:
    """Look now and then whether files were renewed."""
    while True:
        await asyncio.sleep(LOOK_S)
        for look in looks:
            look()


def connection_limits(settings: Settings) -> ConnectionLimits:
    return ConnectionLimits(
        message_bytes_max=settings.message_bytes_max,
        calls_max=settings.connection_calls_max,
        connections_max=settings.connections_max or None,
        idle_s=settings.connection_idle_s or None,
    )


def warn_of_exposure(settings: Settings) -> None:
    """Say what whoever reaches the port may read and do, where others than this machine reach it."""
    if is_loopback(settings.host):
        return
    if settings.tls_cert is None:
        log.warning("traffic is readable to whoever is between: no tls_cert", host=settings.host)
