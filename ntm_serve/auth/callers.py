"""The file of callers: who has which token or certificate, of which tenant, with which roles. TOML.

    [[tokens]]
    name = "gateway-7"
    tenant = "acme"
    roles = []                          # of admin, metrics
    sha256 = "9f86d0..."                # `ntm-serve token` makes these lines, and tells the token once
    ends = 2027-01-01T00:00:00Z         # may be left out

    [[certificates]]
    name = "spiffe://acme/gateway"      # a name in the certificate: alternative, or common
    tenant = "acme"

Rules of this file: a fault names the entry and never what is kept of a token; a word that is not known is a fault, for
a misspelt `ends` would let somebody in for ever.
"""

import hmac
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ntm_serve.auth.tokens import hash_of
from ntm_serve.caller import TENANT_NAME, Caller, Role
from ntm_serve.errors import SettingsFault
from ntm_serve.renewal import bytes_of

_NAME_MAX = 256
_HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class _Entry:
    caller: Caller
    kept: bytes


class Callers:
    """What the file says."""

    def __init__(self, tokens: Mapping[bytes, _Entry], certificates: Mapping[str, Caller]) -> None:
        self._tokens = tokens
        self._certificates = certificates

    @property
    def knows_tokens(self) -> bool:
        return bool(self._tokens)

    @property
    def knows_certificates(self) -> bool:
        return bool(self._certificates)

    def by_token(self, token: str, now_s: float) -> Caller | None:
        """Who has this token; None where nobody has it, any more. now_s: Unix seconds.

        The table is asked for the token's hash: how long that takes says nothing of a token that is not known already.
        """
        kept = hash_of(token)
        entry = self._tokens.get(kept)
        if entry is None or not hmac.compare_digest(entry.kept, kept) or entry.caller.ends_s <= now_s:
            return None
        return entry.caller

    def by_certificate(self, names: Sequence[str]) -> Caller | None:
        """Who has a certificate with one of these names; the first that is known."""
        return next((self._certificates[name] for name in names if name in self._certificates), None)


def read_callers(path: Path) -> Callers:
    """Raises SettingsFault."""
    try:
        content = tomllib.loads(bytes_of(path, "auth_file").decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as fault:
        raise SettingsFault(f"auth_file: expected TOML in {path}, got: {fault}") from fault
    unknown = set(content) - {"tokens", "certificates"}
    if unknown:
        raise SettingsFault(f"auth_file: expected [[tokens]] and [[certificates]] in {path}, got {sorted(unknown)}")
    tokens: dict[bytes, _Entry] = {}
    for number, entry in _entries(content, "tokens"):
        what = f"auth_file: tokens, number {number}"
        caller = _caller(what, entry, {"sha256", "ends"})
        kept = _hash(what, entry.get("sha256"))
        if kept in tokens:
            raise SettingsFault(f"{what}: expected a token of its own, got that of {tokens[kept].caller.name}")
        tokens[kept] = _Entry(replace(caller, ends_s=_ends_s(what, entry)), kept)
    certificates: dict[str, Caller] = {}
    for number, entry in _entries(content, "certificates"):
        what = f"auth_file: certificates, number {number}"
        caller = _caller(what, entry, set())
        if caller.name in certificates:
            raise SettingsFault(f"{what}: expected each name once, got {caller.name!r} again")
        certificates[caller.name] = caller
    return Callers(tokens, certificates)


def roles_of(what: str, words: object) -> frozenset[Role]:
    """Raises SettingsFault that begins with `what`."""
    if not isinstance(words, list) or not set(map(str, words)) <= set(Role):
        raise SettingsFault(f"{what}: roles: expected a list of {', '.join(Role)}, got {words!r}")
    return frozenset(map(Role, words))


def _entries(content: Mapping[str, Any], kind: str) -> list[tuple[int, dict[str, Any]]]:
    found = content.get(kind, [])
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise SettingsFault(f"auth_file: expected [[{kind}]], got something else of that name")
    return list(enumerate(found, start=1))


def _caller(what: str, entry: Mapping[str, Any], more: set[str]) -> Caller:
    unknown = set(entry) - {"name", "tenant", "roles"} - more
    if unknown:
        known = sorted({"name", "tenant", "roles"} | more)
        raise SettingsFault(f"{what}: expected {', '.join(known)}, got {', '.join(sorted(unknown))}")
    name, tenant = entry.get("name"), entry.get("tenant", "")
    if not isinstance(name, str) or not 1 <= len(name) <= _NAME_MAX or not name.isprintable():
        raise SettingsFault(f"{what}: name: expected 1 to {_NAME_MAX} letters, got {name!r}")
    if not isinstance(tenant, str) or (tenant and not TENANT_NAME.fullmatch(tenant)):
        raise SettingsFault(f"{what} ({name}): tenant: expected 1 to 64 of A-Z a-z 0-9 . _ -, or none, got {tenant!r}")
    return Caller(name, tenant, roles_of(f"{what} ({name})", entry.get("roles", [])))


def _hash(what: str, text: object) -> bytes:
    try:
        kept = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        kept = b""
    if len(kept) != _HASH_BYTES:
        raise SettingsFault(
            f"{what}: sha256: expected {2 * _HASH_BYTES} hexadecimal digits, as `ntm-serve token` prints"
        )
    return kept


def _ends_s(what: str, entry: Mapping[str, Any]) -> float:
    ends = entry.get("ends")
    if ends is None:
        return float("inf")
    if not isinstance(ends, datetime):
        raise SettingsFault(f"{what}: ends: expected a time as 2027-01-01T00:00:00Z, got {ends!r}")
    return (ends if ends.tzinfo else ends.replace(tzinfo=UTC)).timestamp()
