"""What the slots of a DNC cost: `python -m benchmarks.dnc`, about three minutes. Needs torch. Prints a table, and
writes benchmarks/results/dnc.json.

The link is N x N, so the state and the step grow with the square of the slots. For each N an untrained model is
exported, its graph run alone in batches of several sizes, and a server driven with messages of many sessions; then it
is given sessions with some 128 MB of state. `python -m benchmarks.dnc nodes 256` says where the time of the
graph goes.
"""

import json
import platform
import re
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import numpy as np
import onnxruntime
import torch

from benchmarks.bench import resident_bytes
from benchmarks.processes import line, message, process
from ntm_exporter.export import Options, export
from ntm_exporter.source import Source, TaskExample
from ntm_models.dnc import DNC, DNCOptions
from ntm_models.tasks import CopyReuse
from ntm_serve.model_directory import ModelDirectory, read_model_directory
from ntm_serve.v1 import models_pb2, models_pb2_grpc, sessions_pb2, sessions_pb2_grpc

RESULTS = Path("benchmarks/results/dnc.json")
SLOTS = (16, 64, 256)
BATCHES = (2, 16, 64)
RUN_S = 2.0
STATE_BYTES_HELD = 64 << 20

# Of the driven server.
SESSIONS, STEPS = 64, 8


def model_of(slots: int, folder: Path) -> ModelDirectory:
    """An untrained DNC of the sizes of copy-reuse-dnc, but for its slots."""
    torch.manual_seed(1)
    task = CopyReuse()
    options = DNCOptions(inputs=task.inputs, outputs=task.outputs, layers=(64,), width=12, slots=slots)
    source = Source(name=f"dnc-{slots}", step=DNC(options).eval(), example_inputs=TaskExample(task), family="dnc")
    return read_model_directory(export(source, Options(out=folder)).path)


class Graph:
    """The graph alone, on one thread, its state fed back."""

    def __init__(self, directory: ModelDirectory, *, profiled: bool = False) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_profiling = profiled
        options.profile_file_prefix = tempfile.mktemp() if profiled else ""
        self.session = onnxruntime.InferenceSession(directory.model, options, providers=["CPUExecutionProvider"])
        self._directory, entries = directory, directory.manifest.state
        self._fetches = [directory.spec.outputs[0].name, *(entry.graph_output for entry in entries)]

    def run(self, batch: int, seconds: float) -> float:
        """The median of the runs' seconds."""
        golden, entries = self._directory.golden, self._directory.manifest.state
        state = [np.repeat(array[-1:], batch, axis=0) for array in golden.state]
        x, passed, until = np.repeat(golden.inputs[0][-1:], batch, axis=0), [], time.perf_counter() + seconds
        while (began := time.perf_counter()) < until:
            feed = {entry.graph_input: array for entry, array in zip(entries, state, strict=True)}
            _, *state = self.session.run(self._fetches, {"x": x, **feed})
            passed.append(time.perf_counter() - began)
        return median(passed)


def nodes(slots: int, batch: int) -> None:
    """Print the nodes that take longest, in microseconds of a run."""
    with tempfile.TemporaryDirectory() as folder:
        graph = Graph(model_of(slots, Path(folder)), profiled=True)
    graph.run(batch, RUN_S)
    file, took = Path(graph.session.end_profiling()), defaultdict(list)
    for event in json.loads(file.read_text()):
        if event["cat"] == "Node" and event["name"].endswith("_kernel_time"):
            took[event["args"]["op_name"], str(event["args"]["output_type_shape"])].append(event["dur"])
    file.unlink()
    runs = max(len(each) for each in took.values())
    for (operator, shapes), each in sorted(took.items(), key=lambda one: -sum(one[1]))[:20]:
        print(f"{sum(each) / runs:8.1f} us  {operator:18} {shapes}")


def served(directory: ModelDirectory) -> dict[str, float]:
    """Steps/s of messages of many sessions, and resident bytes of a session."""
    name = directory.path.parent.name
    repository = str(directory.path.parents[1])
    ports = ("--port", "0", "--http-port", "0", "--log-level", "warning")
    with process("ntm_serve.cli", "serve", "--models", repository, *ports) as server:
        found = re.search(r"grpc=(\S+)", line(server))
        assert found
        with grpc.insecure_channel(found[1]) as channel:
            stub = sessions_pb2_grpc.SessionsStub(channel)

            def opened(count: int) -> list[str]:
                return [stub.Open(sessions_pb2.OpenRequest(model=name)).session.session_id for _ in range(count)]

            def step(ids: list[str], steps: int) -> float:
                request = sessions_pb2.StreamRequest.FromString(message(ids, steps)).step
                began = time.perf_counter()
                stub.Step(request)
                return time.perf_counter() - began

            driven = opened(SESSIONS)
            step(driven, STEPS)
            best = min(step(driven, STEPS) for _ in range(20))
            batch_max = models_pb2_grpc.ModelsStub(channel).Get(models_pb2.GetModelRequest(name=name)).model.batch_max
            count = max(2 * SESSIONS, STATE_BYTES_HELD // directory.spec.state_bytes)
            held = []
            for _ in range(2):  # The first half also fills what is filled once.
                for first in range(0, count, SESSIONS):
                    step(opened(min(SESSIONS, count - first)), 1)
                held.append(resident_bytes(server.pid))
    return {
        "served_batch_max": batch_max,
        "served_steps_per_s": SESSIONS * STEPS / best,
        "resident_bytes_per_session": (held[1] - held[0]) / count,
    }


def measured(slots: int) -> dict[str, Any]:
    """Everything of one N."""
    with tempfile.TemporaryDirectory() as folder:
        directory = model_of(slots, Path(folder))
        graph = Graph(directory)
        step_us = {batch: graph.run(batch, RUN_S) / batch * 1e6 for batch in BATCHES}
        return {"slots": slots, "state_bytes": directory.spec.state_bytes, "step_us": step_us, **served(directory)}


def main() -> None:
    """The command."""
    torch.set_num_threads(1)
    if "nodes" in sys.argv:
        nodes(int(sys.argv[2]), batch=16)
        return
    rows = []
    for slots in SLOTS:
        one = measured(slots)
        rows.append(one)
        steps = ", ".join(f"{us:.1f} us in batches of {batch}" for batch, us in one["step_us"].items())
        print(
            f"N = {slots:3}: {one['state_bytes']:,} bytes of state, {one['resident_bytes_per_session']:,.0f} resident; "
            f"a step {steps}; {one['served_steps_per_s']:,.0f} steps/s served in "
            f"batches of at most {one['served_batch_max']}",
            flush=True,
        )
    versions = {"python": platform.python_version(), "onnxruntime": onnxruntime.__version__}
    RESULTS.write_text(json.dumps({**versions, "models": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
