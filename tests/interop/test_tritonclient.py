"""tritonclient as it is, against a server in a process of its own."""

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from serve import onnx_graphs

from ntm_serve.client import Client

CALLS = Path(__file__).parent / "calls.py"


@pytest.fixture(scope="module")
def ran(tritonclient, target, x, y, tmp_path_factory):
    """What it saw: outputs by name, and the rest."""
    folder = tmp_path_factory.mktemp("tritonclient")
    np.savez(folder / "inputs.npz", x=x)
    command = [str(tritonclient), str(CALLS), target, str(folder / "inputs.npz"), str(folder / "out")]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(np.load(folder / "out.npz")), json.loads((folder / "out.json").read_text())


def test_every_way_to_infer_gives_the_bits_of_our_own_client(ran, y):
    outputs, _ = ran
    assert outputs["unary"].tobytes() == y[0].tobytes()
    assert outputs["callbacks"].tobytes() == y[1].tobytes()
    assert outputs["stream"].tobytes() == y.tobytes()
    assert outputs["aio"].tobytes() == y[2].tobytes()


def test_many_steps_at_once_and_sent_again_give_the_same_bits(ran, y):
    outputs, _ = ran
    assert outputs["many"].tobytes() == outputs["retried"].tobytes() == y[3].tobytes()
    assert outputs["next_step"] == y.shape[1]


def test_a_snapshot_and_a_fork_go_on_where_they_were_taken(ran, target, x):
    outputs, _ = ran
    with Client(target) as client:
        session = client.session("copy-ff")
        session.step(x[3])
        expected = [session.step(x[3, :1]), session.step(x[3, 1:2])]
        session.close()
    assert outputs["after"].tobytes() == outputs["restored"].tobytes() == expected[0].tobytes()
    assert outputs["fork"].tobytes() == outputs["original"].tobytes() == expected[1].tobytes()


def test_models_of_a_triton_repository_answer_as_they_did_there(ran, x):
    outputs, _ = ran
    (expected,) = ort.InferenceSession(onnx_graphs.perceptron()).run(["y"], {"x": x[0, :5, :8]})
    np.testing.assert_allclose(outputs["rows"], expected, atol=1e-6)
    assert outputs["total"].tolist() == [[6] * 3, [8] * 3], "y is twice the total"


def test_what_a_client_asks_before_it_infers(ran, x):
    facts = ran[1]["facts"]
    assert facts["live"] == [True, True]
    assert facts["ready"] == [True, False]
    assert facts["server"]["name"] == "ntm-serve"
    assert {"sequence", "sequence(string_id)", "statistics", "model_repository"} <= set(facts["server"]["extensions"])
    assert facts["metadata"]["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "9"]}]
    assert facts["metadata"]["outputs"] == [{"name": "y", "datatype": "FP32", "shape": ["-1", "8"]}]
    assert facts["inputs"] == ["x"]
    assert facts["batch"] >= 1
    assert facts["idle_us"] == str(7 * 24 * 3600 * 10**6)


def test_statistics_are_counts_and_times(ran):
    statistics = ran[1]["facts"]["statistics"]
    assert int(statistics["inference_count"]) >= int(statistics["execution_count"]) > 0
    for name in ("success", "queue", "compute_infer"):
        assert int(statistics["inference_stats"][name]["count"]) > 0
        assert int(statistics["inference_stats"][name]["ns"]) > 0


def test_errors_say_what_tritons_say_and_why(ran):
    errors = ran[1]["errors"]
    status, text = errors["not started"]
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert "must specify the START flag on the first request of the sequence" in text
    assert text.endswith("reason=UNKNOWN")
    assert errors["no sequence"][1].startswith("inference request to model 'copy-ff' must specify a non-zero or")
    assert errors["no model"][0] == "StatusCode.NOT_FOUND"
    assert errors["no model"][1].startswith("Request for unknown model: 'nothing' is not found")
    assert errors["wrong shape"][1].startswith("x: expected FP32 [T, 9]")
    assert {errors[name][0] for name in ("shared memory", "trace", "log")} == {"StatusCode.UNIMPLEMENTED"}


def test_an_error_on_a_stream_leaves_it_open(ran, y):
    outputs, seen = ran
    assert seen["in stream"].startswith("[request id: lost] inference request for sequence 404")
    assert outputs["after_error"].tobytes() == y[0, :1].tobytes()


def test_a_model_is_unloaded_and_loaded_again(ran):
    repository = ran[1]["repository"]
    assert repository["ready while unloaded"] is False
    assert repository["index"]["copy-ff"][0] == "UNAVAILABLE"
    assert "was unloaded" in repository["index"]["copy-ff"][1]
    assert repository["ready again"] is True


def test_nothing_is_left_open_but_what_was_not_ended(ran, target):
    with Client(target) as client:
        left = sorted(one.session_id for one in client.sessions())
    assert left == ["seq:copy-ff:22", "seq:copy-ff:f"]


def test_the_example_of_the_documentation_runs(tritonclient, target):
    text = (Path(__file__).parents[2] / "docs" / "triton.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    ours = program.replace("localhost:8001", target)
    assert ours != program
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        [str(tritonclient), "-c", ours], capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    assert ran.stdout.splitlines() == ["(1, 8) (1, 8)"]
