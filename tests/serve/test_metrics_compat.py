"""The metrics of another server: its names to the letter, and the numbers that its dashboards make of them."""

import asyncio
import os
import re
import shutil
import subprocess
import threading
from urllib.request import urlopen

import numpy as np
import pytest
from serve.exposition import scrape, value

from ntm_serve.client import Client
from ntm_serve.errors import EngineFault, LimitReached, NonFiniteState, TooLarge
from ntm_serve.stateless import InferRequest
from ntm_serve.testing import Doubling, Gate, RunningSum, test_server
from ntm_serve.testing.running_sum import FAILING_INPUT

SUM = {"model": "running-sum", "version": "1"}
DOUBLING = {"model": "doubling", "version": "1"}

# As Triton's documentation has them.
NAMES = {
    "nv_inference_request_success", "nv_inference_request_failure", "nv_inference_count", "nv_inference_exec_count",
    "nv_inference_request_duration_us", "nv_inference_queue_duration_us", "nv_inference_compute_input_duration_us",
    "nv_inference_compute_infer_duration_us", "nv_inference_compute_output_duration_us",
    "nv_inference_pending_request_count",
}  # fmt: skip


def infer(server, values, model="doubling"):
    """Rows through the service itself, on its own event loop."""
    request = InferRequest(model, "", {"x": np.array(values, np.float32).reshape(-1, 1)})
    running = server.running
    return asyncio.run_coroutine_threadsafe(running.service.infer(request), running.loop).result(timeout=30)


def of(server, name, **labels):
    return value(scrape(server), f"nv_inference_{name}", **labels)


def failures(server, **labels):
    series = scrape(server)
    words = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
    return {word: value(series, "nv_inference_request_failure", **labels, reason=word) for word in words}


def test_names_and_labels_are_to_the_letter_and_there_before_the_first_request():
    with test_server([RunningSum()], metrics_compat="triton") as server:
        found = {name: set(dict(labels)) for name, labels in scrape(server) if name.startswith("nv_")}
        text = urlopen(f"{server.http}/metrics", timeout=10).read().decode()
    assert found.keys() == NAMES
    for name, labels in found.items():
        assert labels == {"model", "version", *(["reason"] if name == "nv_inference_request_failure" else [])}
    assert re.findall(r"^# TYPE (nv_\w+) (\w+)$", text, re.MULTILINE) == [
        (name, "gauge" if name == "nv_inference_pending_request_count" else "untyped")
        for name in re.findall(r"^# TYPE (nv_\w+)", text, re.MULTILINE)
    ]
    assert "nv_inference_count_total" not in text


def test_without_the_setting_there_are_none():
    with test_server([RunningSum()]) as server:
        assert not [name for name, _ in scrape(server) if name.startswith("nv_")]


def test_count_over_exec_count_is_the_mean_batch_size():
    gate = Gate()
    model = RunningSum(before_run=gate)
    with test_server([model], metrics_compat="triton") as server, Client(server.target) as client:
        sessions = [client.session("running-sum") for _ in range(4)]
        first = threading.Thread(target=sessions[0].step, args=([1],))
        first.start()
        gate.await_run()
        rest = [threading.Thread(target=one.step, args=([1],)) for one in sessions[1:]]
        for thread in rest:
            thread.start()
        while of(server, "pending_request_count", **SUM) < 3:
            pass
        gate.open()
        for thread in (first, *rest):
            thread.join()
        assert model.batches == [1, 3]
        assert of(server, "count", **SUM) / of(server, "exec_count", **SUM) == 2
        assert of(server, "request_success", **SUM) == 4
        assert of(server, "pending_request_count", **SUM) == 0


def test_the_durations_of_a_request_add_up():
    with test_server([RunningSum()], metrics_compat="triton") as server, Client(server.target) as client:
        session = client.session("running-sum")
        for _ in range(5):
            session.step([[1], [2]])
        series = scrape(server)
        parts = ("queue", "compute_input", "compute_infer", "compute_output")
        whole = value(series, "nv_inference_request_duration_us", **SUM)
        assert whole > 0
        assert sum(value(series, f"nv_inference_{part}_duration_us", **SUM) for part in parts) == pytest.approx(whole)
        # In microseconds what our own has in seconds.
        assert whole == pytest.approx(1e6 * value(series, "ntm_serve_step_latency_seconds_sum", **SUM))
        assert value(series, "nv_inference_request_success", **SUM) == 5
        assert value(series, "nv_inference_count", **SUM) == 10


def test_rows_that_come_together_are_one_request():
    with test_server([Doubling()], metrics_compat="triton") as server:
        infer(server, range(5))
        infer(server, range(3))
        assert [of(server, name, **DOUBLING) for name in ("request_success", "count", "exec_count")] == [2, 8, 2]
        series = scrape(server)
        assert value(series, "ntm_serve_steps_total", **DOUBLING, outcome="ok") == 8
        assert value(series, "ntm_serve_step_latency_seconds_count", **DOUBLING) == 2


def test_failures_have_the_reasons_of_triton():
    gate = Gate()
    gate.open()
    models = [RunningSum(), Doubling(before_run=gate)]
    with test_server(models, metrics_compat="triton", steps_waiting_max=4) as server, Client(server.target) as client:
        session = client.session("running-sum")
        with pytest.raises(NonFiniteState):
            session.step([[3e38], [3e38]])
        with pytest.raises(EngineFault):
            session.step([FAILING_INPUT])
        assert failures(server, **SUM) == {"REJECTED": 0, "CANCELED": 0, "BACKEND": 1, "OTHER": 1}
        with pytest.raises(EngineFault):
            infer(server, [1, FAILING_INPUT, 2])
        with pytest.raises(TooLarge):  # It was never a request.
            infer(server, range(5))
        assert failures(server, **DOUBLING) == {"REJECTED": 0, "CANCELED": 0, "BACKEND": 1, "OTHER": 0}
        assert of(server, "request_success", **DOUBLING) == 0


def test_requests_that_were_refused_or_left_are_counted_once():
    gate = Gate()
    with test_server([Doubling(before_run=gate)], metrics_compat="triton", steps_waiting_max=4) as server:
        running = server.running
        one = InferRequest("doubling", "", {"x": np.ones((4, 1), np.float32)})
        waiting = asyncio.run_coroutine_threadsafe(running.service.infer(one), running.loop)
        gate.await_run()
        with pytest.raises(LimitReached):
            infer(server, [1])
        waiting.cancel()
        while not failures(server, **DOUBLING)["CANCELED"]:
            pass
        gate.open()
        assert failures(server, **DOUBLING) == {"REJECTED": 1, "CANCELED": 1, "BACKEND": 0, "OTHER": 0}
        assert value(scrape(server), "ntm_serve_steps_total", **DOUBLING, outcome="cancelled") == 4


def test_promtool_has_nothing_but_the_units_and_the_missing_suffix_against_them():
    promtool = shutil.which("promtool")
    if promtool is None:
        assert os.environ.get("CI") != "true", "promtool is missing (Debian package prometheus)"
        pytest.skip("promtool is missing (Debian package prometheus)")
    with test_server([RunningSum()], metrics_compat="triton") as server:
        text = urlopen(f"{server.http}/metrics", timeout=10).read()
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=60, check=False)
    said = [line for line in checked.stderr.decode().splitlines() if line]
    assert all(line.startswith("nv_inference_") for line in said), said
