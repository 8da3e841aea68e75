"""What is asked: how many sessions, how many steps a message, over how many lines; and what must be answered.

Every answer of a load is read afterwards, and the first steps of each session are compared with ONNX Runtime run
step by step, so a server that is fast and wrong is not fast.
"""

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks.peers.speech import INPUT, Said, Speech

MODEL = Path("models/zoo/copy-lstm/1")
COMPARED_STEPS = 64
# Batches of other sizes add up in another order: 64 steps of this model stay within a fifth of this.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Workload:
    """Sessions that step at once, each with a line of its own; of a gateway, with few or one between them."""

    name: str
    title: str
    sessions: int
    steps: int
    is_gateway: bool = False
    # Messages of a session on their way.
    in_flight: int = 1
    # Messages of a session before they come round again.
    period: int = 8

    @functools.cached_property
    def x(self) -> np.ndarray:
        """[period, sessions, steps, 9]: bits, other ones for each session."""
        random = np.random.default_rng(20)
        return random.integers(0, 2, (self.period, self.sessions, self.steps, INPUT)).astype(np.float32)

    @functools.cached_property
    def y(self) -> np.ndarray:
        """[64, sessions, 8]: what the first steps must answer."""
        x = self.x.swapaxes(1, 2).reshape(-1, self.sessions, INPUT)
        rounds = -(-COMPARED_STEPS // len(x))
        return reference(np.tile(x, (rounds, 1, 1))[:COMPARED_STEPS])


WORKLOADS = {
    one.name: one
    for one in (
        Workload("32x1", "32 sessions, a step a message", 32, 1),
        Workload("32x32", "32 sessions, 32 steps a message", 32, 32),
        Workload("gateway", "256 sessions of one client, a step of each a round", 256, 1, is_gateway=True, in_flight=2),
    )
}


class WrongAnswer(Exception):
    """A server answered, and not what the model says."""


@dataclass(frozen=True)
class Line:
    """What one line carries: first `opening`, then `cycle` for ever, at last `closing`; so many on their way."""

    sessions: range
    opening: list[bytes]
    cycle: list[bytes]
    closing: list[bytes]
    in_flight: int
    # Sessions of a message.
    together: int


def lines(workload: Workload, speech: Speech, first: int) -> Iterator[Line]:
    """The lines of a load whose sessions are numbered from `first`.

    A gateway has one line where a message may have many sessions, and else the server's own number of them.
    """
    count = speech.gateway_lines if workload.is_gateway else workload.sessions
    each = workload.sessions // count
    for number in range(count):
        places = range(number * each, (number + 1) * each)
        groups = [places] if speech.many else [range(place, place + 1) for place in places]

        def messages(turn: int, groups: list[range] = groups, *, start: bool = False, end: bool = False) -> list[bytes]:
            x = workload.x[turn % workload.period]
            return [
                speech.say(Said([first + place for place in group], x[group.start : group.stop], start, end))
                for group in groups
            ]

        turns = range(1, workload.period + 1)
        yield Line(
            sessions=places,
            opening=messages(0, start=True),
            cycle=[message for turn in turns for message in messages(turn)],
            closing=messages(0, end=True),
            in_flight=workload.in_flight * len(groups),
            together=len(groups[0]),
        )


def check(workload: Workload, speech: Speech, line: Line, replies: list[bytes]) -> None:
    """WrongAnswer where one of the first replies differs from the reference; every reply is read."""
    groups = len(line.sessions) // line.together
    for number, reply in enumerate(replies):
        y = speech.hear(reply)
        turn, group = divmod(number, groups)
        first_step, place = turn * workload.steps, line.sessions[group * line.together]
        expected = workload.y[first_step : first_step + workload.steps, place : place + line.together].swapaxes(0, 1)
        if y.shape != (line.together, workload.steps, 8):
            raise WrongAnswer(f"y: expected {(line.together, workload.steps, 8)}, got {y.shape}")
        if not np.allclose(y[:, : expected.shape[1]], expected, atol=TOLERANCE, rtol=0):
            raise WrongAnswer(f"y: session {place}, step {first_step}: differs from ONNX Runtime step by step")


def reference(x: np.ndarray) -> np.ndarray:
    """y [T, B, 8] of x [T, B, 9], step by step."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(MODEL / "model.onnx", options, providers=["CPUExecutionProvider"])
    entries = json.loads((MODEL / "manifest.json").read_text())["state"]
    initial = np.load(MODEL / "initial_state.npz")
    states = [np.repeat(initial[entry["name"]][np.newaxis], x.shape[1], axis=0) for entry in entries]
    outputs = []
    for row in x:
        feed = {entry["graph_input"]: state for entry, state in zip(entries, states, strict=True)}
        y, *states = session.run(["y", *(entry["graph_output"] for entry in entries)], {"x": row, **feed})
        outputs.append(y)
    return np.stack(outputs)
