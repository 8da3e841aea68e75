"""Work that takes its time where it is much: not on the event loop then."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

# So many bytes are checked, hashed or written down in half a millisecond to two.
HERE_BYTES_MAX = 512 << 10

Made = TypeVar("Made")


async def offloaded(work_bytes: int, work: Callable[[], Made]) -> Made:
    """What `work` gives, made here, or on a thread where it goes through more bytes."""
    return work() if work_bytes < HERE_BYTES_MAX else await asyncio.to_thread(work)
