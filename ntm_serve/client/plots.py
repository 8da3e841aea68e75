"""Figures of what a model does with its memory, as in Graves et al., "Neural Turing Machines", 2014, figures 6 and 12.

    recording = record(client, session, xs)
    memory_use(recording).savefig("memory.png")

They are matplotlib's, from the extra `plots`: pip install 'ntm-serve[plots]'.
"""

from collections.abc import Sequence
from typing import Any

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

# What the paper shows of a run, from top to bottom, and what a DNC has beside.
ROLES_SHOWN = ("write_weighting", "read_weighting", "usage")
_TITLES = {"write_weighting": "write weighting", "read_weighting": "read weighting", "usage": "usage"}
# Rows of a panel beyond which it grows no more.
_TALL = 48


def memory_use(
    recording: Recording, *, roles: Sequence[str] = ROLES_SHOWN, slots: slice | None = None, title: str = ""
) -> Figure:
    """Inputs, outputs and where the heads wrote and read, over time: a panel for each input and output, and for each
    head of each tensor of these roles, time to the right. slots: those that are drawn; None is all. Steps that nobody
    saw are left blank. Raises InvalidInput where there is nothing to draw.
    """
    panels = [(f"input {name}", _channels(array), "channel") for name, array in recording.inputs.items()]
    panels += [(f"output {name}", _channels(array), "channel") for name, array in recording.outputs.items()]
    for role in roles:
        for name in recording.of_role(role):
            panels += _heads(name, _TITLES.get(role, role), recording.over_time(name), slots)
    if not recording.steps:
        raise InvalidInput("recording: expected at least one step, got none")
    heights = [max(4, min(_TALL, picture.shape[0])) for _, picture, _ in panels]
    figure = Figure(figsize=(10, 1 + sum(0.75 + height / 28 for height in heights)), layout="constrained")
    axes = np.atleast_1d(
        figure.subplots(len(panels), 1, sharex=True, height_ratios=[10 + height for height in heights])
    )
    left = recording.first_step - 0.5
    for axis, (name, picture, label) in zip(axes, panels, strict=True):
        _draw(figure, axis, picture, left=left)
        axis.set_title(name, loc="left", fontsize=9)
        axis.set_ylabel(label, fontsize=8)
        axis.tick_params(labelsize=7)
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
    axis.set_xlabel("column")
    axis.set_ylabel("slot")
    if title:
        axis.set_title(title, loc="left", fontsize=10)
    return figure


def _channels(array: Array) -> Array:
    """`[T, ...]` as a row for each channel: `[channels, T]`."""
    return np.asarray(array, np.float64).reshape(len(array), -1).T


def _heads(name: str, title: str, array: Array, slots: slice | None) -> list[tuple[str, Array, str]]:
    """A panel for each head: `[slots, T]`."""
    # Without an axis of heads there is one.
    heads = array[:, np.newaxis] if array.ndim == 2 else array.reshape(len(array), -1, array.shape[-1])
    count = heads.shape[1]
    rows = slice(None) if slots is None else slots
    return [
        (f"{title}{f' {name}' if title != name.replace('_', ' ') else ''}{f', head {head}' if count > 1 else ''}",
         heads[:, head].T[rows], "slot")
        for head in range(count)
    ]  # fmt: skip


def _draw(figure: Figure, axis: Any, picture: Array, *, left: float) -> None:
    """From 0 to 1 where all is within it, else from the lowest to the highest."""
    seen = picture[np.isfinite(picture)]
    lowest, highest = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0)
    within = lowest >= -0.05 and highest <= 1.05
    rows, steps = picture.shape
    image = axis.imshow(
        picture,
        aspect="auto",
        cmap="viridis",
        vmin=0 if within else lowest,
        vmax=1 if within else highest,
        interpolation="nearest",
        extent=(left, left + steps, rows - 0.5, -0.5),
    )
    figure.colorbar(image, ax=axis, pad=0.01, fraction=0.03).ax.tick_params(labelsize=6)
