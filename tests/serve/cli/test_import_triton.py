"""`ntm-serve import-triton`: what it says, and when it fails."""

import numpy as np
import pytest
from serve import onnx_graphs
from serve.triton.repositories import PERCEPTRON_CONFIG, SUM_CONFIG, put

from ntm_serve.model_directory import read_model_directory

OPEN = onnx_graphs.model(
    [onnx_graphs.node("Tanh", ["x"], ["y"])], [("x", "float32", ("N", "W"))], [("y", "float32", ("N", "W"))]
)


@pytest.fixture
def triton(tmp_path):
    put(tmp_path / "triton", "mlp", PERCEPTRON_CONFIG, onnx_graphs.perceptron())
    return tmp_path / "triton"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "models"


def test_it_says_what_became_of_each_model(cli, triton, out):
    put(triton, "sum", SUM_CONFIG, onnx_graphs.accumulator())
    ran = cli("import-triton", triton, "--out", out, "--licence", "MIT")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        f"mlp/1: imported to {out}/mlp/1",
        "  ignored: dynamic_batching: whoever waits rides together, and nobody waits for a batch to fill",
        "  ignored: max_batch_size: the batch with the most steps a second is found at load, or --batch-max says it",
        f"sum/1: imported to {out}/sum/1",
        "  ignored: sequence_batching.state.initial_state.name: a state has the name of its input",
        "  ignored: max_batch_size: the batch with the most steps a second is found at load, or --batch-max says it",
    ]
    assert read_model_directory(out / "sum" / "1").manifest.provenance.licence == "MIT"
    checked = cli("check", out / "mlp" / "1")
    assert checked.status == 0
    assert "0 B a session in 0 tensors" in checked.out


def test_its_status_is_1_where_a_model_was_refused_and_the_others_are_there(cli, triton, out):
    put(triton, "bad", "backend: 'python'", onnx_graphs.perceptron())
    ran = cli("import-triton", triton, "--out", out)
    assert (ran.status, ran.err) == (1, "")
    assert ran.out.startswith(f"bad: refused: {triton}/bad/config.pbtxt: backend 'python': expected an ONNX model")
    assert (out / "mlp" / "1" / "manifest.json").exists()
    assert not (out / "bad").exists()


def test_sizes_and_an_example_come_from_options(cli, triton, out, tmp_path):
    put(triton, "open", None, OPEN)
    assert "say what it is with --dims x=N" in cli("import-triton", triton, "--out", out, "--model", "open").out
    np.savez(tmp_path / "example.npz", x=np.arange(12, dtype=np.float32).reshape(4, 3))
    given = ("--model", "open", "--dims", "x=3", "--example", tmp_path / "example.npz")
    assert cli("import-triton", triton, "--out", out, *given).status == 0
    assert read_model_directory(out / "open" / "1").golden.inputs[0].tolist() == [
        [0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11],
    ]  # fmt: skip
    wrong = cli("import-triton", triton, "--out", out, "--model", "open", "--dims", "x=2", "--force", *given[4:])
    assert wrong.status == 1
    assert "x: expected float32[T, 2], got float32[4, 3]" in wrong.out


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--dims", "x"), "--dims: expected NAME=SIZE,SIZE, got 'x'"),
        (("--dims", "x=a"), "--dims: expected NAME=SIZE,SIZE, got 'x=a'"),
        (("--dims", "x=0"), "--dims: expected NAME=SIZE,SIZE, got 'x=0'"),
        (("--constant", "=1"), "--constant: expected NAME=NUMBER, got '=1'"),
        (("--constant", "END=no"), "--constant: expected NAME=NUMBER, got 'END=no'"),
        (("--model", "nobody"), "expected folders of models ['nobody'], got ['mlp']"),
    ],
)
def test_options_that_cannot_be_read_are_one_line_and_status_1(cli, triton, out, options, text):
    ran = cli("import-triton", triton, "--out", out, *options)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("ntm-serve: ")
    assert text in ran.err
    assert len(ran.err.splitlines()) == 1
    assert not out.exists()


def test_a_place_that_cannot_be_written_to_is_said(cli, triton, tmp_path):
    (tmp_path / "file").write_text("")
    ran = cli("import-triton", triton, "--out", tmp_path / "file")
    assert ran.status == 1
    assert "mlp/1: refused: " in ran.out
    assert "expected a folder to write into" in ran.out
