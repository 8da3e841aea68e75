"""Frames of a session that is watched: what is asked for, and what came. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass

from ntm_serve.errors import InvalidInput
from ntm_serve.picture import Picture, Reduction
from ntm_serve.v1 import sessions_pb2
from ntm_serve.wire import array_of

_WIRE_OF_REDUCTION = {
    Reduction.PEAK: sessions_pb2.REDUCTION_PEAK,
    Reduction.MEAN: sessions_pb2.REDUCTION_MEAN,
}


@dataclass(frozen=True)
class Frame:
    """A session as it stood after `next_step` steps, to be looked at.

    state: by name; the last axis of a picture's array is columns, the one before it rows. inputs, outputs: `[T, ...]`
    by name, of the steps first_step to next_step - 1; T may be 0. lost: messages since the frame before whose state no
    frame shows. taken_at_s: Unix seconds. resident: whether the session was in the memory of the server that was asked.
    """

    next_step: int
    taken_at_s: float
    lost: int
    state: dict[str, Picture]
    first_step: int
    inputs: dict[str, Picture]
    outputs: dict[str, Picture]
    resident: bool

    def of_role(self, role: str) -> list[Picture]:
        """The state tensors that mean this, as "memory" or "read_weighting"."""
        return [picture for picture in self.state.values() if picture.role == role]


def watch_request(
    session_id: str,
    tensors: tuple[str, ...],
    *,
    frames_per_s: float,
    rows_max: int,
    columns_max: int,
    reduction: Reduction | str,
    state_only: bool,
) -> sessions_pb2.WatchRequest:
    """Raises InvalidInput for a reduction that there is not."""
    if reduction not in list(Reduction):
        raise InvalidInput(f"reduction: expected {', '.join(Reduction)}, got {reduction!r}")
    return sessions_pb2.WatchRequest(
        session_id=session_id,
        tensors=tensors,
        frames_per_s=frames_per_s,
        rows_max=rows_max,
        columns_max=columns_max,
        reduction=_WIRE_OF_REDUCTION[Reduction(reduction)],
        state_only=state_only,
    )


def frame_of(frame: sessions_pb2.Frame) -> Frame:
    """From the wire."""
    return Frame(
        next_step=frame.next_step,
        taken_at_s=frame.taken_at.ToMicroseconds() / 1e6,
        lost=frame.lost,
        state=_pictures(frame.state),
        first_step=frame.first_step,
        inputs=_pictures(frame.inputs),
        outputs=_pictures(frame.outputs),
        resident=frame.resident,
    )


def _pictures(pictures: Iterable[sessions_pb2.Picture]) -> dict[str, Picture]:
    return {one.tensor.name: _picture(one) for one in pictures}


def _picture(picture: sessions_pb2.Picture) -> Picture:
    array = array_of(picture.tensor)
    return Picture(
        name=picture.tensor.name,
        role=picture.role,
        dtype=array.dtype.name,
        full_shape=tuple(picture.full_shape),
        blocks=tuple(picture.blocks),
        array=array,
    )
