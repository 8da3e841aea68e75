"""Draw what trained models do with their memory, from real runs through a real server.

    python docs/draw_memory.py models/zoo docs/pictures

Writes copy-memory.png and associative-recall-memory.png: inputs, outputs, and where the heads wrote and read, slot by
step, as in Graves et al. 2014, figures 6 and 12.
"""

import sys
from pathlib import Path

import numpy as np

from ntm_models.served import served
from ntm_models.tasks import AssociativeRecall, Copy, Task
from ntm_serve.client import Client
from ntm_serve.client.plots import memory_use
from ntm_serve.client.recording import Recording, record

SEED = 6
# Slots shown beside those that were used.
MARGIN = 4


def recorded(client: Client, model: str, task: Task, *, length: int) -> Recording:
    """One episode, a step a message, of which every scored bit was right."""
    episode = task.episodes(length=length, sequences=1, seed=SEED)
    with client.session(model) as session:
        recording = record(client, session, episode.x[0], "write_weighting", "read_weighting")
    y = np.where(episode.scored[:, np.newaxis], recording.outputs["y"], 0)
    assert int(episode.wrong_bits(y[np.newaxis])[0]) == 0, f"a picture of a wrong run of {model}"
    # Before it is asked the output means nothing, and nothing was trained to make it.
    recording.outputs["y"] = y
    return recording


def used(recording: Recording) -> slice:
    """The slots that a head was at."""
    most = np.max([recording.state[name][:, 0].max(axis=0) for name in recording.state], axis=0)
    slots = np.flatnonzero(most > 0.2)
    return slice(max(0, int(slots.min()) - MARGIN), int(slots.max()) + MARGIN + 1)


def main() -> None:
    """The command."""
    repository, folder = Path(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    pictures = (
        ("copy-memory.png", "copy-ff", Copy(), 40, "a copy of length 40"),
        ("associative-recall-memory.png", "associative-recall-ff", AssociativeRecall(), 6, "recall of one of 6 items"),
    )
    with served(repository) as (target, _), Client(target) as client:
        for name, model, task, length, what in pictures:
            recording = recorded(client, model, task, length=length)
            title = f"{model}: {what}, one step a message, no wrong bit"
            figure = memory_use(recording, slots=used(recording), title=title)
            figure.savefig(folder / name, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
