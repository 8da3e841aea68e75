"""Heat maps for a terminal: two rows of a picture in one line of text, by half blocks; shades where there is no colour.

Rules of this file: a map is as wide and as high as it is told to be, and larger pictures are reduced by their peaks.
"""

import numpy as np
from rich.color import Color
from rich.style import Style
from rich.text import Text

from ntm_serve.picture import Grid, Reduction, blocks_of, reduced
from ntm_serve.spec import Array

# From nothing to much.
SHADES = " ░▒▓█"

# What a value of 0 to 1 is drawn as; and -1 to 1, with nothing in the middle. Dark is nothing, in either.
_SEQUENTIAL = ((13, 8, 40), (70, 50, 127), (54, 92, 141), (39, 127, 142), (74, 194, 109), (253, 231, 37))
_DIVERGING = ((120, 190, 255), (40, 90, 200), (18, 18, 24), (200, 50, 50), (255, 180, 140))


def fitted(picture: Array, *, rows: int, columns: int) -> Array:
    """`[R, C]` with at most so many rows and columns."""
    return reduced(picture, blocks_of(picture.shape, Grid(rows, columns)), Reduction.PEAK)


def heat(picture: Array, *, lines: int, width: int, signed: bool, most: float, colour: bool) -> list[Text]:
    """A picture `[R, C]` as at most that many lines. most: the value that is drawn strongest. signed: whether there are
    values below nothing. A value that is not a number is left blank.
    """
    rows = 2 * lines if colour else lines
    values = fitted(np.asarray(picture, np.float64), rows=rows, columns=width) / (most or 1.0)
    if not colour:
        return [Text("".join(_shade(value) for value in row)) for row in values]
    if len(values) % 2:
        values = np.vstack([values, np.full((1, values.shape[1]), np.nan)])
    return [_half_blocks(values[row], values[row + 1], signed=signed) for row in range(0, len(values), 2)]


def _half_blocks(upper: Array, lower: Array, *, signed: bool) -> Text:
    line = Text(no_wrap=True)
    for above, below in zip(upper, lower, strict=True):
        line.append("▀", Style(color=_colour(above, signed=signed), bgcolor=_colour(below, signed=signed)))
    return line


def _shade(value: float) -> str:
    return " " if np.isnan(value) else SHADES[min(len(SHADES) - 1, int(abs(value) * len(SHADES)))]


def _colour(value: float, *, signed: bool) -> Color | None:
    """None is the terminal's own."""
    if np.isnan(value):
        return None
    stops = _DIVERGING if signed else _SEQUENTIAL
    at = float(np.clip((value + 1) / 2 if signed else value, 0.0, 1.0)) * (len(stops) - 1)
    lower = min(int(at), len(stops) - 2)
    share = at - lower
    red, green, blue = (
        round(low + (high - low) * share) for low, high in zip(stops[lower], stops[lower + 1], strict=True)
    )
    return Color.from_rgb(red, green, blue)
