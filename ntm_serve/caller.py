"""Who calls: a tenant and roles, and how the sessions of tenants are kept apart.

Rules of this file: sessions are named within their tenant; inside a server a session has one key, and the key of a
session whose tenant has no name is its name; nothing outside this file knows how a key is made.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from ntm_serve.errors import InvalidInput, LimitReached, NtmServeError

SESSION_NAME = re.compile(r"[A-Za-z0-9._~:@+-]{1,128}")
SESSION_NAME_MEANS = "1 to 128 of A-Z a-z 0-9 . _ ~ : @ + -"
TENANT_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
# It is in no name of a session, a tenant or a model, and so a key that stands in a text is found there.
MARK = "|"
# The first that comes after every key of tenants whose keys begin so.
AFTER_MARK = chr(ord(MARK) + 1)
SESSION_KEY = re.compile(rf"(?:{TENANT_NAME.pattern}{re.escape(MARK)})?{SESSION_NAME.pattern}")
# With what else in it no key begins.
KEY_BEGINNING = re.compile(r"[A-Za-z0-9._~:@+|-]{0,193}")


class Role(StrEnum):
    """What a caller may do beside what everybody may with sessions of its tenant."""

    # Load, unload, drain, list across tenants.
    ADMIN = "admin"
    # Read the metrics.
    METRICS = "metrics"


@dataclass(frozen=True, slots=True)
class Caller:
    """name: of whoever calls, for the log. tenant: whose sessions it sees; "" is the one without a name. ends_s: Unix
    seconds when its token ends.
    """

    name: str
    tenant: str = ""
    roles: frozenset[Role] = frozenset()
    ends_s: float = float("inf")


# Where a server asks nobody who calls.
ANYBODY = Caller("anybody", roles=frozenset(Role))


class Credentials(NamedTuple):
    """What a call says of its caller. token: without "Bearer". names: in the client's certificate, which its authority
    vouches for.
    """

    token: str | None
    names: Sequence[str] = ()


# Raises Unauthenticated.
Authenticate = Callable[[Credentials], Caller]


def key_of(tenant: str, name: str) -> str:
    """The key of a tenant's session. Raises InvalidInput for what is no session's name."""
    if not SESSION_NAME.fullmatch(name):
        raise InvalidInput(f"session id: expected {SESSION_NAME_MEANS}, got {name!r}")
    return f"{tenant}{MARK}{name}" if tenant else name


def keys_of(tenant: str, names: Sequence[str]) -> Sequence[str]:
    """The keys of sessions that should be there. What can be no name gets a key that no session has."""
    if tenant:
        prefix = tenant + MARK
        return [prefix + name for name in names]
    return [name if MARK not in name else MARK + name for name in names]


def parted(key: str) -> tuple[str, str]:
    """The tenant and the name of a key."""
    tenant, _, name = key.rpartition(MARK)
    return tenant, name


def tenant_of(key: str) -> str:
    """Whose session it is."""
    return key.rpartition(MARK)[0]


def as_told(error: NtmServeError, tenant: str) -> NtmServeError:
    """An error in the words of that tenant: its sessions by their names."""
    prefix = tenant + MARK
    if prefix not in error.message:
        return error
    # Where a word begins: what a caller made up may have the mark inside, and is told back as it was.
    message = re.sub(rf"(?<![A-Za-z0-9._~:@+|-]){re.escape(prefix)}", "", error.message)
    if isinstance(error, LimitReached):
        return type(error)(message, retry_after_s=error.retry_after_s, fields=error.fields)
    return type(error)(message, fields=error.fields)
