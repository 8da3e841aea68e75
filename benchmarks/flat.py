"""Does a server's memory stay flat? `python -m benchmarks.flat`: about two minutes. Prints what is more after than
before, and writes benchmarks/results/flat.json.

A server process is driven through phases: steps in messages of random size, streams cancelled with steps in flight,
connections opened and closed, calls of every kind. Each phase is run before it is measured, so that what is filled
once (reply windows, caches, the allocator's pools) is full. Its resident bytes are read as they are, and after
`malloc_trim`: what goes then was freed and not given back, and what stays is kept by somebody.
"""

import contextlib
import ctypes
import gc
import json
import platform
import random
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ntm_serve.cli import main as command_line
from ntm_serve.v1 import models_pb2, models_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from ntm_serve.wire import tensor_of

MODEL = "copy-ff"
RESULTS = Path("benchmarks/results/flat.json")
STEPS, STREAMS, CONNECTIONS, CALLS = 1_000_000, 10_000, 10_000, 10_000
CLIENTS, SESSIONS_PER_CLIENT, STEPS_PER_MESSAGE_MAX, IN_FLIGHT = 4, 16, 64, 4

# How much of a phase is run before it is measured.
WARM_UP = 0.3

# Every call, so that a server that hangs fails the run.
TIMEOUT_S = 60.0


class Resident(NamedTuple):
    """A server's resident bytes, as they are and after malloc_trim, and what else it holds."""

    as_is: int
    trimmed: int
    objects: int
    descriptors: int


class Server:
    """The server's process, which reports on itself when a line comes in."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "benchmarks.flat", "server"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        found = re.search(r"grpc=(\S+)", self._line())
        assert found, "the server says where it listens"
        self.target = found[1]

    def resident(self) -> Resident:
        assert self._process.stdin is not None
        print(file=self._process.stdin, flush=True)
        return Resident(*json.loads(self._line()))

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(TIMEOUT_S)

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()


class Clients:
    """What the phases do. Each takes how many times."""

    def __init__(self, target: str) -> None:
        self._target = target
        self.channel = grpc.insecure_channel(target)
        self.sessions = sessions_pb2_grpc.SessionsStub(self.channel)
        self._models = models_pb2_grpc.ModelsStub(self.channel)
        self._health = health_pb2_grpc.HealthStub(self.channel)
        self._input = self._models.Get(models_pb2.GetModelRequest(name=MODEL)).model.inputs[0]
        self._ids = [
            [self._open(f"{client}-{number}") for number in range(SESSIONS_PER_CLIENT)] for client in range(CLIENTS)
        ]

    def _open(self, session_id: str) -> str:
        request = sessions_pb2.OpenRequest(model=MODEL, session_id=session_id)
        return str(self.sessions.Open(request, timeout=TIMEOUT_S).session.session_id)

    def _request(self, ids: list[str], steps: int) -> Any:
        x = np.zeros((len(ids), steps, *self._input.shape), np.float32)
        return sessions_pb2.StepRequest(session_ids=ids, inputs=[tensor_of(self._input.name, x)])

    def step(self, count: int) -> None:
        """So many steps of sessions, in messages of random S and T."""

        def run(client: int) -> None:
            dice, left = random.Random(client), count // CLIENTS
            room = threading.Semaphore(IN_FLIGHT)

            def messages() -> Iterator[Any]:
                nonlocal left
                while left > 0:
                    room.acquire()
                    ids = dice.sample(self._ids[client], dice.randint(1, SESSIONS_PER_CLIENT))
                    steps = round(STEPS_PER_MESSAGE_MAX ** dice.random())
                    left -= len(ids) * steps
                    yield sessions_pb2.StreamRequest(step=self._request(ids, steps))

            for reply in self.sessions.Stream(messages()):
                assert not reply.step.failures, reply.step.failures[0].error.message
                room.release()

        with ThreadPoolExecutor(CLIENTS) as threads:
            list(threads.map(run, range(CLIENTS)))

    def cancel_streams(self, count: int) -> None:
        """So many streams, each left with steps in flight."""
        dice = random.Random(count)

        def run(_: int) -> None:
            ids = dice.choice(self._ids)
            message = sessions_pb2.StreamRequest(step=self._request(ids[: dice.randint(1, 4)], dice.randint(1, 50)))
            replies = self.sessions.Stream(iter([message] * 3), timeout=TIMEOUT_S)
            if dice.random() < 0.7:
                next(replies)
            replies.cancel()

        with ThreadPoolExecutor(CLIENTS) as threads:
            list(threads.map(run, range(count)))

    def connect(self, count: int) -> None:
        """So many connections, each with a call."""
        for _ in range(count):
            alone = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(self._target, options=alone) as channel:
                health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)

    def call(self, count: int) -> None:
        """So many calls of each kind, and refused ones."""
        refused = self._request(["nobody"], 1)

        def run(client: int) -> None:
            name, own = f"calls-{client}", [self._ids[client][0]]
            for _ in range(count // CLIENTS):
                self._open(name)
                self.sessions.Step(self._request(own, 1), timeout=TIMEOUT_S)
                self.sessions.Get(sessions_pb2.GetRequest(session_id=name, state_names=["*"]), timeout=TIMEOUT_S)
                self.sessions.List(sessions_pb2.ListRequest(page_size=2), timeout=TIMEOUT_S)
                self.sessions.Close(sessions_pb2.CloseRequest(session_id=name), timeout=TIMEOUT_S)
                self._models.List(models_pb2.ListModelsRequest(), timeout=TIMEOUT_S)
                self._models.Get(models_pb2.GetModelRequest(name=MODEL), timeout=TIMEOUT_S)
                self._health.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
                with contextlib.suppress(grpc.RpcError):
                    self.sessions.Step(refused, timeout=TIMEOUT_S)

        with ThreadPoolExecutor(CLIENTS) as threads:
            list(threads.map(run, range(CLIENTS)))


def measure(server: Server, phase: Callable[[int], None], count: int) -> dict[str, float]:
    """A phase's growth, in bytes for each of what it does."""
    phase(round(count * WARM_UP))
    before = server.resident()
    started_s = time.monotonic()
    phase(count)
    passed_s = time.monotonic() - started_s
    after = server.resident()
    return {
        "count": count,
        "seconds": round(passed_s, 1),
        "resident_before": before.as_is,
        "resident_after": after.as_is,
        "trimmed_before": before.trimmed,
        "trimmed_after": after.trimmed,
        "bytes_each": round((after.as_is - before.as_is) / count, 3),
        "trimmed_bytes_each": round((after.trimmed - before.trimmed) / count, 3),
        "objects_more": after.objects - before.objects,
        "descriptors_more": after.descriptors - before.descriptors,
    }


def main() -> None:
    """Print and write the figures of each phase."""
    with contextlib.closing(Server()) as server:
        clients = Clients(server.target)
        phases = {
            "step": (clients.step, STEPS),
            "cancelled stream": (clients.cancel_streams, STREAMS),
            "connection": (clients.connect, CONNECTIONS),
            "round of calls": (clients.call, CALLS),
            "step again": (clients.step, STEPS // 4),
        }
        figures: dict[str, dict[str, float]] = {}
        for name, (phase, count) in phases.items():
            one = figures[name] = measure(server, phase, count)
            print(
                f"{name:17} {count:9,}: {one['resident_before'] / 1e6:6.1f} -> {one['resident_after'] / 1e6:6.1f} MB, "
                f"trimmed {one['trimmed_before'] / 1e6:6.1f} -> {one['trimmed_after'] / 1e6:6.1f} MB: "
                f"{one['trimmed_bytes_each']:8.2f} B each; {one['objects_more']:+,} objects, "
                f"{one['descriptors_more']:+} descriptors, {one['seconds']:.0f} s",
                flush=True,
            )
        clients.channel.close()
    versions = {"grpcio": grpc.__version__, "numpy": np.__version__, "python": platform.python_version()}
    RESULTS.write_text(json.dumps({"versions": versions, "phases": figures}, indent=2) + "\n")


def serve() -> None:
    """The server that reports: for each line that comes in, one with its figures."""

    def report() -> None:
        libc = ctypes.CDLL(None)
        pages = Path("/proc/self/statm")
        for _ in sys.stdin:
            as_is = int(pages.read_text().split()[1])
            libc.malloc_trim(0)
            trimmed = int(pages.read_text().split()[1])
            held = len(gc.get_objects()), len(list(Path("/proc/self/fd").iterdir()))
            print(json.dumps([as_is * 4096, trimmed * 4096, *held]), flush=True)

    threading.Thread(target=report, daemon=True).start()
    sys.argv = [
        "ntm-serve",
        "serve",
        "--models",
        "models/zoo",
        "--port",
        "0",
        "--http-port",
        "0",
        "--log-level",
        "error",
    ]
    command_line()


if __name__ == "__main__":
    serve() if "server" in sys.argv[1:] else main()
