"""Whether a server is to be sent calls, and why not: it drains, or its store has not answered for too long.

Rules of this file: a server whose store is away is taken out of rotation when patience with the store is at its end,
as it would answer with STORE_UNAVAILABLE what another can do; whether others can is known to who sends the calls, and
so the store can be left out of the question.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence

import structlog

from ntm_serve.errors import InvalidInput

STORE = "store"
# The shortest silence of a store that counts: several times what is between two words of a server that has one alone.
SILENCE_MIN_S = 2.0
# How often health follows.
LOOK_S = 0.25


log = structlog.get_logger()


class Readiness:
    """Asked by probes over HTTP; `follow` has gRPC's health say the same."""

    def __init__(
        self, *, is_draining: Callable[[], bool], store_silent_s: Callable[[], float] | None, patience_s: float
    ) -> None:
        """store_silent_s: seconds since the store last answered; None without a store. patience_s: with the store."""
        self._is_draining = is_draining
        self._store_silent_s = store_silent_s
        self._silence_max_s = max(patience_s, SILENCE_MIN_S)

    def faults(self, exclude: Collection[str] = ()) -> list[str]:
        """Why not; nothing where it is ready. exclude: what is not to count. Raises InvalidInput for unknown words."""
        if unknown := set(exclude) - {STORE}:
            raise InvalidInput(f"exclude: expected {STORE}, got {', '.join(sorted(unknown))}")
        faults = ["the server is draining"] if self._is_draining() else []
        if self._store_silent_s is not None and STORE not in exclude:
            silent_s = self._store_silent_s()
            if silent_s > self._silence_max_s:
                faults.append(f"the store has not answered for more than {self._silence_max_s:g} s")
        return faults

    async def follow(self, tell: Callable[[Sequence[str]], None]) -> None:
        """Tell the faults whenever they change; the first is a change from none. Ends when the server drains: what is
        told then is for who drains it.
        """
        before: list[str] = []
        while not self._is_draining():
            faults = self.faults()
            if faults != before:
                log.warning("not ready", faults=faults) if faults else log.info("ready again")
                tell(faults)
            before = faults
            await asyncio.sleep(LOOK_S)
