"""The learning curve of a run as a picture: the loss, and what it bought on the generalisation lengths."""

import json
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure

from ntm_models.tasks import TASKS

CURVE_FILE = "curve.png"

# 7 x 2.8 inches at this resolution is as wide as a README's column and about 50 kB.
_DPI = 120

# Scores are shown down to zero: linear up to this, logarithmic above.
_LINEAR_UP_TO = 0.1

# What the score of a task of chance is; that of the others is their wrong bits.
_SCORES = {"dynamic-ngrams": "bits of cost beyond the optimum"}


def draw_curve(folder: Path) -> Path:
    """Draw the log of the run in `folder`; returns the picture's path. The same log gives the same picture.

    The seed whose weights were kept is drawn in full, the others as thin lines behind it.
    """
    recipe = json.loads((folder / "recipe.json").read_text())
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    sequences = [row["step"] * recipe["training"]["batch"] for row in rows]
    lengths = recipe["selection"]["lengths"]
    row_kept, seed_kept = _kept(rows)
    seeds = sorted(range(len(rows[0]["loss_bits"])), key=lambda seed: seed == seed_kept)

    # A Figure of its own, not pyplot's: pyplot keeps every figure, and picks a backend for the process.
    with rc_context({"font.size": 8, "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False}):
        figure = Figure(figsize=(7, 2.8), dpi=_DPI, layout="constrained")
        loss_axes, score_axes = figure.subplots(1, 2, sharex=True)
        for seed in seeds:
            kept = seed == seed_kept
            of_seed = [row["loss_bits"][seed] for row in rows]
            loss_axes.plot(sequences, of_seed, color="black", linewidth=1 if kept else 0.5, alpha=1 if kept else 0.25)
            for nth, length in enumerate(lengths):
                scores = [row["score"][str(length)][seed] for row in rows]
                if kept:
                    label = f"length {length}"
                    score_axes.plot(sequences, scores, f"C{nth}.-", markersize=3, linewidth=1, label=label)
                else:
                    score_axes.plot(sequences, scores, color=f"C{nth}", linewidth=0.5, alpha=0.25)
        loss_axes.set(yscale="log", ylabel="loss, bits per sequence", xlabel="training sequences")
        score_axes.set_yscale("symlog", linthresh=_LINEAR_UP_TO)
        what = _SCORES.get(recipe["task"], f"wrong {_unit(recipe['task'])} per sequence")
        score_axes.set(ylim=(-_LINEAR_UP_TO / 10, None), ylabel=what, xlabel="training sequences of each seed")
        score_axes.axvline(sequences[row_kept], color="gray", linestyle="--", linewidth=1, label="kept")
        loss_axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:,.0f} k" if value else "0")
        loss_axes.set_title(f"{recipe['name']}, seed {recipe['seed'] + seed_kept}", loc="left", fontsize=9)
        # Above the axes: no corner of a curve that falls to zero is sure to be free.
        columns = len(lengths) + 1
        score_axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False, borderpad=0)
        path = folder / CURVE_FILE
        figure.savefig(path, format="png", metadata={"Software": None})
    return path


def _unit(task: str) -> str:
    """What the score of a task counts."""
    known = TASKS[task]()
    return known.episodes(length=known.length_min, sequences=1, seed=0).unit


def _kept(rows: list[dict[str, Any]]) -> tuple[int, int]:
    """The row and the seed whose weights were kept: in the last row that has the least score, the seed that has
    it, and of equals the one with the least loss.
    """
    totals = [[sum(of_seed) for of_seed in zip(*row["score"].values(), strict=True)] for row in rows]
    best = min(min(row) for row in totals)
    at = max(at for at, row in enumerate(totals) if best in row)
    losses = rows[at]["loss_bits"]
    return at, min(range(len(losses)), key=lambda seed: (totals[at][seed], losses[seed]))
