"""What durability costs, and how soon sessions come back: questions of `make bench` with servers of their own."""

import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.processes import line, message, process
from ntm_serve.v1 import sessions_pb2, sessions_pb2_grpc

MODEL = "copy-lstm"
STORED = 100_000
RESIDENT = 1_000
# Sessions opened and stepped together.
TOGETHER = 500
WAKES = 400

Figures = dict[str, float]


@contextmanager
def server(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server of the zoo and where it listens."""
    quiet = ("--port", "0", "--http-port", "0", "--log-level", "warning")
    with process("ntm_serve.cli", "serve", "--models", "models/zoo", *quiet, *arguments) as it:
        yield it, re.search(r"grpc=(\S+)", line(it))[1]  # type: ignore[index]


def opened(stub: Any, count: int, durability: "sessions_pb2.Durability") -> list[str]:
    """Ids of new sessions."""
    request = sessions_pb2.OpenRequest(model=MODEL, durability=durability)
    return [stub.Open(request).session.session_id for _ in range(count)]


def durable(bench: Any) -> Figures:
    """32 streams, one step a message, sqlite: sessions that outlive the process, and the loss of power, over sessions
    in memory of the same server.
    """
    with tempfile.TemporaryDirectory() as folder, server("--store", f"sqlite:{folder}/sessions.db") as (_, target):
        with grpc.insecure_channel(target) as channel:
            stub = sessions_pb2_grpc.SessionsStub(channel)
            streams = {
                word: [[message([one], 1)] for one in opened(stub, 32, kind)]
                for word, kind in (
                    ("memory", sessions_pb2.DURABILITY_MEMORY),
                    ("process", sessions_pb2.DURABILITY_PROCESS),
                    ("disk", sessions_pb2.DURABILITY_DISK),
                )
            }
            seen = {word: bench.run(messages, target=target) for word, messages in streams.items()}
        fsyncs = fsyncs_per_s(Path(folder))
    memory = seen["memory"]["messages_per_s"]
    return {
        "durable_process_ratio": seen["process"]["messages_per_s"] / memory,
        "durable_disk_ratio": seen["disk"]["messages_per_s"] / memory,
        "durable_process_steps_per_s": seen["process"]["messages_per_s"],
        "durable_process_p99_ms": seen["process"]["p99_ms"],
        "durable_disk_steps_per_s": seen["disk"]["messages_per_s"],
        "durable_disk_p99_ms": seen["disk"]["p99_ms"],
        "disk_fsyncs_per_s": fsyncs,
    }


def fsyncs_per_s(folder: Path, *, seconds: float = 0.5) -> float:
    """How often a second the disk takes 4 KiB more and says that it has them."""
    count = 0
    with (folder / "fsyncs").open("wb", buffering=0) as file:
        end_s = time.perf_counter() + seconds
        while time.perf_counter() < end_s:
            file.write(b"\0" * 4096)
            os.fsync(file.fileno())
            count += 1
    return count / seconds


def wake(bench: Any) -> Figures:
    """100,000 sessions in a sqlite store, 1,000 in memory: how long a step takes of one that is not, and how soon a
    server that starts on that store answers one.
    """
    random = np.random.default_rng(0)
    ids = [f"wake-{number}" for number in range(STORED)]
    with tempfile.TemporaryDirectory() as folder:
        store = ("--store", f"sqlite:{folder}/sessions.db")
        with ExitStack() as stack:
            _, target = stack.enter_context(server(*store, "--resident-bytes-max", str(RESIDENT * 12_144)))
            stub = sessions_pb2_grpc.SessionsStub(stack.enter_context(grpc.insecure_channel(target)))
            for first in range(0, STORED, TOGETHER):
                group = ids[first : first + TOGETHER]
                for session_id in group:
                    stub.Open(sessions_pb2.OpenRequest(model=MODEL, session_id=session_id))
                for _ in range(3):
                    step(stub, group)
            taken_ms = [wake_ms(stub, str(one)) for one in random.choice(ids[: -2 * RESIDENT], WAKES, replace=False)]
        started_s = time.perf_counter()
        with server(*store) as (_, target), grpc.insecure_channel(target) as channel:
            step(sessions_pb2_grpc.SessionsStub(channel), [ids[0]])
            ready_s = time.perf_counter() - started_s
    return {
        "wake_p50_ms": statistics.median(taken_ms),
        "wake_p99_ms": float(np.percentile(taken_ms, 99)),
        "restart_ready_s": ready_s,
    }


def wake_ms(stub: Any, session_id: str) -> float:
    """How long a step of this session takes, there and back."""
    started_s = time.perf_counter()
    step(stub, [session_id])
    return (time.perf_counter() - started_s) * 1000


def step(stub: Any, ids: list[str]) -> None:
    """A step of each; an error where one failed."""
    response = stub.Step(sessions_pb2.StreamRequest.FromString(message(ids, 1)).step)
    if response.failures:
        raise RuntimeError(response.failures[0].error.message)
