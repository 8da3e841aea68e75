"""Who asks over HTTP: as for gRPC, by token alone, because the port asks for no certificate.

Rules of this file: where gRPC lets in by certificate alone, nobody is let in here; a request that a browser sends for
another site is refused, because whoever sits at that browser did not mean to send it.
"""

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

    def __init__(self, authenticator: Authenticator | None, *, asks_for_certificates: bool) -> None:
        """authenticator: None where nobody is asked. asks_for_certificates: whether the gRPC port lets in none but
        those who show one.
        """
        self._authenticator = authenticator
        self._asks_for_certificates = asks_for_certificates

    @property
    def access(self) -> HttpAccess:
        if self._authenticator is not None:
            return HttpAccess.TOKEN if self._authenticator.takes_tokens else HttpAccess.CLOSED
        return HttpAccess.CLOSED if self._asks_for_certificates else HttpAccess.OPEN

    def caller_of(self, headers: Headers) -> Caller:
        """Raises Unauthenticated, PermissionDenied."""
        expect_same_site(headers)
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


def expect_same_site(headers: Headers) -> None:
    """Refuse what a browser sends for a page of another site. Raises PermissionDenied."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
    if site not in ("none", "same-origin") or (origin and urlsplit(origin).netloc != headers.get("host")):
        raise PermissionDenied("request: expected one of this server's own page, got one for another site")
