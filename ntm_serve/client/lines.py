"""Lines: the connections that a client may use, and which of them a call takes. Pure.

Rules of this file: a session's calls stay on one line while it works, and turn to the next when it fails; every client
begins a session with the same address, so that replicas that share a store need not hand it to and fro. A balancer does
the same with the metadata that calls carry.
"""

import re
import secrets
from zlib import crc32

from ntm_serve.errors import InvalidInput

# Of gRPC's own ways to name a target; these may have commas of their own.
SCHEMES = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:", "xds:")


# Metadata for a balancer in front of replicas: calls with the same value belong to the same one.
AFFINITY_KEY = "x-session-id"
# What metadata may be; a session's id that is none is refused by the server, in its own words.
METADATA = re.compile(r"[!-~]{1,128}")

Metadata = tuple[tuple[str, str], ...]


def affinity(session_id: str) -> Metadata:
    """The metadata of a session's calls; none where a call belongs to no session."""
    return ((AFFINITY_KEY, session_id),) if METADATA.fullmatch(session_id) else ()


def group_affinity(prefix: str) -> Metadata:
    """The metadata of the calls of a group, which have many sessions each. Groups of one prefix share sessions; without
    a prefix each group is by itself.
    """
    return affinity(prefix) or affinity(secrets.token_hex(8))


class Turn:
    """How often the calls of one session turned to another line."""

    def __init__(self) -> None:
        self.number = 0

    def next(self) -> None:
        self.number += 1


class Lines:
    """The lines of a client. addresses: of each line."""

    def __init__(self, target: str) -> None:
        """target: "host:port", or a list with commas between. Raises InvalidInput."""
        addresses = (target,) if target.startswith(SCHEMES) else tuple(one.strip() for one in target.split(","))
        if not all(addresses):
            raise InvalidInput(f"target: expected addresses host:port with commas between them, got {target!r}")
        self._spread = len(addresses)
        # Of one address there are two lines: a connection may lead nowhere, or to a replica that does not have the
        # session, while another leads to a server. The second is used only after a failure.
        self.addresses = addresses * 2 if len(addresses) == 1 else addresses

    def place(self, session_id: str, turn: Turn) -> int:
        """The line that a session's next call takes; the id is empty for what belongs to none."""
        first = crc32(session_id.encode()) % self._spread if self._spread > 1 else 0
        return (first + turn.number) % len(self.addresses)
