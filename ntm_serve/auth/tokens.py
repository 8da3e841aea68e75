"""Tokens: drawn here, told once, and kept as a hash.

Rules of this file: a token is 256 random bits, which nobody guesses or has a list of; so one SHA-256 of it keeps it,
and neither salt nor a slow hash would add to that (they are for what people make up). What does not look like a token
of ours is none, so that nobody puts a word of their own in its place.
"""

import hashlib
import re
import secrets

_TOKEN = re.compile(r"ntms_[A-Za-z0-9_-]{43}")


def new_token() -> str:
    """A token that was never told."""
    return f"ntms_{secrets.token_urlsafe(32)}"


def is_token(text: str) -> bool:
    """Whether it looks like one of ours."""
    return _TOKEN.fullmatch(text) is not None


def hash_of(token: str) -> bytes:
    """What is kept of a token, 32 bytes."""
    return hashlib.sha256(token.encode()).digest()
