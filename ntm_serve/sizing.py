"""What is made for each size that sessions choose: once, and kept for as long as somebody uses it or there is room.

Rules of this file: one is made at a time; whoever asks and leaves does not end the making, so that asking again finds
it; of those that nobody uses the longest unused makes room; a session that comes back is never refused for its size;
what cannot be made is not tried again for a while, whoever asks, because trying costs what making costs.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, NoReturn, Protocol, TypeVar

from ntm_serve.errors import NtmServeError
from ntm_serve.sizes import Sizes

# How long a size that could not be made is refused without trying: what made it fail may have been the memory of the
# moment. And how many are remembered.
FAULT_LIFE_S = 60.0
FAULTS_MAX = 256


class Use:
    """How many use what was made for a size: sessions in memory, and those that are being made."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """In use until the block is left."""
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1


class OfSize(Protocol):
    """What is made for a size."""

    @property
    def is_unused(self) -> bool:
        """Whether nobody would miss it."""
        ...


Made = TypeVar("Made", bound=OfSize)


class Sizing(Generic[Made]):
    """What was made for sizes, and what is being made."""

    def __init__(
        self,
        make: Callable[[Sizes], Awaitable[Made]],
        *,
        sizes_max: int,
        refuse: Callable[[Sizes, int], NoReturn],
        dropped: Callable[[Made], None],
        clock: Callable[[], float],
    ) -> None:
        """refuse: raises, told the size and how many there are. dropped: told what made room."""
        self._clock = clock
        # Why a size could not be made, and till when that is believed; the latest is the last.
        self._faults: dict[Sizes, tuple[NtmServeError, float]] = {}
        self._make = make
        self._sizes_max = sizes_max
        self._refuse = refuse
        self._dropped = dropped
        # The latest that was asked for is the last.
        self._made: dict[Sizes, Made] = {}
        self._making: dict[Sizes, asyncio.Task[Made]] = {}
        self._turn = asyncio.Lock()

    @property
    def made(self) -> Mapping[Sizes, Made]:
        """What there is."""
        return self._made

    async def of(self, sizes: Sizes, *, comes_back: bool) -> Made:
        """What was made for this size; where it is there, at once. comes_back: for a session that there is already.
        Raises what `refuse` and `make` raise.
        """
        made = self._made.pop(sizes, None)
        if made is None:
            if not comes_back:
                self._expect_no_fault(sizes)
            task = self._making.get(sizes) or self._begin(sizes, comes_back=comes_back)
            made = await asyncio.shield(task)
            # Since it was made it may have had to make room; where another was made meanwhile, that is the one.
            made = self._made.pop(sizes, made)
        self._made[sizes] = made
        return made

    def once_made(self, sizes: Sizes, then: Callable[[], None]) -> None:
        """Call it when this size is not being made any more: at once where it is not."""
        task = self._making.get(sizes)
        if task is None:
            then()
        else:
            task.add_done_callback(lambda _: then())

    def _begin(self, sizes: Sizes, *, comes_back: bool) -> asyncio.Task[Made]:
        if not self._has_room() and not comes_back:
            self._refuse(sizes, len(self._made) + len(self._making))
        task = asyncio.get_running_loop().create_task(self._run(sizes))
        self._making[sizes] = task
        # Where nobody waits any more its error is not missed.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _run(self, sizes: Sizes) -> Made:
        try:
            async with self._turn:
                fresh = await self._make(sizes)
                # Whoever waited for one that made room meanwhile may have it in use: there is one of a size.
                made = self._made.setdefault(sizes, fresh)
        except NtmServeError as fault:
            if len(self._faults) >= FAULTS_MAX:
                del self._faults[next(iter(self._faults))]
            self._faults.pop(sizes, None)
            self._faults[sizes] = fault, self._clock() + FAULT_LIFE_S
            raise
        else:
            self._faults.pop(sizes, None)
        finally:
            del self._making[sizes]
        return made

    def _expect_no_fault(self, sizes: Sizes) -> None:
        """Raises what a size could not be made for, while it is believed."""
        fault, until_s = self._faults.get(sizes, (None, 0.0))
        if fault is None:
            return
        if self._clock() < until_s:
            raise fault.with_traceback(None)
        del self._faults[sizes]

    def _has_room(self) -> bool:
        """Whether one more may be made; what nobody uses is dropped for it."""
        over = len(self._made) + len(self._making) - self._sizes_max + 1
        for sizes, made in list(self._made.items()):
            if over <= 0:
                break
            if made.is_unused:
                del self._made[sizes]
                self._dropped(made)
                over -= 1
        return over <= 0
