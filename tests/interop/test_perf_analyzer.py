"""perf_analyzer as it is, against a server in a process of its own; what it got, compared with our own client."""

import os
import subprocess
import time

import numpy as np
import pytest

from ntm_serve.client import Client
from ntm_serve.inference import service_pb2

from .recorder import recording

# So many requests, however long they take: windows of time may be empty on a busy machine.
MEASURED = ("--request-count", "400")

LOADS = [
    "--streaming --concurrency-range 1:1",
    "--streaming --concurrency-range 16:16",
    "--streaming --concurrency-range 64:64",
    "-a --concurrency-range 1:1",
    "-a --concurrency-range 16:16",
    "-a --concurrency-range 64:64",
    "--sync --concurrency-range 1:1",
    "--sync --concurrency-range 16:16",
    "--sync --concurrency-range 64:64",
    "--streaming --request-rate-range 200:200 --serial-sequences --num-of-sequences 8",
    "-a --request-rate-range 200:200 --serial-sequences --num-of-sequences 8",
]


def analyzed(perf_analyzer, target, load, *, model="copy-ff"):
    """What it printed. It must end well."""
    program, libraries = perf_analyzer
    command = [str(program), "-m", model, "-u", target, "-i", "grpc", *MEASURED, *load.split()]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "error" not in done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("load", LOADS)
def test_a_load_ends_well(perf_analyzer, target, load):
    said = analyzed(perf_analyzer, target, load)
    assert "Throughput: " in said
    assert "Inference count: " in said, "the server's own counts"


@pytest.mark.parametrize("load", ["--streaming --concurrency-range 16:16", "--sync --concurrency-range 16:16 -b 4"])
def test_rows_without_a_sequence_are_served_where_there_is_no_memory(perf_analyzer, target, load):
    assert "Throughput: " in analyzed(perf_analyzer, target, load, model="perceptron")


def test_an_imported_model_with_a_state_is_a_sequence_model(perf_analyzer, target):
    assert "Sequence count: " in analyzed(perf_analyzer, target, "--streaming --concurrency-range 16:16", model="sum")


@pytest.mark.parametrize("load", ["--streaming --concurrency-range 4:4", "-a --concurrency-range 4:4"])
def test_its_outputs_are_those_of_our_own_client(perf_analyzer, target, load):
    with recording(target) as (between, recorder):
        analyzed(perf_analyzer, between, f"{load} --input-data random")
    sequences, finished = {}, []
    for sent, got in recorder.exchanges:
        request, reply = service_pb2.ModelInferRequest.FromString(sent), response_of(got, streamed="stream" in load)
        sequence_id = request.parameters["sequence_id"].int64_param
        if request.parameters["sequence_start"].bool_param:
            sequences[sequence_id] = []
        sequences[sequence_id].append((request.raw_input_contents[0], reply.raw_output_contents[0]))
        if request.parameters["sequence_end"].bool_param:
            finished.append(sequences.pop(sequence_id))
    assert len(finished) > 10
    with Client(target) as client:
        for steps in finished[:: max(1, len(finished) // 40)]:
            session = client.session("copy-ff")
            x = np.stack([np.frombuffer(sent, np.float32) for sent, _ in steps])
            assert session.step(x).tobytes() == b"".join(got for _, got in steps)
            session.close()


def test_a_load_that_was_killed_is_begun_anew(perf_analyzer, target):
    program, libraries = perf_analyzer
    command = [str(program), "-m", "copy-ff", "-u", target, "-i", "grpc", "--streaming", "--concurrency-range", "8:8"]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries)}
    with subprocess.Popen([*command, "-p", "20000"], stdout=subprocess.DEVNULL, env=environment) as process:
        with Client(target) as client:
            end_s = time.monotonic() + 30
            while not list(client.sessions(model="copy-ff")):
                assert time.monotonic() < end_s, "it never began"
        process.kill()
    analyzed(perf_analyzer, target, "--streaming --concurrency-range 8:8")


def response_of(data, *, streamed):
    """A reply without an error."""
    if not streamed:
        return service_pb2.ModelInferResponse.FromString(data)
    reply = service_pb2.ModelStreamInferResponse.FromString(data)
    assert not reply.error_message
    return reply.infer_response
