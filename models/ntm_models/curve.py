"""The learning curve of a run as a picture: the loss, and what it bought on the generalisation lengths."""

import json
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

CURVE_FILE = "curve.png"

# 7 x 2.8 inches at this resolution is as wide as a README's column and about 50 kB.
_DPI = 120

# Wrong bits are shown down to zero: linear up to this, logarithmic above.
_LINEAR_UP_TO = 0.1


def draw_curve(folder: Path) -> Path:
    """Draw the log of the run in `folder`; returns the picture's path. The same log gives the same picture."""
    recipe = json.loads((folder / "recipe.json").read_text())
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    sequences = [row["step"] * recipe["training"]["batch"] for row in rows]
    wrong = {length: [row["wrong_bits"][str(length)] for row in rows] for length in recipe["selection"]["lengths"]}

    # A Figure of its own, not pyplot's: pyplot keeps every figure, and picks a backend for the process.
    with rc_context({"font.size": 8, "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False}):
        figure = Figure(figsize=(7, 2.8), dpi=_DPI, layout="constrained")
        loss_axes, wrong_axes = figure.subplots(1, 2, sharex=True)
        loss_axes.plot(sequences, [row["loss_bits"] for row in rows], color="black", linewidth=1)
        loss_axes.set(yscale="log", ylabel="loss, bits per sequence", xlabel="training sequences")
        for length, values in wrong.items():
            wrong_axes.plot(sequences, values, marker=".", markersize=3, linewidth=1, label=f"length {length}")
        wrong_axes.set_yscale("symlog", linthresh=_LINEAR_UP_TO)
        wrong_axes.set(ylim=(-_LINEAR_UP_TO / 10, None), ylabel="wrong bits per sequence", xlabel="training sequences")
        wrong_axes.axvline(sequences[_best(wrong)], color="gray", linestyle="--", linewidth=1, label="kept")
        loss_axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.0f} k" if value else "0")
        loss_axes.set_title(f"{recipe['name']}, seed {recipe['seed']}", loc="left", fontsize=9)
        # Above the axes: no corner of a curve that falls to zero is sure to be free.
        wrong_axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=len(wrong) + 1, frameon=False, borderpad=0)
        path = folder / CURVE_FILE
        figure.savefig(path, format="png", metadata={"Software": None})
    return path


def _best(wrong: dict[int, list[float]]) -> int:
    """The row whose weights were kept: the last of those with the fewest wrong bits."""
    scores = [sum(values) for values in zip(*wrong.values(), strict=True)]
    return max(at for at, score in enumerate(scores) if score == min(scores))
