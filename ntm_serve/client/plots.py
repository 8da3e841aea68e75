"""Figures of what a model does with its memory, as in Graves et al., "Neural Turing Machines", 2014, figures 6 and 12.

    recording = record(client, session, xs)
    memory_use(recording).savefig("memory.png")

They are matplotlib's, from the extra `plots`: pip install 'ntm-serve[plots]'.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ntm_serve.client.recording import Recording
from ntm_serve.errors import InvalidInput
from ntm_serve.picture import Picture
from ntm_serve.spec import Array

try:
    # The one place of the extra.
    from matplotlib.figure import Figure
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError(f"plots need an extra: pip install 'ntm-serve[plots]' ({missing})") from missing

# What the paper shows of a run, from top to bottom, and what memories of other kinds have beside.
ROLES_SHOWN = ("write_weighting", "read_weighting", "usage")
_TITLES = {"write_weighting": "write weighting", "read_weighting": "read weighting", "usage": "usage"}
# Rows of a panel beyond which it grows no more.
_TALL = 48


class _Panel(NamedTuple):
    """One picture over time, `[R, T]`: rows from first_row on, each a `label`."""

    title: str
    label: str
    rows: Array
    first_row: int = 0


def memory_use(
    recording: Recording, *, roles: Sequence[str] = ROLES_SHOWN, slots: slice | None = None, title: str = ""
) -> Figure:
    """Inputs, outputs and where the heads wrote and read, over time: a panel for each input and output, and for each
    head of each tensor of these roles, time to the right. slots: those that are drawn; None is all. Steps that nobody
    saw are left blank. Raises InvalidInput where there is nothing to draw.
    """
    if not recording.steps:
        raise InvalidInput("recording: expected at least one step, got none")
    panels = [_Panel(f"input {name}", "channel", _channels(array)) for name, array in recording.inputs.items()]
    panels += [_Panel(f"output {name}", "channel", _channels(array)) for name, array in recording.outputs.items()]
    for role in roles:
        for name in recording.of_role(role):
            panels += _heads(name, _TITLES.get(role, role), recording.over_time(name), slots or slice(None))
    heights = [max(4, min(_TALL, len(one.rows))) for one in panels]
    figure = Figure(figsize=(10, 1 + sum(0.75 + height / 28 for height in heights)), layout="constrained")
    axes = np.atleast_1d(
        figure.subplots(len(panels), 1, sharex=True, height_ratios=[10 + height for height in heights])
    )
    for axis, panel in zip(axes, panels, strict=True):
        _draw(figure, axis, panel, first_step=recording.first_step)
    axes[-1].set_xlabel("step", fontsize=9)
    if title or recording.title:
        figure.suptitle(title or recording.title, fontsize=11)
    return figure


def memory(seen: Picture | Array, *, title: str = "") -> Figure:
    """A memory as it stands, `[N, M]`: a row for each slot. Negative is blue, positive red, nothing white."""
    array = np.asarray(seen.array if isinstance(seen, Picture) else seen, np.float64)
    if array.ndim != 2:
        raise InvalidInput(f"memory: expected [N, M], got {list(array.shape)}")
    figure = Figure(figsize=(6, 6), layout="constrained")
    axis = figure.subplots()
    most = float(np.abs(array).max()) or 1.0
    image = axis.imshow(array, aspect="auto", cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
    figure.colorbar(image, ax=axis, shrink=0.8)
    axis.locator_params(integer=True)
    axis.set_xlabel("column")
    axis.set_ylabel("slot")
    if title:
        axis.set_title(title, loc="left", fontsize=10)
    return figure


def _channels(array: Array) -> Array:
    """`[T, ...]` as a row for each channel: `[channels, T]`."""
    return np.asarray(array, np.float64).reshape(len(array), -1).T


def _heads(name: str, title: str, array: Array, slots: slice) -> list[_Panel]:
    """A panel for each head: its weighting of the slots `[slots, T]`."""
    # Without an axis of heads there is one.
    heads = array[:, np.newaxis] if array.ndim == 2 else array.reshape(len(array), -1, array.shape[-1])
    called = title if title == name.replace("_", " ") else f"{title} {name}"
    first, _, _ = slots.indices(heads.shape[-1])
    many = heads.shape[1] > 1
    return [
        _Panel(f"{called}, head {head}" if many else called, "slot", heads[:, head].T[slots], first)
        for head in range(heads.shape[1])
    ]


def _draw(figure: Figure, axis: Any, panel: _Panel, *, first_step: int) -> None:
    """From 0 to 1 where all is within it, else from the lowest to the highest."""
    seen = panel.rows[np.isfinite(panel.rows)]
    lowest, highest = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0)
    within = lowest >= -0.05 and highest <= 1.05
    rows, steps = panel.rows.shape
    left, top = first_step - 0.5, panel.first_row - 0.5
    image = axis.imshow(
        panel.rows,
        aspect="auto",
        cmap="viridis",
        vmin=0 if within else lowest,
        vmax=1 if within else highest,
        interpolation="nearest",
        extent=(left, left + steps, top + rows, top),
    )
    axis.set_title(panel.title, loc="left", fontsize=9)
    axis.set_ylabel(panel.label, fontsize=8)
    axis.tick_params(labelsize=7)
    axis.locator_params(integer=True)
    figure.colorbar(image, ax=axis, pad=0.01, fraction=0.03).ax.tick_params(labelsize=6)
