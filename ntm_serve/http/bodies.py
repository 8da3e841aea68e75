"""What a request says in its body: a JSON object with known fields, of a bounded size, within a bounded time."""

import asyncio
import json

from starlette.requests import Request

from ntm_serve.errors import InvalidInput, TooLarge
from ntm_serve.http.answers import HttpFault
from ntm_serve.http.forms import Json

# Steps by hand are few.
BODY_BYTES_MAX = 1 << 20
# How long it may take to come.
BODY_S = 30.0


async def body_of(request: Request, known: set[str]) -> Json:
    """What a request says. Raises HttpFault, InvalidInput, TooLarge."""
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                body += part
                if len(body) > BODY_BYTES_MAX:
                    wrong = f"body: expected at most {BODY_BYTES_MAX} bytes"
                    raise TooLarge.beyond("body_bytes_max", wrong, expected=BODY_BYTES_MAX, actual=len(body))
    except TimeoutError:
        raise HttpFault(408, InvalidInput(f"body: expected all of it within {BODY_S:g} s")) from None
    try:
        said = json.loads(bytes(body) or b"{}")
    except (ValueError, RecursionError) as fault:
        raise InvalidInput(f"body: expected JSON, got: {fault}") from fault
    if not isinstance(said, dict):
        raise InvalidInput(
            f"body: expected an object with some of {', '.join(sorted(known))}, got {type(said).__name__}"
        )
    if unknown := sorted(set(said) - known):
        raise InvalidInput(f"body: expected fields of {', '.join(sorted(known))}, got {', '.join(unknown)}")
    return said


def text_in(said: Json, name: str) -> str | None:
    """What is said by that name; None where nothing is, or an empty text. Raises InvalidInput."""
    value = said.get(name)
    if value is not None and not isinstance(value, str):
        raise InvalidInput(f"{name}: expected a text, got {type(value).__name__}")
    return value or None


def whole_in(said: Json, name: str) -> int | None:
    """As `text_in`. Raises InvalidInput."""
    value = said.get(name)
    if value is not None and type(value) is not int:
        raise InvalidInput(f"{name}: expected a whole number, got {type(value).__name__}")
    return value
