"""Watching a session over gRPC: one request, and frames until it ends.

Rules of this file: the next frame is taken when the client has room for it, so that one that does not read is sent no
more and costs nothing, and one that takes nothing for long gives its place to others; whatever way a call ends, its
task ends with it.
"""

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from ntm_serve.errors import InvalidInput, NtmServeError, StreamAged
from ntm_serve.frontends.call import Call
from ntm_serve.frontends.messages import wire_session
from ntm_serve.frontends.methods import fail, parsed
from ntm_serve.picture import Frame, Picture, Reduction
from ntm_serve.service import Service
from ntm_serve.tenancy import TenantService
from ntm_serve.v1 import sessions_pb2
from ntm_serve.views import SessionView
from ntm_serve.watching import Wish
from ntm_serve.wire import tensor_of

# How long a client may take to make room for what was written. Pulses come every few seconds, so one whose buffers are
# full has not read for longer.
TAKEN_MAX_S = 30.0

# Names in one request: they are looked up for each frame.
TENSORS_MAX = 1000

_REDUCTION_OF_WIRE = {
    sessions_pb2.REDUCTION_UNSPECIFIED: Reduction.PEAK,
    sessions_pb2.REDUCTION_PEAK: Reduction.PEAK,
    sessions_pb2.REDUCTION_MEAN: Reduction.MEAN,
}
_WIRE_OF_REDUCTION = {
    Reduction.PEAK: sessions_pb2.REDUCTION_PEAK,
    Reduction.MEAN: sessions_pb2.REDUCTION_MEAN,
}


class _NotTaken(Exception):
    """The client had no room for what was written, for TAKEN_MAX_S."""


class WatchCall:
    """One call of `Sessions.Watch`."""

    def __init__(self, service: Service | TenantService, call: Call, gone: Callable[["WatchCall"], None]) -> None:
        """gone: told when it is over."""
        self._service = service
        self._call = call
        self._gone = gone
        self._task: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self._call.on_over = self._over
        self._call.begin()
        self._call.read(self._take)

    def _take(self, data: bytes | None) -> None:
        if data is None:
            self._call.fail(InvalidInput("call: expected one message, got none"))
            return
        try:
            request = parsed(sessions_pb2.WatchRequest, data)
            wish = wish_of(request)
        except NtmServeError as error:
            fail(self._call, error)
            return
        self._task = asyncio.ensure_future(self._watch(request.session_id, wish))

    async def _watch(self, session_id: str, wish: Wish) -> None:
        begun = False
        try:
            async with aclosing(self._service.watch(session_id, wish)) as seen:
                async for one in seen:
                    await self._write(self._response(one, wish, begun=begun))
                    begun = True
        except _NotTaken:  # What ends it cannot wait for room, as all else would.
            self._call.cut(StreamAged(f"watch: its client took nothing for {TAKEN_MAX_S:g} s; watch again"))
        except Exception as fault:
            fail(self._call, fault)

    def _response(self, seen: Frame | SessionView, wish: Wish, *, begun: bool) -> sessions_pb2.WatchResponse:
        if isinstance(seen, Frame):
            return sessions_pb2.WatchResponse(frame=wire_frame(seen))
        if begun:
            return sessions_pb2.WatchResponse(session=wire_session(seen))
        frames_per_s, grid = self._service.grant(wish)
        return sessions_pb2.WatchResponse(
            begun=sessions_pb2.WatchBegun(
                session=wire_session(seen),
                frames_per_s=frames_per_s,
                rows_max=grid.rows_max,
                columns_max=grid.columns_max,
                reduction=_WIRE_OF_REDUCTION[grid.reduction],
            )
        )

    async def _write(self, response: sessions_pb2.WatchResponse) -> None:
        """Send it, and wait until the client has room for it."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def tell() -> None:
            if not written.done():
                written.set_result(None)

        self._call.write(response.SerializeToString(), tell)
        try:
            async with asyncio.timeout(TAKEN_MAX_S):
                await written
        except TimeoutError:
            raise _NotTaken from None

    def _over(self, cut_short: bool) -> None:
        if self._task is not None:
            self._task.cancel()
        self._gone(self)


def wish_of(request: sessions_pb2.WatchRequest) -> Wish:
    """Raises InvalidInput."""
    if request.reduction not in _REDUCTION_OF_WIRE:
        raise InvalidInput(f"reduction: expected PEAK or MEAN, got number {request.reduction}")
    if len(request.tensors) > TENSORS_MAX:
        raise InvalidInput(f"tensors: expected at most {TENSORS_MAX} names, got {len(request.tensors)}")
    return Wish(
        tensors=list(request.tensors),
        frames_per_s=request.frames_per_s,
        rows_max=request.rows_max,
        columns_max=request.columns_max,
        reduction=_REDUCTION_OF_WIRE[request.reduction],
        state_only=request.state_only,
    )


def wire_frame(frame: Frame) -> sessions_pb2.Frame:
    """A frame as it travels."""
    travelling = sessions_pb2.Frame(
        next_step=frame.next_step,
        lost=frame.lost,
        state=map(_wire_picture, frame.state),
        first_step=frame.first_step,
        inputs=map(_wire_picture, frame.inputs),
        outputs=map(_wire_picture, frame.outputs),
        resident=frame.resident,
    )
    travelling.taken_at.FromMicroseconds(round(frame.taken_at_s * 1e6))
    return travelling


def _wire_picture(picture: Picture) -> sessions_pb2.Picture:
    return sessions_pb2.Picture(
        tensor=tensor_of(picture.name, picture.array),
        role=picture.role,
        full_shape=picture.full_shape,
        blocks=picture.blocks,
    )
