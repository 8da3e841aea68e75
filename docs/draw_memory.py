"""Draw what a trained model does with its memory, from a real run through a real server.

    python docs/draw_memory.py models/zoo docs/pictures

Writes copy-memory.png: inputs, outputs, and where the heads wrote and read, slot by step, as in Graves et
al. 2014, figure 6.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ntm_models.demo import MODEL, served
from ntm_models.tasks import Copy
from ntm_serve.client import Client

LENGTH = 40
SEED = 6


def record(repository: Path) -> dict[str, np.ndarray]:
    """One copy, a step a message: inputs, outputs and the heads' weightings, each `[T, ...]`."""
    episode = Copy().episodes(length=LENGTH, sequences=1, seed=SEED)
    outputs, states = [], []
    with served(repository) as (target, _), Client(target) as client, client.session(MODEL) as session:
        for x in episode.x[0]:
            outputs.append(np.asarray(session.step(x)))
            states.append(session.state("write_weighting", "read_weighting"))
    y = np.where(episode.scored[:, np.newaxis], np.stack(outputs), 0)
    assert int(episode.wrong_bits(y[np.newaxis])[0]) == 0, "a picture of a wrong copy"
    written = np.stack([state["write_weighting"][0] for state in states])
    read = np.stack([state["read_weighting"][0] for state in states])
    return {"x": episode.x[0], "y": y, "written": written, "read": read}


def draw(run: dict[str, np.ndarray], path: Path) -> None:
    """The picture."""
    panels = (
        ("input", run["x"].T, "channel"),
        ("output", run["y"].T, "bit"),
        ("write weighting", run["written"].T, "slot"),
        ("read weighting", run["read"].T, "slot"),
    )
    figure = Figure(figsize=(10, 9), layout="constrained")
    axes = figure.subplots(4, 1, sharex=True, height_ratios=(1.2, 1, 3, 3))
    for axis, (title, picture, label) in zip(axes, panels, strict=True):
        axis.imshow(picture, aspect="auto", cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(title, loc="left", fontsize=10)
        axis.set_ylabel(label, fontsize=8)
        axis.tick_params(labelsize=7)
    axes[-1].set_xlabel("step", fontsize=9)
    figure.suptitle(f"{MODEL}: a copy of length {LENGTH}, one step a message, no wrong bit", fontsize=11)
    figure.savefig(path, dpi=110, metadata={"Software": None})


def main() -> None:
    """The command."""
    repository, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    draw(record(repository), folder / "copy-memory.png")


if __name__ == "__main__":
    main()
