"""The demonstration: a server of its own, a trained model, two copies, and what the memory did meanwhile.

Every bit is checked; the last line says what was seen. Needs no torch.
"""

import sys
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from ntm_models.picture import strip, used_slots
from ntm_models.served import served
from ntm_models.tasks import Copy
from ntm_serve.client import Client

MODEL = "copy-ff"
SHORT, LONG = 20, 120
STEPS_PER_MESSAGE = 64
SEED = 2014


def demonstrate(repository: Path, console: Console) -> bool:
    """Copies of both lengths through one server; returns whether every bit was right."""
    task = Copy()
    with served(repository) as (target, http):
        console.print(f"a server listens on {target} (gRPC) and http://{http}/metrics", highlight=False)
        with Client(target) as client:
            short_wrong, latencies_s = _one_step_a_message(client, task, console)
            long_wrong, messages = _a_few_messages(client, task)
    console.print(f"length {LONG}: {2 * LONG + 1} steps in {messages} messages, wrong bits {long_wrong}")
    wrong, steps = short_wrong + long_wrong, 2 * (SHORT + LONG + 1)
    outcome = "ok" if wrong == 0 else "failed"
    p50_ms = float(np.median(latencies_s)) * 1000
    print(
        f"demo: {outcome} model={MODEL} lengths={SHORT},{LONG} wrong_bits={wrong} steps={steps} p50_ms={p50_ms:.2f}",
        flush=True,
    )
    return wrong == 0


def _one_step_a_message(client: Client, task: Copy, console: Console) -> tuple[int, list[float]]:
    """Wrong bits, and how long each step took, in seconds. Draws what went in and out and where it was kept."""
    episode = task.episodes(length=SHORT, sequences=1, seed=SEED)
    outputs, writes, latencies_s = [], [], []
    with client.session(MODEL) as session:
        for x in track(episode.x[0], f"copy of length {SHORT}, one step a message", console=console):
            started_s = time.perf_counter()
            outputs.append(np.asarray(session.step(x)))
            latencies_s.append(time.perf_counter() - started_s)
            writes.append(session.state("write_weighting")["write_weighting"][0])
    y, written = np.stack(outputs), np.stack(writes)
    slots = used_slots(written[: SHORT + 1])
    channels = [f"bit {bit}" for bit in range(task.bits)]
    console.print(strip(f"input: {SHORT} vectors, a delimiter, then nothing", episode.x[0].T, [*channels, "delimiter"]))
    # Before the delimiter the output means nothing, and nothing was trained to make it.
    copied = np.where(episode.scored[:, np.newaxis], y, 0)
    console.print(strip("output: the copy, from the step after the delimiter", copied.T, channels))
    labels = [f"slot {slot}" for slot in slots]
    console.print(strip("memory: where the write head was, slot by step", written[:, slots].T, labels))
    wrong = int(episode.wrong_bits(y[np.newaxis])[0])
    console.print(f"length {SHORT}: {len(outputs)} steps in as many messages, wrong bits {wrong}")
    return wrong, latencies_s


def _a_few_messages(client: Client, task: Copy) -> tuple[int, int]:
    """Wrong bits, and how many messages it took."""
    episode = task.episodes(length=LONG, sequences=1, seed=SEED)
    x = episode.x[0]
    chunks = [x[at : at + STEPS_PER_MESSAGE] for at in range(0, len(x), STEPS_PER_MESSAGE)]
    with client.session(MODEL) as session:
        y = np.concatenate([np.asarray(chunk) for chunk in session.stream(chunks)])
    return int(episode.wrong_bits(y[np.newaxis])[0]), len(chunks)


def main() -> None:
    """`python -m ntm_models.demo [REPOSITORY]`: exit status 1 where a bit is wrong."""
    repository = Path(sys.argv[1] if len(sys.argv) > 1 else "models/zoo")
    raise SystemExit(0 if demonstrate(repository, Console(width=140)) else 1)


if __name__ == "__main__":
    main()
