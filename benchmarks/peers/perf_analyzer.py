"""NVIDIA's perf_analyzer against Triton and against us in turn: one program, one protocol, the same model."""

import os
import re
import statistics
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.clients import perf_analyzer
from benchmarks.peers.lineup import Peer
from benchmarks.peers.running import OURS, Fault, Figures, LoadClient, ours, peer_server
from benchmarks.peers.workloads import MODEL

SEQUENCES = 32
TRIES = 3  # Of a run, whose sequences Triton loses now and then.
TRIALS = 3  # The fewest windows that it takes.
LIMIT_S = 60.0

# How each knows the model, and what a step looks like there.
ASKED = {OURS: ("-m", MODEL.parent.name), "triton": ("-m", "ntm", "--shape", "x:1,9")}

SAID = {
    "steps_per_s": re.compile(r"Throughput: ([\d.]+) infer/sec"),
    "p50_ms": re.compile(r"p50 latency: (\d+) usec"),
    "p99_ms": re.compile(r"p99 latency: (\d+) usec"),
}


def measure(peer: Peer, client: LoadClient, *, rounds: int, seconds: float) -> dict[str, Any]:
    """Rounds of ours and Triton in turn, each the mean of some windows of so many seconds: streams of one sequence, a
    step a request. Unavailable where there is no perf_analyzer, Fault where a server fails.
    """
    program = perf_analyzer()
    with ours() as target, peer_server(peer, client) as theirs:
        done = [
            (_analyzed(program, OURS, target, seconds), _analyzed(program, peer.name, theirs, seconds))
            for _ in range(rounds)
        ]
    ratios = sorted(own["steps_per_s"] / it["steps_per_s"] for own, it in done)
    sides = [{name: statistics.median(one[side][name] for one in done) for name in SAID} for side in (0, 1)]
    return {OURS: sides[0], "peer": sides[1], "ratio": statistics.median(ratios), "ratios": ratios}


def _analyzed(program: tuple[Path, Path], server: str, target: str, seconds: float) -> Figures:
    path, libraries = program
    windows = ("-p", str(round(seconds * 1000)), "-r", str(TRIALS), "-s", "999")
    load = ("-i", "grpc", "--streaming", "--concurrency-range", str(SEQUENCES))
    command = [str(path), "-u", target, *ASKED[server], *load, *windows]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    said = ""
    for _ in range(TRIES):
        try:
            ran = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False, env=environment)
        except subprocess.TimeoutExpired:
            said = f"not done within {LIMIT_S:.0f} s"
            continue
        said = ran.stdout + ran.stderr
        found = {name: one.search(said) for name, one in SAID.items()}
        if ran.returncode == 0 and all(found.values()):
            figures = {name: float(one[1]) for name, one in found.items() if one}
            return {name: value / 1000 if name.endswith("_ms") else value for name, value in figures.items()}
    raise Fault(f"{server}: perf_analyzer: {said.strip().splitlines()[-1] if said.strip() else 'said nothing'}")
