"""JSON Web Tokens of one issuer (RFC 7519), whose public keys stand in a file (RFC 7517).

Rules of this file: issuer, audience and end are always asked for; the key says its algorithm, not the token; keys are
public ones, so a token cannot be signed with what everybody may read; why one is refused is told without quoting it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt

from ntm_serve.caller import TENANT_NAME, Caller, Role
from ntm_serve.errors import SettingsFault, Unauthenticated
from ntm_serve.renewal import bytes_of

# Of asymmetric keys alone.
ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})
# Members of a key that is not public: RFC 7518, 6.2.2, 6.3.2 and 6.4.1; RFC 8037, 2.
SECRETS = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
KEY_ID_SHOWN_MAX = 64
# Clocks differ.
LEEWAY_S = 30.0

_WHY: Mapping[type[Exception], str] = {
    jwt.ExpiredSignatureError: "it has ended",
    jwt.ImmatureSignatureError: "it has not begun",
    jwt.InvalidAudienceError: "it is for another audience",
    jwt.InvalidIssuerError: "it is of another issuer",
    jwt.InvalidSignatureError: "its signature is not that of its key",
    jwt.InvalidAlgorithmError: "its algorithm is not that of its key",
    jwt.MissingRequiredClaimError: "it lacks a claim: exp, iss, aud and sub are needed",
}


@dataclass(frozen=True, slots=True)
class JwtSettings:
    """keys: a file with a JWK set. tenant_claim, roles_claim: where a token says whose its bearer is, and its roles."""

    keys: Path
    issuer: str
    audience: str
    tenant_claim: str = "tenant"
    roles_claim: str = "roles"


class Jwts:
    """Verifies tokens with the keys that the file has."""

    def __init__(self, settings: JwtSettings) -> None:
        """Raises SettingsFault."""
        self._settings = settings
        self._keys = _read_keys(settings.keys)

    def verified(self, token: str) -> Caller:
        """Raises Unauthenticated."""
        settings = self._settings
        try:
            header = jwt.get_unverified_header(token)
            key = self._keys.get(header.get("kid", ""))
            if key is None and len(self._keys) == 1 and "kid" not in header:
                [key] = self._keys.values()
            if key is None:
                raise Unauthenticated("token: its key is none of the issuer's")
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=settings.audience,
                issuer=settings.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
            ends_s = float(claims["exp"]) + LEEWAY_S
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as fault:
            why = next((_WHY[kind] for kind in type(fault).__mro__ if kind in _WHY), "it is no token of the issuer's")
            raise Unauthenticated(f"token: {why}") from None
        return self._caller(claims, ends_s)

    def _caller(self, claims: Mapping[str, Any], ends_s: float) -> Caller:
        settings = self._settings
        tenant, roles = claims.get(settings.tenant_claim), claims.get(settings.roles_claim, [])
        if not isinstance(tenant, str) or not TENANT_NAME.fullmatch(tenant):
            raise Unauthenticated(
                f"token: claim {settings.tenant_claim}: expected a tenant, 1 to 64 of A-Z a-z 0-9 . _ -"
            )
        if not isinstance(roles, list):
            raise Unauthenticated(f"token: claim {settings.roles_claim}: expected a list")
        # An issuer has roles for others than us.
        known = frozenset(role for role in Role if role.value in roles)
        return Caller(str(claims["sub"]), tenant, known, ends_s=ends_s)


def _read_keys(path: Path) -> dict[str, jwt.PyJWK]:
    text = bytes_of(path, "auth_jwt_keys")
    _expect_public(text, path)
    try:
        keys = jwt.PyJWKSet.from_json(text.decode()).keys
    except (jwt.PyJWTError, ValueError, AttributeError, TypeError, NotImplementedError, RecursionError) as fault:
        raise SettingsFault(f"auth_jwt_keys: expected a JWK set in {path}, got: {type(fault).__name__}") from fault
    for key in keys:
        if not isinstance(key.key_id, str | None):
            raise SettingsFault(f"auth_jwt_keys: expected a text as `kid` of each key of {path}, got {key.key_id!r}")
        if key.algorithm_name not in ALGORITHMS:
            raise SettingsFault(
                f"auth_jwt_keys: key {key.key_id}: expected one of {', '.join(sorted(ALGORITHMS))}, "
                f"got {key.algorithm_name}"
            )
    if len({key.key_id for key in keys}) != len(keys):
        raise SettingsFault(f"auth_jwt_keys: expected each key of {path} with a `kid` of its own")
    return {key.key_id or "": key for key in keys}


def _expect_public(text: bytes, path: Path) -> None:
    """Refuse a set with a secret in it: whoever reads the file could sign as the issuer. Raises SettingsFault."""
    try:
        keys = json.loads(text)["keys"]
        secret = [one.get("kid", f"number {place}") for place, one in enumerate(keys) if SECRETS & one.keys()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # No set at all, as is told elsewhere.
        return
    if secret:
        raise SettingsFault(
            f"auth_jwt_keys: expected public keys alone in {path}, got a private or symmetric one: "
            f"{', '.join(str(one)[:KEY_ID_SHOWN_MAX] for one in secret)}; have the issuer give its public set, "
            "and take these for known to others"
        )
