"""The model behind every peer: the latest state of each session, and one run of ONNX Runtime for a batch.

Each peer server is handed steps in its own way and gives them to `Memories.step`, so that what differs between
peers is the server and nothing else. It needs numpy and onnxruntime, and nothing of this project.

States lie in arrays with a row per session: a batch gathers its rows once, however many steps it makes.
"""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime as ort

SESSIONS_MAX = 1024  # Four times what the largest load opens.
HEAD = struct.Struct("<qBB")


class Asked(NamedTuple):
    """T steps of a session: x [T, 9]; `start` begins it anew, `end` forgets it afterwards."""

    session: int
    start: bool
    end: bool
    x: np.ndarray


def parse(message: bytes) -> Asked:
    """From bytes, for peers that carry bytes: session, start, end, float32 [T, 9]."""
    session, start, end = HEAD.unpack_from(message)
    return Asked(session, bool(start), bool(end), np.frombuffer(message, np.float32, offset=HEAD.size).reshape(-1, 9))


class Memories:
    """The sessions of a server."""

    def __init__(self, directory: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = ort.InferenceSession(f"{directory}/model.onnx", options, providers=["CPUExecutionProvider"])
        self._run = session.run
        entries = json.loads(Path(directory, "manifest.json").read_text())["state"]
        initial = np.load(f"{directory}/initial_state.npz")
        self._names = [entry["graph_input"] for entry in entries]
        self._fetches = ["y", *(entry["graph_output"] for entry in entries)]
        self._initial = [initial[entry["name"]] for entry in entries]
        self._states = [np.repeat(array[np.newaxis], SESSIONS_MAX, axis=0) for array in self._initial]
        self._row_of: dict[int, int] = {}
        self._free = list(range(SESSIONS_MAX))

    def step(self, batch: Sequence[Asked]) -> np.ndarray:
        """The outputs [B, T, 8] of a batch: each session once, T the same for all."""
        rows = np.array([self._row(asked) for asked in batch])
        states = [array[rows] for array in self._states]
        outputs = []
        for x in np.stack([asked.x for asked in batch], axis=1):
            y, *states = self._run(self._fetches, {"x": x, **dict(zip(self._names, states, strict=True))})
            outputs.append(y)
        for array, rows_after in zip(self._states, states, strict=True):
            array[rows] = rows_after
        for asked in batch:
            if asked.end:
                self._free.append(self._row_of.pop(asked.session))
        return np.stack(outputs, axis=1)

    def _row(self, asked: Asked) -> int:
        if asked.start:
            if asked.session not in self._row_of:
                self._row_of[asked.session] = self._free.pop()
            for array, initial in zip(self._states, self._initial, strict=True):
                array[self._row_of[asked.session]] = initial
        return self._row_of[asked.session]
