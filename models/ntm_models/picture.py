"""Pictures for a terminal: rows of small squares, darker where there is more."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from ntm_models.tasks.episode import FloatArray

# Two columns of text make about a square. From nothing to one.
SHADES = ("  ", "░░", "▒▒", "▓▓", "██")

# A slot that no step ever held more of than this is not drawn.
SLOT_SHARE_MIN = 0.2


def drawn(values: FloatArray, *, cell: int = 2) -> list[str]:
    """Values in [0, 1], `[rows, columns]`, as one line of text per row."""
    shades = np.clip((values * len(SHADES)).astype(int), 0, len(SHADES) - 1)
    return ["".join(SHADES[shade][:cell] for shade in row) for row in shades]


def strip(title: str, values: FloatArray, labels: Sequence[str], *, cell: int = 2) -> Text:
    """A titled picture: `[rows, columns]` with a label before each row."""
    width = max(len(label) for label in labels)
    lines = [f"{label:>{width}} │{row}│" for label, row in zip(labels, drawn(values, cell=cell), strict=True)]
    return Text("\n".join([f"{'':>{width}}  {title}", *lines]), no_wrap=True)


def used_slots(weightings: FloatArray) -> NDArray[np.int64]:
    """Slots that a head held at some step, in the order in which it first did. weightings `[T, N]`."""
    slots = np.flatnonzero(weightings.max(axis=0) > SLOT_SHARE_MIN)
    first = (weightings[:, slots] > SLOT_SHARE_MIN).argmax(axis=0)
    return np.asarray(slots[np.argsort(first, kind="stable")], dtype=np.int64)
