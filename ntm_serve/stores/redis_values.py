"""Values as redis holds them, and back."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from ntm_serve.errors import StoreDamaged
from ntm_serve.store import Head, LogRecord, StoredSummary


@contextmanager
def readable(session_id: str) -> Iterator[None]:
    """Raises StoreDamaged for what cannot be read as what it should be."""
    try:
        yield
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise StoreDamaged(
            f"session {session_id}: expected what was stored of it, got something else: {error}"
        ) from error


def summary(session_id: str, head: bytes, next_step: bytes, used_at_s: bytes, owner: bytes | None) -> StoredSummary:
    with readable(session_id):
        return StoredSummary(
            session_id, head_from_bytes(head), int(next_step), float(used_at_s), (owner or b"").decode()
        )


def head_to_bytes(head: Head) -> bytes:
    return json.dumps(asdict(head) | {"options": head.options.decode("latin-1")}).encode()


def head_from_bytes(stored: bytes) -> Head:
    fields = json.loads(stored)
    return Head(**fields | {"options": fields["options"].encode("latin-1")})


def record_to_bytes(record: LogRecord) -> bytes:
    """What the scripts read: see `redis_scripts`."""
    return b"%d %d %b" % record


def record_from_bytes(stored: bytes) -> LogRecord:
    first_step, end_step, payload = stored.split(b" ", 2)
    return LogRecord(int(first_step), int(end_step), payload)
