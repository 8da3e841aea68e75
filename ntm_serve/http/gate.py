"""Who asks over HTTP: as for gRPC, by token alone, because the port asks for no certificate.

Rules of this file: where gRPC lets in by certificate alone, nobody is let in here; a request that a browser sends for
another site is refused, because whoever sits at that browser did not mean to send it; where nobody is asked who calls,
so is one for a name that is not this server's, which may be a site's that has turned its name to this address.
"""

import ipaddress
from collections.abc import Collection
from enum import StrEnum
from typing import Protocol
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from ntm_serve.caller import ANYBODY, Caller, Credentials
from ntm_serve.errors import PermissionDenied, Unauthenticated

_BEARER = "bearer "


class HttpAccess(StrEnum):
    """What is asked of whoever comes."""

    OPEN = "open"
    TOKEN = "token"
    CLOSED = "closed"


class Authenticator(Protocol):
    """See ntm_serve.auth.authenticator."""

    @property
    def takes_tokens(self) -> bool: ...

    def authenticate(self, credentials: Credentials) -> Caller:
        """Raises Unauthenticated."""
        ...


class HttpGate:
    """Where a request shows who makes it."""

    def __init__(
        self,
        authenticator: Authenticator | None,
        *,
        asks_for_certificates: bool,
        names: Collection[str] | None = None,
    ) -> None:
        """authenticator: None where nobody is asked. asks_for_certificates: whether the gRPC port lets in none but
        those who show one. names: of the server, beside localhost and addresses; None is any.
        """
        self._authenticator = authenticator
        self._asks_for_certificates = asks_for_certificates
        self._names = None if names is None else frozenset(name.lower() for name in names)

    @property
    def access(self) -> HttpAccess:
        if self._authenticator is not None:
            return HttpAccess.TOKEN if self._authenticator.takes_tokens else HttpAccess.CLOSED
        return HttpAccess.CLOSED if self._asks_for_certificates else HttpAccess.OPEN

    def caller_of(self, headers: Headers) -> Caller:
        """Raises Unauthenticated, PermissionDenied."""
        self.expect_ours(headers)
        access = self.access
        if access is HttpAccess.OPEN:
            return ANYBODY
        if access is HttpAccess.CLOSED or self._authenticator is None:
            raise PermissionDenied(
                "api: is closed, as callers are known by certificate alone and this port asks for none; "
                "give tokens to whoever is to read it: docs/security.md"
            )
        shown = headers.getlist("authorization")
        if len(shown) != 1 or shown[0][: len(_BEARER)].lower() != _BEARER:
            raise Unauthenticated("authorization: expected one header, Bearer and a token")
        return self._authenticator.authenticate(Credentials(shown[0][len(_BEARER) :].strip()))

    def expect_ours(self, headers: Headers) -> None:
        """Refuse what a browser sends for a page of another site. Raises PermissionDenied."""
        origin, site, host = headers.get("origin"), headers.get("sec-fetch-site", "none"), headers.get("host", "")
        if site not in ("none", "same-origin") or (origin and _after_scheme(origin) != host.lower()):
            raise PermissionDenied("request: expected one of this server's own page, got one for another site")
        # A token is nothing that another site's page has.
        if self.access is HttpAccess.OPEN and self._names is not None and not _is_of(host, self._names):
            raise PermissionDenied(
                f"host: expected localhost, an address or one of http_names, got {host[:200]!r}; "
                "a server that asks nobody who calls answers to no other name: docs/security.md"
            )


def _after_scheme(origin: str) -> str:
    return origin.partition("://")[2].lower()


def _is_of(host: str, names: Collection[str]) -> bool:
    """host: a name or an address, with or without a port."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name in ("localhost", *names) or name.endswith(".localhost") or not host:
            return True
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
