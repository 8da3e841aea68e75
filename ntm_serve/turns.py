"""One at a time for each name, in the order of asking."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Locks by name, there as long as somebody has them or waits for them."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._locks)

    def __contains__(self, name: str) -> bool:
        """Whether somebody has its turn or waits for it."""
        return name in self._locks

    @asynccontextmanager
    async def __call__(self, *names: str) -> AsyncIterator[None]:
        """Inside of the block nobody else is inside of one of these names."""
        taken: list[str] = []
        try:
            for name in sorted(set(names)):
                self._users[name] = self._users.get(name, 0) + 1
                lock = self._locks.setdefault(name, asyncio.Lock())
                try:
                    await lock.acquire()
                except BaseException:
                    self._leave(name)
                    raise
                taken.append(name)
            yield
        finally:
            for name in reversed(taken):
                self._locks[name].release()
                self._leave(name)

    def _leave(self, name: str) -> None:
        self._users[name] -= 1
        if not self._users[name]:
            del self._users[name], self._locks[name]
