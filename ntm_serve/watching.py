"""Watching: frames of a session while it lives, taken when they are due.

Rules of this file: a frame is a reference to a state that is there anyway, so whoever looks slowly loses frames and
nobody a step; a session that is not in memory is shown as the store has it and stays there, so that looking takes it
from no server; what is large is reduced on a thread of its own, as a state is a value that anybody may read.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np

from ntm_serve.errors import InvalidInput, LimitReached, NtmServeError, OwnedElsewhere
from ntm_serve.picture import Frame, Grid, Picture, Reduction, chosen, picture_of, steps_shown
from ntm_serve.record import Committed
from ntm_serve.replay import Replay, bases_of, steps_again
from ntm_serve.residency import Residency
from ntm_serve.scheduler import Scheduler, scheduler_of
from ntm_serve.sessions import Sessions
from ntm_serve.spec import Array, StepSpec, TensorSpec
from ntm_serve.step_model import ModelKey, State
from ntm_serve.store import StoredSession
from ntm_serve.watch import Viewer

FRAMES_PER_S_DEFAULT = 10.0
ROWS_DEFAULT = COLUMNS_DEFAULT = 128
# A picture of so many rows and columns is 1 MiB of float32.
ROWS_MAX = COLUMNS_MAX = 512

# How often whoever watches hears where a session stands that makes no steps: a connection that carries nothing is cut.
PULSE_S = 10.0
# How often the store is asked about a session that is not in memory. One that merely changes its place is back by then.
LOOK_S = 1.0
# Of the tensors that are looked at, by all who watch together: larger ones are shown less often, so that no more than a
# part of a core goes into frames.
ELEMENTS_PER_S_MAX = 1 << 23
# So many elements are reduced on the event loop: a millisecond's work at most.
HERE_MAX = 1 << 18


@dataclass(frozen=True, slots=True)
class Wish:
    """What whoever watches wants to see. tensors: names or roles of state tensors; none is all. 0 is the default, and
    what is more than the server grants is lowered to that.
    """

    tensors: Sequence[str] = ()
    frames_per_s: float = 0.0
    rows_max: int = 0
    columns_max: int = 0
    reduction: Reduction = Reduction.PEAK
    # Whether inputs and outputs are left out.
    state_only: bool = False


class Granted(NamedTuple):
    """What of a wish is granted."""

    frames_per_s: float
    grid: Grid


class _Seen(NamedTuple):
    """A session at a moment: what a frame is made of. entries: how often it came into memory meanwhile."""

    spec: StepSpec
    next_step: int
    state: State
    window: Sequence[Committed]
    resident: bool
    entries: int = 0

    def bare(self) -> "_Seen":
        """Where it stood alone: whoever reads slowly keeps no state from being let go, nor those that lie beside it."""
        return self._replace(state=(), window=())


class Watching:
    """The looks at the sessions of a server."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        residency: Residency,
        replay: Replay,
        schedulers: Mapping[ModelKey, Scheduler],
        frames_per_s_max: float,
        clock: Callable[[], float],
    ) -> None:
        self._sessions = sessions
        self._residency = residency
        self._replay = replay
        self._schedulers = schedulers
        self._frames_per_s_max = frames_per_s_max
        self._clock = clock

    def grant(self, wish: Wish) -> Granted:
        """Raises InvalidInput."""
        if not 0 <= wish.frames_per_s < float("inf"):
            raise InvalidInput(f"frames_per_s: expected more than 0, got {wish.frames_per_s:g}")
        if wish.rows_max < 0 or wish.columns_max < 0:
            raise InvalidInput(f"rows_max, columns_max: expected at least 1, got {wish.rows_max}, {wish.columns_max}")
        grid = Grid(
            min(wish.rows_max or ROWS_DEFAULT, ROWS_MAX),
            min(wish.columns_max or COLUMNS_DEFAULT, COLUMNS_MAX),
            wish.reduction,
        )
        return Granted(min(wish.frames_per_s or FRAMES_PER_S_DEFAULT, self._frames_per_s_max), grid)

    async def look(self, session_id: str, wish: Wish) -> Frame:
        """A session as it stands. Raises SessionUnknown, SessionClosed, SessionExpired, SessionEvicted, ModelUnknown,
        StoreUnavailable, StoreDamaged, LimitReached; InvalidInput for tensors that there are not.
        """
        seen = self._here(session_id) or await self._replayed(await self._residency.read(session_id))
        return await self._frame(seen, wish, first_step=0, lost=0)

    async def state(self, session_id: str, tensors: Sequence[str]) -> tuple[int, dict[str, Array]]:
        """How many steps a session made, and its state tensors of these names or roles, whole. Raises as `look`."""
        seen = self._here(session_id) or await self._replayed(await self._residency.read(session_id))
        specs = seen.spec.state
        return seen.next_step, {specs[place].name: seen.state[place] for place in chosen(specs, tensors)}

    async def frames(self, session_id: str, wish: Wish) -> AsyncGenerator[Frame | None, None]:
        """Frames of a session, each when the one before was taken, something changed, and it is due; None where the
        session left memory or came back, and now and then where nothing changes. It ends with an error alone: those of
        `look`, LimitReached, OwnedElsewhere where another server has taken the session from this one.
        """
        pause_s = 1.0 / self.grant(wish).frames_per_s
        changed, over = asyncio.Event(), asyncio.Event()
        viewer = Viewer(session_id, changed.set, over.set)
        self._sessions.join(viewer)
        try:
            shown: _Seen | None = None
            due_s = told_s = self._clock()
            while True:
                changed.clear()
                commits, viewer.commits = viewer.commits, 0
                seen = await self._see(viewer, shown)
                if viewer.fault is not None:
                    raise viewer.fault
                if shown is None or seen.next_step != shown.next_step or seen.entries > shown.entries:
                    lost = 0 if shown is None or not seen.resident else max(0, commits - 1)
                    first_step = 0 if shown is None else shown.next_step
                    due_s = self._clock() + max(pause_s, self._breath_s(seen, wish))
                    frame = self._frame(seen, wish, first_step=first_step, lost=lost)
                    seen = seen.bare()
                    yield await frame
                    told_s = self._clock()
                if shown is not None and (seen.resident != shown.resident or self._clock() - told_s >= PULSE_S):
                    yield None
                    told_s = self._clock()
                shown = seen = seen.bare()
                await self._until_changed(viewer, changed)
                # What ended it is told at once, however seldom a frame is wanted.
                while (wait_s := due_s - self._clock()) > 0 and not over.is_set():
                    await _until_set(over, min(wait_s, PULSE_S))
                    if self._clock() - told_s >= PULSE_S:
                        yield None
                        told_s = self._clock()
        finally:
            self._sessions.part(viewer)

    def end(self, fault: NtmServeError) -> None:
        """Whoever watches is told so, and sees nothing any more."""
        self._sessions.end_viewers(fault)

    async def _until_changed(self, viewer: Viewer, changed: asyncio.Event) -> None:
        """Until there may be something to tell. Raises what ended it."""
        # A session that has just left memory may be about to come back, as when it is rewound.
        for longest_s in (LOOK_S,) if viewer.away else (PULSE_S, LOOK_S):
            await _until_set(changed, longest_s)
            changed.clear()
            if viewer.fault is not None:
                raise viewer.fault
            if not viewer.away:
                return

    async def _see(self, viewer: Viewer, shown: _Seen | None) -> _Seen:
        """The session as it stands. shown: as it was when it was last looked at."""
        session_id = viewer.session_id
        here = self._here(session_id)
        if here is not None:
            return here._replace(entries=viewer.entries)
        stored = await self._residency.read(session_id)
        if shown is None:
            return await self._replayed(stored)
        if shown.resident and self._residency.is_elsewhere(stored):
            raise OwnedElsewhere(
                f"session {session_id}: another server has taken it; watch it there", fields={"owner": stored.owner}
            )
        if stored.next_step == shown.next_step:
            return shown._replace(resident=False)
        try:
            return (await self._replayed(stored))._replace(entries=shown.entries)
        except LimitReached:  # Its tenant is over its rate: a frame may come late, and whoever looks is not sent away.
            return shown._replace(resident=False)

    def _here(self, session_id: str) -> _Seen | None:
        session = self._residency.here(session_id)
        if session is None:
            return None
        spec = scheduler_of(self._schedulers, session).model.spec
        # The window as it is now: it moves on while a frame is made.
        return _Seen(spec, session.next_step, session.state.arrays(), tuple(session.window), resident=True)

    async def _replayed(self, stored: StoredSession) -> _Seen:
        """As the store has it; nobody's claim is touched. Raises LimitReached."""
        account = self._sessions.account_of(stored.session_id)
        if account is not None:
            account.pay(steps_again(bases_of(stored), stored.next_step))
        session = await self._replay.replayed(stored, from_step=None)
        spec = scheduler_of(self._schedulers, session).model.spec
        seen = _Seen(spec, session.next_step, session.state.arrays(), tuple(session.window), resident=False)
        # The block knows its holder, which knows the block: left so, both would wait for the garbage collector.
        session.state.block.let_go(session.state.row, session)
        return seen

    def _breath_s(self, seen: _Seen, wish: Wish) -> float:
        """How long it is until the next frame at least, so that all who watch together cost no more than they may."""
        elements = sum(seen.state[place].size for place in chosen(seen.spec.state, wish.tensors))
        return elements * self._sessions.viewers / ELEMENTS_PER_S_MAX

    async def _frame(self, seen: _Seen, wish: Wish, *, first_step: int, lost: int) -> Frame:
        grid = self.grant(wish).grid
        places = chosen(seen.spec.state, wish.tensors)
        make = partial(_frame, seen, places, grid, first_step=first_step, lost=lost, state_only=wish.state_only)
        if sum(seen.state[place].size for place in places) <= HERE_MAX:
            return make()
        return await asyncio.to_thread(make)


async def _until_set(event: asyncio.Event, longest_s: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(longest_s):
            await event.wait()


def _frame(seen: _Seen, places: Sequence[int], grid: Grid, *, first_step: int, lost: int, state_only: bool) -> Frame:
    specs, spec = seen.spec.state, seen.spec
    inputs: tuple[Picture, ...] = ()
    outputs: tuple[Picture, ...] = ()
    first_step = max(first_step, seen.next_step - steps_shown((*spec.inputs, *spec.outputs), grid))
    first_step, messages = _messages(seen, first_step)
    if not state_only:
        inputs = _stacked(spec.inputs, [one.inputs for one in messages], seen.next_step - first_step, grid)
        outputs = _stacked(spec.outputs, [one.outputs for one in messages], seen.next_step - first_step, grid)
    return Frame(
        next_step=seen.next_step,
        taken_at_s=time.time(),
        lost=lost,
        state=tuple(_own(picture_of(specs[place], seen.state[place], grid)) for place in places),
        first_step=first_step,
        inputs=inputs,
        outputs=outputs,
        resident=seen.resident,
    )


def _own(picture: Picture) -> Picture:
    """With an array that is no view of a state."""
    return picture if picture.array.base is None else replace(picture, array=picture.array.copy())


def _messages(seen: _Seen, first_step: int) -> tuple[int, list[Committed]]:
    """The messages of the window whose steps lead from first_step, or as near to it as it reaches, to the next step;
    and where they begin.
    """
    end, messages = seen.next_step, []
    for message in reversed(seen.window):
        if message.end_step != end or end <= first_step:
            break
        messages.append(message)
        end = message.first_step
    return max(min(first_step, seen.next_step), end), messages[::-1]


def _stacked(
    specs: Sequence[TensorSpec], messages: Sequence[Sequence[Array]], steps: int, grid: Grid
) -> tuple[Picture, ...]:
    """The last of those steps, of each input or output."""
    pictures: list[Picture] = []
    for place, spec in enumerate(specs):
        none = np.empty((0, *spec.shape), spec.numpy_dtype)
        rows = np.concatenate([none, *[arrays[place] for arrays in messages]])
        pictures.append(picture_of(spec, rows[len(rows) - steps :], grid, steps=True))
    return tuple(pictures)
