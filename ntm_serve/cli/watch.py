"""`ntm-serve watch SESSION`: what a session's memory looks like, in the terminal, while it lives. A line a frame where
another program reads it.
"""

import json
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from ntm_serve.cli.clients import client_of
from ntm_serve.cli.heat import heat
from ntm_serve.cli.options import Connection, connecting
from ntm_serve.cli.tables import console
from ntm_serve.client import Frame, Picture, SessionInfo
from ntm_serve.errors import SessionClosed
from ntm_serve.spec import Array

# What is drawn as it stands, and what is drawn over time, a line of it for each frame.
MEMORY = "memory"
OVER_TIME = ("write_weighting", "read_weighting", "usage")
# The most heads that are drawn.
HEADS_MAX = 4
# Columns beside a picture: the label.
LABEL = 8
LINES_MIN = 2


@connecting
def watch(
    session: Annotated[str, typer.Argument(metavar="SESSION", help="the session's id")],
    frames_per_s: Annotated[float, typer.Option(min=0.1, help="most frames a second")] = 10.0,
    tensor: Annotated[
        list[str] | None, typer.Option(help="name or role of a state tensor; once for each; all if none is said")
    ] = None,
    frames: Annotated[int, typer.Option(min=0, help="end after so many frames; 0 goes on")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="a line of JSON a frame, with every number")] = False,
    *,
    connection: Connection,
) -> None:
    """Show a session's memory, and where its heads write and read, while it is stepped."""
    out = console()
    drawn = out.is_terminal and not as_json
    with client_of(connection) as client:
        asked = {"frames_per_s": frames_per_s} | ({"rows_max": 64, "columns_max": 64} if drawn else {})
        seen: Iterator[Frame] = client.watch(session, *(tensor or ()), **asked)  # type: ignore[arg-type]
        info = client.session_info(session)
        try:
            if drawn:
                _draw(out, info, islice(seen, frames or None))
            else:
                for frame in islice(seen, frames or None):
                    print(json.dumps(_told(frame)) if as_json else _line(frame), flush=True)
        except SessionClosed as closed:
            print(closed.message)
        except KeyboardInterrupt:
            pass


def _draw(out: Console, info: SessionInfo, frames: Iterator[Frame]) -> None:
    screen, shown = Screen(info), None
    try:
        with Live(Text("looking ..."), console=out, screen=True, auto_refresh=False) as live:
            for frame in frames:
                screen.add(frame)
                shown = screen.drawn(out.width, out.height, colour=not out.no_color)
                live.update(shown, refresh=True)
    finally:
        if shown is not None:  # What it was drawn on is gone.
            out.print(shown)


class Screen:
    """What is shown of a session: the last frame, and the heads of those before."""

    def __init__(self, info: SessionInfo, frames_kept: int = 512) -> None:
        self._info = info
        self._frame: Frame | None = None
        self._lost = 0
        # Of each head, by its label: a row for each frame.
        self._heads: dict[str, deque[Array]] = {}
        self._blocks: dict[str, int] = {}
        self._frames_kept = frames_kept

    def add(self, frame: Frame) -> None:
        """The next frame. After a session was rewound what was before stays to be seen."""
        self._frame = frame
        self._lost += frame.lost
        for label, row, block in _heads(frame):
            self._blocks[label] = block
            self._heads.setdefault(label, deque(maxlen=self._frames_kept)).append(row)

    def drawn(self, width: int, height: int, *, colour: bool) -> Group:
        """As it fits into so many columns and lines."""
        frame = self._frame
        assert frame is not None, "there is a frame to be drawn"
        shown = frame.of_role(MEMORY)[:1] or [one for one in frame.state.values() if one.array.ndim == 2][:1]
        # A line for the head, and one for the title of each picture.
        lines = height - 2 - len(shown) - len(self._heads)
        parts: list[Text] = [self._head(frame, width)]
        each = max(LINES_MIN, lines // (2 * len(shown) + len(self._heads) or 1))
        for picture in shown:
            parts += _memory(picture, lines=2 * each, width=width, colour=colour)
        for label, rows in self._heads.items():
            parts += _over_time(label, rows, self._blocks[label], lines=each, width=width, colour=colour)
        return Group(*parts[: max(1, height - 1)])

    def _head(self, frame: Frame, width: int) -> Text:
        info = self._info
        told = f"{info.session_id}  {info.model}/{info.version}  step {frame.next_step:,}"
        told += f"  lost {self._lost:,}" if self._lost else ""
        told += "" if frame.resident else "  stored"
        head = Text(told, style="bold", no_wrap=True)
        head.truncate(width, overflow="ellipsis")
        return head


def _heads(frame: Frame) -> list[tuple[str, Array, int]]:
    """Of each head a label, its row of slots, `[N]`, and how many slots an element of it stands for."""
    rows: list[tuple[str, Array, int]] = []
    for role in OVER_TIME:
        for picture in frame.of_role(role):
            heads = _rows(picture)
            labels = [f"{picture.name} {head}" if len(heads) > 1 else picture.name for head in range(len(heads))]
            block = picture.blocks[-1] if picture.blocks else 1
            rows += [(label, row, block) for label, row in zip(labels, heads[:HEADS_MAX], strict=False)]
    return rows


def _rows(picture: Picture) -> Array:
    """Of each head a row of slots, `[H, N]`."""
    array = np.atleast_1d(picture.array)
    return array.reshape(-1, array.shape[-1])


def _memory(picture: Picture, *, lines: int, width: int, colour: bool) -> list[Text]:
    array = np.asarray(picture.array, np.float64)
    most = float(np.abs(array).max(initial=0.0))
    full = " x ".join(str(size) for size in picture.full_shape)
    title = _title(f"{picture.name}  {full}  within ±{most:.3g}", width)
    if array.ndim != 2:
        array = array.reshape(-1, array.shape[-1]) if array.ndim else array.reshape(1, 1)
    # Narrow memories are drawn wider, so that a cell is about a square.
    wider = max(1, min(4, (width - LABEL) // array.shape[1]))
    rows = heat(
        np.repeat(array, wider, axis=1), lines=lines, width=width - LABEL, signed=True, most=most, colour=colour
    )
    return [title, *_labelled(rows, "slot 0", width)]


def _over_time(label: str, rows: deque[Array], block: int, *, lines: int, width: int, colour: bool) -> list[Text]:
    columns = width - LABEL
    latest = np.stack(list(rows)[-columns:]).astype(np.float64)
    strongest = int(latest[-1].argmax())
    title = _title(f"{label}  most at slot {strongest * block}: {latest[-1][strongest]:.2f}", width)
    picture = heat(latest.T, lines=lines, width=columns, signed=False, most=1.0, colour=colour)
    return [title, *_labelled(picture, "slot 0", width)]


def _title(text: str, width: int) -> Text:
    title = Text(text, style="dim", no_wrap=True)
    title.truncate(width, overflow="ellipsis")
    return title


def _labelled(lines: list[Text], label: str, width: int) -> list[Text]:
    made = []
    for place, line in enumerate(lines):
        row = Text(no_wrap=True)
        row.append(f"{label if not place else '':<{LABEL}}", style="dim")
        row.append_text(line)
        row.truncate(width)
        made.append(row)
    return made


def _line(frame: Frame) -> str:
    """What one frame says, in a line."""
    facts = [f"step={frame.next_step}", f"lost={frame.lost}", f"tier={'resident' if frame.resident else 'stored'}"]
    for picture in frame.state.values():
        array = np.asarray(picture.array, np.float64)
        if picture.role in OVER_TIME:
            heads, block = _rows(picture), picture.blocks[-1] if picture.blocks else 1
            facts.append(f"{picture.name}={','.join(f'{row.argmax() * block}:{row.max():.3f}' for row in heads)}")
        elif array.size:
            facts.append(f"{picture.name}={array.min():.3f}..{array.max():.3f}")
    return " ".join(facts)


def _told(frame: Frame) -> dict[str, Any]:
    """Every number of a frame."""
    groups = {"state": frame.state, "inputs": frame.inputs, "outputs": frame.outputs}
    return {
        "next_step": frame.next_step,
        "taken_at_s": frame.taken_at_s,
        "lost": frame.lost,
        "resident": frame.resident,
        "first_step": frame.first_step,
        **{group: {name: _numbers(one) for name, one in pictures.items()} for group, pictures in groups.items()},
    }


def _numbers(picture: Picture) -> dict[str, Any]:
    array = picture.array.astype(object)
    if picture.array.dtype.kind == "f":
        array[~np.isfinite(picture.array)] = None  # JSON has no word for it.
    return {
        "role": picture.role,
        "full_shape": list(picture.full_shape),
        "blocks": list(picture.blocks),
        "values": array.tolist(),
    }
