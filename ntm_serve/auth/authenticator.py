"""The authenticator: by token, by the token of an issuer, or by the client's certificate.

Rules of this file: a token that is shown must be right, whatever else is shown beside it; what was verified is
remembered for as long as it holds and its files stay as they are, so that a signature is looked at once.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from ntm_serve.auth.callers import Callers
from ntm_serve.auth.tokens import hash_of, is_token
from ntm_serve.caller import Caller, Credentials
from ntm_serve.errors import Unauthenticated
from ntm_serve.renewal import Renewed

if TYPE_CHECKING:
    from ntm_serve.auth.jwts import Jwts

# Tokens that are remembered: about 500 B each.
REMEMBERED_MAX = 4096


class Authenticator:
    """Who a call's credentials are of."""

    def __init__(
        self, callers: Renewed[Callers] | None, jwts: "Renewed[Jwts] | None", *, now_s: Callable[[], float]
    ) -> None:
        """now_s: Unix seconds."""
        self._callers = callers
        self._jwts = jwts
        self._now_s = now_s
        self._verified: OrderedDict[bytes, Caller] = OrderedDict()

    @property
    def asks_for_certificates(self) -> bool:
        """Whether it knows anybody by certificate: reading them costs each call a little."""
        return self._callers is not None and self._callers.value.knows_certificates

    @property
    def takes_tokens(self) -> bool:
        """Whether a token may be somebody's."""
        return self._jwts is not None or (self._callers is not None and self._callers.value.knows_tokens)

    def authenticate(self, credentials: Credentials) -> Caller:
        """Raises Unauthenticated."""
        token = credentials.token
        if token is not None:
            return self._by_token(token)
        if self._callers is not None and credentials.names:
            caller = self._callers.value.by_certificate(credentials.names)
            if caller is not None:
                return caller
            raise Unauthenticated("certificate: none of its names is a caller's")
        raise Unauthenticated("call: expected a token, as the metadata authorization: Bearer TOKEN, got none")

    def look(self) -> bool:
        """Take renewed files; whether there are any."""
        renewed = [one.look() for one in (self._callers, self._jwts) if one is not None]
        if any(renewed):
            self._verified.clear()
        return any(renewed)

    def _by_token(self, token: str) -> Caller:
        if is_token(token):
            caller = None if self._callers is None else self._callers.value.by_token(token, self._now_s())
            if caller is None:
                raise Unauthenticated("token: is nobody's, or not any more")
            return caller
        if self._jwts is None:
            raise Unauthenticated("token: expected one that `ntm-serve token` made, got something else")
        return self._by_jwt(self._jwts.value, token)

    def _by_jwt(self, jwts: "Jwts", token: str) -> Caller:
        # Of the token itself there shall be no copy in memory for longer than its call.
        place = hash_of(token)
        known = self._verified.get(place)
        if known is not None and known.ends_s > self._now_s():
            self._verified.move_to_end(place)
            return known
        caller = jwts.verified(token)
        self._verified[place] = caller
        while len(self._verified) > REMEMBERED_MAX:
            self._verified.popitem(last=False)
        return caller
