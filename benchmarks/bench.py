"""`make bench`: every figure a ratio inside one run, interleaved, the median of several rounds.

One function per question; ARCHITECTURE.md and docs/performance.md say what the answers mean. Writes
benchmarks/results/latest.json, where only some are asked what they answer, and prints a table.
"""

import base64
import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import durable
from benchmarks.baselines import METHOD
from benchmarks.processes import line, message, process
from ntm_serve.client import Client
from ntm_serve.v1 import sessions_pb2

MODEL = "copy-lstm"
ROUNDS = 5
SECONDS = 1.5
RESULTS = Path("benchmarks/results/latest.json")
GOALS = {
    "wire_ratio_32": (">=", 0.85),
    "solo_latency_ratio": ("<=", 1.35),
    "kernel_ratio_64x32": (">=", 0.70),
    "gateway_kernel_ratio": (">=", 0.5),
    "gateway_stream_ratio": (">=", 3.0),
    "fairness_p99_ratio": ("<=", 3.0),
    "naive_ratio_32": (">=", 1.5),
    "naive_torch_ratio_32": (">=", 2.5),
    "watch_cost_ratio": (">=", 0.95),
    "memory_ratio_100k": ("<=", 1.25),
    "durable_process_ratio": (">=", 0.8),
    "durable_disk_ratio": (">=", 0.5),
    "wake_p99_ms": ("<=", 20.0),
    "restart_ready_s": ("<=", 3.0),
}
Figures = dict[str, float]


class Bench:
    """The servers and the client of a run."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self._load = stack.enter_context(process("benchmarks.load", stdin=subprocess.PIPE))
        quiet = ("--port", "0", "--http-port", "0", "--log-level", "warning")
        self.server = stack.enter_context(process("ntm_serve.cli", "serve", "--models", "models/zoo", *quiet))
        self.target = re.search(r"grpc=(\S+)", line(self.server))[1]  # type: ignore[index]
        self.baselines = {}
        for kind in ("echo", "naive-ort", "naive-torch"):
            baseline = stack.enter_context(process("benchmarks.baselines", kind))
            self.baselines[kind] = f"127.0.0.1:{int(line(baseline))}"
        self.client = stack.enter_context(contextlib.closing(Client(self.target)))

    def sessions(self, count: int) -> list[str]:
        """Ids of new sessions."""
        return [self.client.session(MODEL).id for _ in range(count)]

    def run(self, streams: list[list[bytes]], *, target: str | None = None, in_flight: int = 1,
            seconds: float = SECONDS, **more: Any) -> Figures:  # fmt: skip
        """One order to the client."""
        order = {
            "target": target or self.target, "method": METHOD, "seconds": seconds, "in_flight": in_flight,
            "streams": [[base64.b64encode(one).decode() for one in messages] for messages in streams], **more,
        }  # fmt: skip
        assert self._load.stdin is not None
        self._load.stdin.write(json.dumps(order) + "\n")
        self._load.stdin.flush()
        figures: Figures = json.loads(line(self._load))
        return figures


def kernel_steps_per_s() -> float:
    """The best in-process batched loop, in a process of its own while nothing else runs."""
    with process("benchmarks.baselines", "loop", str(SECONDS)) as it:
        return float(line(it))


def wire(bench: Bench) -> Figures:
    """32 streams, one step a message, over a bare echo; and one stream's latency over echo plus one bare run."""
    ids = bench.sessions(33)
    streams = [[message([one], 1)] for one in ids[:32]]
    ours, bare = bench.run(streams), bench.run(streams, target=bench.baselines["echo"])
    solo = [[message([ids[32]], 1)]]
    alone, echo = bench.run(solo), bench.run(solo, target=bench.baselines["echo"])
    return {
        "wire_ratio_32": ours["messages_per_s"] / bare["messages_per_s"],
        "solo_latency_ratio": alone["p50_ms"] / (echo["p50_ms"] + solo_run_ms()),
        "wire_steps_per_s": ours["messages_per_s"],
        "wire_p99_ms": ours["p99_ms"],
        "echo_messages_per_s": bare["messages_per_s"],
        "solo_p50_ms": alone["p50_ms"],
        "echo_p50_ms": echo["p50_ms"],
        "wire_client_cpu": ours["client_cpu"],
        "echo_client_cpu": bare["client_cpu"],
    }


def solo_run_ms() -> float:
    """One bare run of the graph with one session, in this process."""
    session, feed = SOLO
    times = []
    for _ in range(200):
        started_s = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - started_s)
    return statistics.median(times) * 1000


def kernel(bench: Bench) -> Figures:
    """64 sessions, 32 steps a message, over the best in-process batched loop."""
    streams = [[message([one], 32)] for one in bench.sessions(64)]
    ours, best = bench.run(streams), kernel_steps_per_s()
    return {
        "kernel_ratio_64x32": ours["messages_per_s"] * 32 / best,
        "kernel_steps_per_s": ours["messages_per_s"] * 32,
        "loop_steps_per_s": best,
        "kernel_client_cpu": ours["client_cpu"],
    }


def cores(_: Bench) -> Figures:
    """What a core of this machine does while another is busy: one loop beside another, over one alone. Where cores are
    threads of one, a client slows whatever it waits for.
    """
    alone = kernel_steps_per_s()
    with (
        process("benchmarks.baselines", "loop", str(SECONDS)) as one,
        process("benchmarks.baselines", "loop", str(SECONDS)) as other,
    ):
        beside = (float(line(one)) + float(line(other))) / 2
    return {"beside_ratio": beside / alone}


def gateway(bench: Bench) -> Figures:
    """256 sessions on one stream, a step of each per message, over the loop and over 32 separate streams."""
    ids = bench.sessions(256 + 32)
    ours = bench.run([[message(ids[:256], 1)]], in_flight=2)
    apart = bench.run([[message([one], 1)] for one in ids[256:]])
    return {
        "gateway_kernel_ratio": ours["messages_per_s"] * 256 / kernel_steps_per_s(),
        "gateway_stream_ratio": ours["messages_per_s"] * 256 / apart["messages_per_s"],
        "gateway_steps_per_s": ours["messages_per_s"] * 256,
    }


def fairness(bench: Bench) -> Figures:
    """p99 of a session with one step a message beside one with 512, over its p99 alone."""
    small, large = bench.sessions(2)
    alone = bench.run([[message([small], 1)]])
    beside = bench.run([[message([small], 1)], [message([large], 512)]], watch_first=True)
    return {
        "fairness_p99_ratio": beside["p99_ms"] / alone["p99_ms"],
        "fairness_alone_p99_ms": alone["p99_ms"],
        "fairness_beside_p99_ms": beside["p99_ms"],
    }


def naive(bench: Bench) -> Figures:
    """32 streams, one step a message, over what a user would write first."""
    streams = [[message([one], 1)] for one in bench.sessions(32)]
    ours = bench.run(streams)["messages_per_s"]
    return {
        "naive_ratio_32": ours / bench.run(streams, target=bench.baselines["naive-ort"])["messages_per_s"],
        "naive_torch_ratio_32": ours / bench.run(streams, target=bench.baselines["naive-torch"])["messages_per_s"],
    }


def watched(bench: Bench) -> Figures:
    """64 streams, one step a message, while one of their sessions is watched, over the same while none is."""
    ids = bench.sessions(64)
    streams = [[message([one], 1)] for one in ids]
    before = bench.run(streams)["messages_per_s"]
    with process("benchmarks.watcher", bench.target, ids[0]) as watcher:
        line(watcher)
        during = bench.run(streams)["messages_per_s"]
    after = bench.run(streams)["messages_per_s"]
    return {
        "watch_cost_ratio": during / ((before + after) / 2),
        "watched_steps_per_s": during,
        "unwatched_steps_per_s": (before + after) / 2,
    }


def memory(bench: Bench) -> Figures:
    """Bytes resident per session over the bytes of its state, 100,000 sessions that each made a step."""
    count, together = 100_000, 250
    before = resident_bytes(bench.server.pid)
    state_bytes = bench.client.model(MODEL).state_bytes
    stub = bench.client._sessions
    for first in range(0, count, together):
        ids = [f"memory-{number}" for number in range(first, first + together)]
        for session_id in ids:
            stub.Open(sessions_pb2.OpenRequest(model=MODEL, session_id=session_id))
        stub.Step(sessions_pb2.StreamRequest.FromString(message(ids, 1)).step)
    per_session = (resident_bytes(bench.server.pid) - before) / count
    return {"memory_ratio_100k": per_session / state_bytes, "memory_bytes_per_session": per_session}


def resident_bytes(pid: int) -> int:
    """Resident memory of a process."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def solo_session() -> tuple[onnxruntime.InferenceSession, dict[str, np.ndarray]]:
    """The bare graph with one session's tensors."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(f"models/zoo/{MODEL}/1/model.onnx", options)
    golden = np.load(f"models/zoo/{MODEL}/1/golden.npz")
    names = {name.partition("/")[2]: golden[name] for name in golden.files if not name.startswith("outputs/")}
    return session, {name: array[:1] for name, array in names.items()}


SOLO = solo_session()
QUESTIONS: dict[str, tuple[Callable[[Bench], Figures], int]] = {
    "wire": (wire, ROUNDS),
    "kernel": (kernel, ROUNDS),
    "cores": (cores, ROUNDS),
    "gateway": (gateway, ROUNDS),
    "fairness": (fairness, ROUNDS),
    "naive": (naive, ROUNDS),
    "watch": (watched, ROUNDS),
    "memory": (memory, 1),
    "durable": (durable.durable, ROUNDS),
    "wake": (durable.wake, 1),
}


def main() -> None:
    """`python -m benchmarks.bench [QUESTION ...]`."""
    chosen = sys.argv[1:] or list(QUESTIONS)
    figures: Figures = {}
    with contextlib.ExitStack() as stack, Progress() as progress:
        bench = Bench(stack)
        task = progress.add_task("measuring", total=sum(QUESTIONS[name][1] for name in chosen))
        for name in chosen:
            question, rounds = QUESTIONS[name]
            rows = []
            for _ in range(rounds):
                rows.append(question(bench))
                progress.update(task, advance=1, description=name)
            figures |= {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    table = Table("figure", "measured", "goal", "")
    for name, value in figures.items():
        sign, goal = GOALS.get(name, ("", None))
        met = "" if goal is None else "met" if (value >= goal if sign == ">=" else value <= goal) else "missed"
        table.add_row(name, f"{value:,.3f}", f"{sign} {goal}" if goal is not None else "", met)
    Console().print(table)
    machine = {"cores": len(os.sched_getaffinity(0)), "processor": platform.processor() or platform.machine()}
    versions = {"python": platform.python_version(), "grpcio": grpc.__version__, "onnxruntime": onnxruntime.__version__}
    RESULTS.parent.mkdir(exist_ok=True)
    if set(chosen) != set(QUESTIONS) and RESULTS.exists():
        figures = json.loads(RESULTS.read_text())["figures"] | figures
    RESULTS.write_text(json.dumps({"figures": figures, "machine": machine, "versions": versions}, indent=2) + "\n")


if __name__ == "__main__":
    main()
