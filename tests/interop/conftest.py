"""A server in a process of its own, and the clients of others."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from serve import onnx_graphs
from serve.triton.repositories import PERCEPTRON_CONFIG, SUM_CONFIG, put

from benchmarks import clients
from ntm_serve.client import Client

ZOO = Path(__file__).parents[2] / "models" / "zoo"
START_S = 60


def had(client):
    """What brings a client; where it cannot be had the tests are skipped at home, and fail in CI."""
    try:
        return client()
    except clients.Unavailable as error:
        missing = f"{client.__name__} cannot be had: {error}"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


@pytest.fixture(scope="session")
def tritonclient():
    return had(clients.tritonclient)


@pytest.fixture(scope="session")
def perf_analyzer():
    return had(clients.perf_analyzer)


@pytest.fixture(scope="session")
def target(tmp_path_factory):
    """A durable server of copy-ff and of two models of a Triton repository; its clients may load and unload models."""
    home = tmp_path_factory.mktemp("interop")
    shutil.copytree(ZOO / "copy-ff", home / "models" / "copy-ff")
    put(home / "triton", "sum", SUM_CONFIG, onnx_graphs.accumulator())
    put(home / "triton", "perceptron", PERCEPTRON_CONFIG, onnx_graphs.perceptron())
    importing = [sys.executable, "-m", "ntm_serve.cli", "import-triton", str(home / "triton"), "--out"]
    subprocess.run([*importing, str(home / "models")], check=True, capture_output=True, timeout=START_S)
    flags = ("--port", "0", "--http-port", "0", "--log-level", "warning", "--model-control", "true")
    store = ("--store", f"sqlite:{home}/sessions.db")
    command = [sys.executable, "-m", "ntm_serve.cli", "serve", "--models", str(home / "models"), *flags, *store]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            found = re.search(r"grpc=(\S+)", process.stdout.readline())
            assert found, "the server did not start"
            yield found[1]
            assert process.poll() is None, "the server ended"
        finally:
            process.terminate()
            assert process.wait(START_S) == 0


@pytest.fixture(scope="session")
def x():
    """Inputs of four sequences [4, T, 9]."""
    return np.random.default_rng(7).integers(0, 2, (4, 24, 9)).astype(np.float32)


@pytest.fixture(scope="session")
def y(target, x):
    """Their outputs [4, T, 8] by our own client, a step at a time."""
    with Client(target) as client:
        rows = []
        for one in x:
            session = client.session("copy-ff")
            rows.append(np.concatenate([session.step(one[t : t + 1]) for t in range(len(one))]))
            session.close()
    return np.stack(rows)
