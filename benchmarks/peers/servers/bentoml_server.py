"""BentoML with adaptive batching, in one process: `python bentoml_server.py PORT MODEL WORK`.

Rows are JSON lists: session, start, end, then T * 9 numbers. What it batches are arrays, so sessions and flags are
numbers of the same array.
"""

import os
import sys
from pathlib import Path

import bentoml
import numpy as np
from memories import Asked, Memories


@bentoml.service(
    workers=1,
    traffic={"timeout": 60, "max_concurrency": 512},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Steps:
    """Batches of steps."""

    def __init__(self) -> None:
        self._memories = Memories(os.environ["NTM_DIRECTORY"])

    @bentoml.api(batchable=True, max_batch_size=256, max_latency_ms=1000)
    def step(self, rows: np.ndarray) -> np.ndarray:
        """A step of each row: [B, 3 + T * 9] to [B, T * 8]."""
        x = rows[:, 3:].astype(np.float32).reshape(len(rows), -1, 9)
        batch = [Asked(int(row[0]), bool(row[1]), bool(row[2]), of_row) for row, of_row in zip(rows, x, strict=True)]
        return self._memories.step(batch).reshape(len(rows), -1)


def main() -> None:
    """Become the server."""
    port, model, work = sys.argv[1:]
    here = Path(__file__).parent
    command = [
        str(Path(sys.executable).parent / "bentoml"), "serve", "bentoml_server:Steps", "--host", "127.0.0.1",
        "--port", port, "--working-dir", str(here),
    ]  # fmt: skip
    quiet = {"BENTOML_HOME": work, "BENTOML_DO_NOT_TRACK": "true", "NTM_DIRECTORY": model, "PYTHONPATH": str(here)}
    os.execve(command[0], command, os.environ | quiet)


if __name__ == "__main__":
    main()
