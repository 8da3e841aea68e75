"""Import: what is written is what a server serves, and what cannot be served the same is refused with the reason."""

import hashlib
import json
import os
import re
import shutil
import struct

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serve import onnx_graphs as onnx
from serve.triton.repositories import PERCEPTRON_CONFIG, SUM_CONFIG, put

from ntm_serve.app import load_models
from ntm_serve.client import Client
from ntm_serve.engine import OrtEngine
from ntm_serve.errors import InvalidInput, SettingsFault
from ntm_serve.model_directory import read_model_directory
from ntm_serve.testing import test_server
from ntm_serve.triton.importing import Options, import_repository
from ntm_serve.triton.plan import Wishes

STATE = 'state { input_name: "total_in" output_name: "total_out" data_type: TYPE_FP32 dims: [ 3 ] %s }'
INITIAL = 'initial_state { data_type: TYPE_FP32 dims: [ 3 ] data_file: "first" }'


@pytest.fixture
def triton(tmp_path):
    folder = tmp_path / "triton"
    folder.mkdir()
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "models"


def import_all(triton, out, **options):
    return list(import_repository(triton, Options(out=out, **options)))


def the_fault(triton, out, **options):
    """Why the only model is refused; nothing of it is written."""
    [one] = import_all(triton, out, **options)
    assert one.fault is not None, one
    assert one.path is None
    assert not out.exists()
    return one.fault.message


def sequence(more, *, top=""):
    """A config of a sum with other words in its sequence_batching."""
    return (
        'max_batch_size: 8 input { name: "x" data_type: TYPE_FP32 dims: 3 } '
        f'output {{ name: "y" data_type: TYPE_FP32 dims: 3 }} {top} sequence_batching {{ {more} }}'
    )


def controlled(*controls):
    """total' = (1 - START) total + x READY + END, with the controls that are asked for."""
    start, ready, end = (name if name in controls else None for name in ("START", "READY", "END"))
    nodes, total, x = [], "total_in", "x"
    if start:
        nodes += [onnx.node("Sub", ["one", start], ["keep"]), onnx.node("Mul", ["keep", total], ["kept"])]
        total = "kept"
    if ready:
        nodes += [onnx.node("Mul", [x, ready], ["ready_x"])]
        x = "ready_x"
    if end:
        nodes += [onnx.node("Add", [x, end], ["end_x"])]
        x = "end_x"
    nodes += [onnx.node("Add", [total, x], ["total_out"]), onnx.node("Identity", ["total_out"], ["y"])]
    tensors = [("x", "float32", ("N", 3)), ("total_in", "float32", ("N", 3))]
    fed = [(name, "float32", ("N", 1)) for name in controls]
    made = [("y", "float32", ("N", 3)), ("total_out", "float32", ("N", 3))]
    return onnx.model(nodes, [*tensors, *fed], made, {"one": np.ones(1, np.float32)})


def control(name, kind, values="fp32_false_true: [ 0, 1 ]"):
    return f'control_input {{ name: "{name}" control {{ kind: CONTROL_SEQUENCE_{kind} {values} }} }}'


# What is written


def test_a_model_with_and_one_without_state_are_imported_and_served_side_by_side(triton, out):
    put(triton, "sum", SUM_CONFIG, onnx.accumulator())
    put(triton, "mlp", PERCEPTRON_CONFIG, onnx.perceptron())
    assert [(one.model, one.version, one.fault) for one in import_all(triton, out)] == [
        ("mlp", "1", None), ("sum", "1", None),
    ]  # fmt: skip
    loaded = load_models(out, batch_max=8)
    assert not loaded.faults
    x = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)
    direct = ort.InferenceSession(onnx.perceptron()).run(["y"], {"x": x})[0]
    with test_server(loaded) as server, Client(server.target) as client:
        assert [(model.name, len(model.state), model.ready) for model in client.models()] == [
            ("mlp", 0, True), ("sum", 1, True),
        ]  # fmt: skip
        with client.session("sum") as session:
            y = session.step(x[:, :3])
            np.testing.assert_array_equal(y, 2 * np.cumsum(x[:, :3], axis=0))
        with client.session("mlp") as session:
            np.testing.assert_allclose(session.step(x), direct, rtol=1e-6, atol=1e-6)


def test_a_directory_says_where_it_comes_from_and_vouches_for_its_files(triton, out):
    put(triton, "sum", SUM_CONFIG, onnx.accumulator())
    [one] = import_all(triton, out, licence="MIT")
    manifest = json.loads((one.path / "manifest.json").read_text())
    assert manifest["provenance"] == {
        "licence": "MIT", "source": "Triton model repository, model sum", "recipe": "", "seed": None,
    }  # fmt: skip
    assert (manifest["family"], manifest["opset"], manifest["exporter"]["torch"]) == ("onnx", onnx.OPSET, "")
    assert manifest["files"].keys() == {"model.onnx", "initial_state.npz", "golden.npz"}
    for name, entry in manifest["files"].items():
        assert hashlib.sha256((one.path / name).read_bytes()).hexdigest() == entry["sha256"]
    assert (one.path / "model.onnx").read_bytes() == onnx.accumulator()


def test_the_licence_is_unknown_where_nobody_says_it(triton, out):
    put(triton, "mlp", None, onnx.perceptron())
    [one] = import_all(triton, out)
    assert read_model_directory(one.path).manifest.provenance.licence == "unknown"


def test_the_same_repository_gives_the_same_bytes(triton, out, tmp_path):
    put(triton, "sum", SUM_CONFIG, onnx.accumulator())
    [one], [other] = import_all(triton, out), import_all(triton, tmp_path / "again")
    for file in ("manifest.json", "golden.npz", "initial_state.npz", "model.onnx"):
        assert (one.path / file).read_bytes() == (other.path / file).read_bytes()


def test_without_a_config_all_is_in_the_graph(triton, out):
    put(triton, "mlp", None, onnx.perceptron())
    [one] = import_all(triton, out)
    spec = read_model_directory(one.path).spec
    assert [(one.name, str(one)) for one in (*spec.inputs, *spec.outputs)] == [
        ("x", "float32[8]"), ("y", "float32[4]"),
    ]  # fmt: skip


def test_a_config_with_states_alone_takes_the_rest_from_the_graph(triton, out):
    put(triton, "sum", "sequence_batching { " + STATE % "" + " }", onnx.accumulator())
    [one] = import_all(triton, out)
    spec = read_model_directory(one.path).spec
    assert [[one.name for one in specs] for specs in (spec.inputs, spec.outputs, spec.state)] == [
        ["x"], ["y"], ["total_in"],
    ]  # fmt: skip
    assert one.notes == ("state total_in: initial_state: is not in the config, so it is zeros",)


def test_an_initial_state_is_read_from_its_file(triton, out):
    put(triton, "sum", sequence(STATE % INITIAL), onnx.accumulator(), initial={"first": struct.pack("<3f", 1, 2, 3)})
    [one] = import_all(triton, out)
    directory = read_model_directory(one.path)
    assert directory.initial_state[0].tolist() == [1, 2, 3]
    assert one.notes == ()


def test_outputs_that_the_config_does_not_name_are_left_out_of_the_graph(triton, out):
    graph = onnx.model(
        [onnx.node("Tanh", ["x"], ["y"]), onnx.node("Neg", ["y"], ["z"])],
        [("x", "float32", ("N", 8))],
        [("y", "float32", ("N", 8)), ("z", "float32", ("N", 8))],
    )
    put(triton, "m", 'max_batch_size: 4 output { name: "z" data_type: TYPE_FP32 dims: 8 }', graph)
    [one] = import_all(triton, out)
    assert one.notes == ("output y: is not in the config, and left out",)
    served = ort.InferenceSession((one.path / "model.onnx").read_bytes())
    assert [output.name for output in served.get_outputs()] == ["z"]


def test_a_state_that_replies_carry_as_well_is_served(triton, out):
    config = SUM_CONFIG.replace('name: "y"', 'name: "total_out"')
    put(triton, "sum", config, onnx.accumulator())
    [one] = import_all(triton, out)
    assert one.fault is None, one.fault
    engine = OrtEngine(read_model_directory(one.path), name="sum", version="1", batch_max=4)
    [given], [following] = engine.run([np.full((2, 3), 2, np.float32)], [np.ones((2, 3), np.float32)])
    assert given.tolist() == following.tolist() == [[3, 3, 3], [3, 3, 3]]


def test_the_versions_that_the_policy_names_are_imported(triton, out):
    folder = put(triton, "m", "", onnx.perceptron())
    for version in ("2", "10"):
        shutil.copytree(folder / "1", folder / version)
    for policy, wanted in (
        ("", ["10"]), ("latest { num_versions: 2 }", ["2", "10"]), ("all { }", ["1", "2", "10"]),
        ("specific { versions: [ 2, 1 ] }", ["2", "1"]),
    ):  # fmt: skip
        (folder / "config.pbtxt").write_text(f"version_policy: {{ {policy} }}")
        assert [one.version for one in import_all(triton, out, force=True)] == wanted
    (folder / "config.pbtxt").write_text("version_policy: { specific { versions: 7 } }")
    [one] = import_all(triton, out)
    assert "version_policy: expected versions ['7'], got ['1', '2', '10']" in one.fault.message


def test_of_two_folders_of_one_number_the_one_that_is_a_version_is_imported(triton, out):
    """Triton leaves names alone that begin with a zero."""
    folder = put(triton, "mlp", f"{PERCEPTRON_CONFIG} version_policy {{ all {{ }} }}", onnx.perceptron())
    shutil.copytree(folder / "1", folder / "01")
    [one] = import_all(triton, out)
    assert (one.version, one.fault) == ("1", None)
    assert "folder 01: a version has no leading zero and at most nine digits" in one.ignored
    shutil.rmtree(folder / "1")
    shutil.rmtree(out)
    assert "from 1 on, got none; a version has no leading zero and at most nine digits: ['01']" in the_fault(
        triton, out
    )


def test_a_version_that_is_named_twice_is_imported_once(triton, out):
    words = "version_policy { specific { versions: [1, 1] } }"
    put(triton, "mlp", f"{PERCEPTRON_CONFIG} {words}", onnx.perceptron())
    assert [(one.version, one.fault) for one in import_all(triton, out)] == [("1", None)]


@pytest.mark.parametrize(
    ("config", "model", "reason"),
    [
        (
            PERCEPTRON_CONFIG.replace('"x"', '"x\\000"'),
            onnx.perceptron(),
            r"input 'x\\x00': expected a name without NUL",
        ),
        (
            None,
            onnx.model(
                [onnx.node("Tanh", ["x\0"], ["y"])], [("x\0", "float32", ("N", 3))], [("y", "float32", ("N", 3))]
            ),
            r"input 'x\\x00': expected a name without NUL",
        ),
        (
            PERCEPTRON_CONFIG + 'default_model_filename: "a\\000b"',
            onnx.perceptron(),
            r"default_model_filename: expected the name of a file, got 'a\\x00b'",
        ),
        (
            sequence(STATE % INITIAL.replace("first", "a\\000b")),
            onnx.accumulator(),
            r"'a\\x00b': expected a readable file, got: embedded null byte",
        ),
    ],
)
def test_names_with_a_nul_are_refused_by_name(triton, out, config, model, reason):
    put(triton, "m", config, model)
    fault = the_fault(triton, out)
    assert re.search(reason, fault), fault
    assert "\0" not in fault


@pytest.mark.parametrize("size", [1 << 40, (1 << 63) - 1])
def test_sizes_that_no_memory_has_are_refused_before_they_are_made(triton, out, size):
    shape = ("N", "W")
    tanh = onnx.model([onnx.node("Tanh", ["x"], ["y"])], [("x", "float32", shape)], [("y", "float32", shape)])
    put(triton, "m", None, tanh)
    told = rf"input x: expected at most {1 << 30} bytes in a row, got float32\[{size}\]"
    assert re.search(told, the_fault(triton, out, wishes=Wishes(dims={"x": (size,)})))
    sums = onnx.model(
        [onnx.node("Add", ["total_in", "x"], ["total_out"]), onnx.node("Add", ["total_out", "total_out"], ["y"])],
        [("x", "float32", ("N", 1)), ("total_in", "float32", shape)],
        [("y", "float32", shape), ("total_out", "float32", shape)],
    )
    shutil.rmtree(triton / "m")
    put(triton, "m", sequence(STATE.replace("[ 3 ]", f"[ {size} ]") % "").replace("dims: 3", "dims: 1", 1), sums)
    assert f"state total_in: expected at most {1 << 30} bytes in a row" in the_fault(triton, out)


def test_what_is_there_is_replaced_only_by_force(triton, out):
    put(triton, "mlp", None, onnx.perceptron())
    import_all(triton, out)
    [one] = import_all(triton, out)
    assert "mlp/1: exists; --force replaces it" in one.fault.message
    assert import_all(triton, out, force=True)[0].fault is None


def test_one_that_is_refused_keeps_no_neighbour_from_being_imported(triton, out):
    put(triton, "a", "max_batch_size: {", onnx.perceptron())
    put(triton, "b", PERCEPTRON_CONFIG, onnx.perceptron())
    (triton / "c").mkdir()
    outcomes = import_all(triton, out)
    assert [one.fault is None for one in outcomes] == [False, True, False]
    assert [folder.name for folder in out.iterdir()] == ["b"]


# Control tensors


@pytest.mark.parametrize("controls", [("START",), ("READY",), ("START", "READY")])
def test_control_tensors_say_what_they_say_to_triton(triton, out, controls):
    """START is true at a session's first step alone, so the total begins anew, whatever it was before."""
    config = sequence(" ".join([*(control(name, name) for name in controls), STATE % INITIAL]))
    put(triton, "m", config, controlled(*controls), initial={"first": struct.pack("<3f", 5, 5, 5)})
    [one] = import_all(triton, out)
    assert one.fault is None, one.fault
    x = np.random.default_rng(2).standard_normal((6, 3)).astype(np.float32)
    direct, total, wanted = ort.InferenceSession(controlled(*controls)), np.full((1, 3), 5, np.float32), []
    for step in range(len(x)):
        fed = {"START": np.full((1, 1), step == 0, np.float32), "READY": np.ones((1, 1), np.float32)}
        feeds = {"x": x[step : step + 1], "total_in": total, **{name: fed[name] for name in controls}}
        y, total = direct.run(["y", "total_out"], feeds)
        wanted.append(y[0])
    with test_server(load_models(out, batch_max=4)) as server, Client(server.target) as client:
        session = client.session("m")
        np.testing.assert_array_equal(session.step(x[:2]), wanted[:2])
        fork = session.fork()
        np.testing.assert_array_equal(session.step(x[2:]), wanted[2:])
        np.testing.assert_array_equal(fork.step(x[2:]), wanted[2:])
        assert session.state("*").keys() == {"total_in", *controls}


@pytest.mark.parametrize(
    ("dtype", "values", "first", "later"),
    [
        ("int32", "int32_false_true: [ 3, 7 ]", 7, 3),
        ("float32", "fp32_false_true: [ 1.5, -1 ]", -1, 1.5),
        ("bool", "bool_false_true: [ true, false ]", False, True),
    ],
)
def test_a_flag_has_the_values_and_the_dtype_that_the_config_gives_it(triton, out, dtype, values, first, later):
    graph = onnx.model(
        [onnx.node("Identity", ["START"], ["y"]), onnx.node("Identity", ["x"], ["z"])],
        [("x", "float32", ("N", 3)), ("START", dtype, ("N", 1))],
        [("y", dtype, ("N", 1)), ("z", "float32", ("N", 3))],
    )
    put(triton, "m", f"sequence_batching {{ {control('START', 'START', values)} }}", graph)
    [one] = import_all(triton, out)
    assert one.fault is None, one.fault
    y = read_model_directory(one.path).golden.outputs[0]
    assert y[:, 0].tolist() == [first] + [later] * (len(y) - 1)


def test_end_and_the_id_of_a_sequence_are_refused_until_the_user_says_a_constant(triton, out):
    config = sequence(" ".join([control("END", "END"), STATE % INITIAL]))
    put(triton, "m", config, controlled("END"), initial={"first": bytes(12)})
    assert "control END: CONTROL_SEQUENCE_END cannot be fed" in (text := the_fault(triton, out))
    assert "--constant END=0" in text
    [one] = import_all(triton, out, wishes=Wishes(constants={"END": 0.0}))
    assert one.fault is None, one.fault
    assert one.notes == ("control END: is 0 at every step",)


def test_an_id_of_a_sequence_is_fed_as_the_constant_that_the_user_says(triton, out):
    graph = onnx.model(
        [onnx.node("Identity", ["ID"], ["y"]), onnx.node("Identity", ["x"], ["z"])],
        [("x", "float32", ("N", 3)), ("ID", "uint64", ("N", 1))],
        [("y", "uint64", ("N", 1)), ("z", "float32", ("N", 3))],
    )
    put(triton, "m", f"sequence_batching {{ {control('ID', 'CORRID', 'data_type: TYPE_UINT64')} }}", graph)
    assert "control ID: CONTROL_SEQUENCE_CORRID cannot be fed" in the_fault(triton, out)
    [one] = import_all(triton, out, wishes=Wishes(constants={"ID": 42}))
    assert one.fault is None, one.fault
    assert set(read_model_directory(one.path).golden.outputs[0].ravel().tolist()) == {42}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            control("START", "START", ""),
            "control START: expected one of int32, fp32 and bool_false_true with two values",
        ),
        (control("START", "START", "fp32_false_true: [ 1 ]"), "bool_false_true with two values"),
        (control("START", "START", "fp32_false_true: [ 0, 1 ] int32_false_true: [ 0, 1 ]"), "with two values"),
        (
            control("START", "START", "int32_false_true: [ 0, 1 ]"),
            r"control START: expected what the graph has .*int32\[1\]",
        ),
        (control("BEGIN", "START"), "control BEGIN: is not in the graph, whose inputs are"),
        (
            control("START", "START").replace("CONTROL_SEQUENCE_START", "9"),
            "control START: expected a kind of .*, got 9",
        ),
        ('control_input { name: "START" }', "control START: expected one control, got 0"),
        ("", "graph input START: is in the config neither an input nor a state nor a control"),
    ],
)
def test_a_control_that_does_not_fit_is_refused(triton, out, words, reason):
    put(triton, "m", sequence(f"{words} {STATE % ''}"), controlled("START"))
    assert re.search(reason, text := the_fault(triton, out)), text


def test_a_graph_that_is_too_old_for_flags_is_refused(triton, out, monkeypatch):
    monkeypatch.setattr(onnx, "OPSET", 7)
    put(triton, "m", sequence(f"{control('START', 'START')} {STATE % ''}"), controlled("START"))
    assert "control START: expected a graph of opset 8 or newer, got 7" in the_fault(triton, out)


# Shapes


def test_sizes_that_are_left_open_are_for_the_user_to_say(triton, out):
    graph = onnx.model(
        [onnx.node("Tanh", ["x"], ["y"])], [("x", "float32", ("N", "W", 2))], [("y", "float32", ("N", "W", 2))]
    )
    put(triton, "m", 'max_batch_size: 4 input { name: "x" data_type: TYPE_FP32 dims: [ -1, -1 ] }', graph)
    assert "input x: expected a shape of fixed sizes, got [-1, -1]: say what it is with --dims x=N,2" in the_fault(
        triton, out
    )
    assert "--dims x: expected sizes that fit" in the_fault(triton, out, wishes=Wishes(dims={"x": (5, 3)}))
    assert "--dims x: expected sizes that fit" in the_fault(triton, out, wishes=Wishes(dims={"x": (5,)}))
    assert "--dims z: is no input" in the_fault(triton, out, wishes=Wishes(dims={"x": (5, 2), "z": (1,)}))
    [one] = import_all(triton, out, wishes=Wishes(dims={"x": (5, 2)}))
    assert str(read_model_directory(one.path).spec.outputs[0]) == "float32[5, 2]"


@pytest.mark.parametrize(
    ("config", "model", "reason"),
    [
        (
            PERCEPTRON_CONFIG.replace("16", "0"),
            onnx.perceptron(),
            "max_batch_size: 0 says that tensors have no batch axis",
        ),
        (
            None,
            onnx.perceptron(batch=1),
            r"input x: expected the graph's first axis to be a batch of any size, got float32\[1, 8\]",
        ),
        (
            PERCEPTRON_CONFIG.replace("dims: 8", "dims: 9"),
            onnx.perceptron(),
            r"input x: expected the shape of the graph, float32\[\?, 8\], got dims \[9\]",
        ),
        (
            PERCEPTRON_CONFIG.replace("dims: 8", "dims: [ 1, 8 ]"),
            onnx.perceptron(),
            r"input x: expected what the graph has after the batch axis",
        ),
        (
            PERCEPTRON_CONFIG.replace("dims: 4", "dims: 5"),
            onnx.perceptron(),
            r"output y: expected the shape of the graph",
        ),
        (PERCEPTRON_CONFIG.replace("TYPE_FP32 dims: 8", "TYPE_INT64 dims: 8"), onnx.perceptron(), r"got int64\[8\]"),
        (
            PERCEPTRON_CONFIG.replace("TYPE_FP32 dims: 8", "TYPE_STRING dims: 8"),
            onnx.perceptron(),
            "input x: expected a data_type of .*, got TYPE_STRING",
        ),
        (PERCEPTRON_CONFIG.replace("TYPE_FP32 dims: 8", "TYPE_BF16 dims: 8"), onnx.perceptron(), "got TYPE_BF16"),
        (PERCEPTRON_CONFIG.replace("TYPE_FP32 dims: 8", "-1 dims: 8"), onnx.perceptron(), "a data_type of .*, got -1"),
        (PERCEPTRON_CONFIG.replace("data_type: TYPE_FP32 dims: 8", "dims: 8"), onnx.perceptron(), "got TYPE_INVALID"),
        (
            PERCEPTRON_CONFIG.replace('"x"', '"ex"'),
            onnx.perceptron(),
            r"input ex: is not in the graph, which has \['x'\]",
        ),
        (
            PERCEPTRON_CONFIG.replace('"y"', '"why"'),
            onnx.perceptron(),
            r"output why: is not in the graph, which has \['y'\]",
        ),
        (
            PERCEPTRON_CONFIG + 'input { name: "x" data_type: TYPE_FP32 dims: 8 }',
            onnx.perceptron(),
            "graph input x: expected to be named once",
        ),
        ('name: "other"', onnx.perceptron(), "name: expected that of its folder, m, got 'other'"),
        ('default_model_filename: "../model.onnx"', onnx.perceptron(), "expected the model as one file"),
        ('default_model_filename: "other.onnx"', onnx.perceptron(), "expected the model as one file, got none"),
        (None, b"", "expected an ONNX model"),
        (None, b"\xff" * 40, "expected an ONNX model, got bytes that are none"),
        (None, onnx.perceptron()[:-30], "expected an ONNX model|onnxruntime refuses it"),
    ],
)
def test_what_config_and_graph_do_not_agree_on_is_refused(triton, out, config, model, reason):
    put(triton, "m", config, model)
    assert re.search(reason, text := the_fault(triton, out)), text


def test_a_graph_of_strings_is_refused(triton, out):
    graph = onnx.model([onnx.node("Identity", ["x"], ["y"])], [("x", "string", ("N", 2))], [("y", "string", ("N", 2))])
    put(triton, "m", None, graph)
    assert "input x: expected a dtype of float32" in the_fault(triton, out)


def test_operators_that_onnxruntime_does_not_have_are_its_to_refuse(triton, out):
    graph = onnx.model([onnx.node("Sing", ["x"], ["y"])], [("x", "float32", ("N", 2))], [("y", "float32", ("N", 2))])
    put(triton, "m", None, graph)
    assert "onnxruntime refuses it" in the_fault(triton, out)


def test_a_graph_whose_weights_are_in_another_file_is_refused(triton, out, tmp_path, monkeypatch):
    folder = put(triton, "m", None, onnx.scaled_elsewhere("weights.bin"))
    for place in (folder / "1", tmp_path):  # Also where a file of that name is in the folder that the import runs in.
        (place / "weights.bin").write_bytes(np.ones(3, np.float32).tobytes())
    monkeypatch.chdir(tmp_path)
    assert "expected all weights in this file" in (text := the_fault(triton, out))
    assert "'W'" in text


@pytest.mark.parametrize("name", ["config.pbtxt", "initial_state/first"])
def test_a_pipe_is_not_waited_for(triton, out, name):
    folder = put(triton, "m", sequence(STATE % INITIAL), onnx.accumulator(), initial={"first": bytes(12)})
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert "is no file" in the_fault(triton, out)


# States


@pytest.mark.parametrize(
    ("state", "initial", "reason"),
    [
        (
            (STATE % "").replace("total_in", "memory"),
            {},
            "state memory: expected an input and an output of the graph, which has no input 'memory'",
        ),
        ((STATE % "").replace("total_out", "memory"), {}, "state total_in: expected .*which has no output 'memory'"),
        (
            (STATE % "").replace("[ 3 ]", "[ 4 ]"),
            {},
            r"state total_in: expected the shape of the graph, float32\[\?, 3\], got dims \[4\]",
        ),
        (
            (STATE % "").replace("FP32", "FP64"),
            {},
            r"state total_in: expected what the graph has after the batch axis, float32\[\?, 3\], got float64\[3\]",
        ),
        ((STATE % "").replace("FP32", "STRING"), {}, "state total_in: expected a data_type of .*, got TYPE_STRING"),
        ((STATE % "") + (STATE % ""), {}, "graph input total_in: expected to be named once.*state output total_out"),
        (STATE % INITIAL, {}, "initial_state: 'first': expected a readable file, got: No such file"),
        (STATE % INITIAL, {"first": bytes(11)}, r"'first': expected 12 bytes of float32\[3\], got 11 bytes"),
        (STATE % INITIAL.replace("first", "../1/model.onnx"), {}, "got: a name without folders"),
        (
            STATE % INITIAL.replace("[ 3 ]", "[ 4 ]"),
            {"first": bytes(16)},
            r"initial_state: expected float32\[3\], as the state is, got float32\[4\]",
        ),
        (STATE % INITIAL.replace("FP32", "INT32"), {"first": bytes(12)}, r"got int32\[3\]"),
        (STATE % (INITIAL + INITIAL), {"first": bytes(12)}, "initial_state: expected one, got 2"),
        (STATE % "initial_state { data_type: TYPE_FP32 dims: 3 }", {}, "expected zero_data or data_file, got neither"),
        ("", {}, "graph input total_in: is in the config neither an input nor a state nor a control"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(triton, out, state, initial, reason):
    put(triton, "m", sequence(state), onnx.accumulator(), initial=initial)
    assert re.search(reason, text := the_fault(triton, out)), text


def test_a_state_that_grows_is_refused(triton, out):
    shape = ("N", "T")
    graph = onnx.model(
        [onnx.node("Add", ["m", "x"], ["n"]), onnx.node("Identity", ["n"], ["y"])],
        [("x", "float32", ("N", 1)), ("m", "float32", shape)],
        [("y", "float32", shape), ("n", "float32", shape)],
    )
    state = 'state { input_name: "m" output_name: "n" data_type: TYPE_FP32 dims: [ -1 ] }'
    put(triton, "m", f"sequence_batching {{ {state} }}", graph)
    assert "state m: expected a shape of fixed sizes, got [-1]" in the_fault(triton, out)


def test_a_state_whose_size_changes_in_a_step_is_refused(triton, out):
    graph = onnx.model(
        [onnx.node("Add", ["m", "x"], ["n"]), onnx.node("Identity", ["n"], ["y"])],
        [("x", "float32", ("N", 3)), ("m", "float32", ("N", 1))],
        [("y", "float32", ("N", 3)), ("n", "float32", ("N", "W"))],
    )
    state = 'state { input_name: "m" output_name: "n" data_type: TYPE_FP32 dims: [ 1 ] }'
    put(triton, "m", f"sequence_batching {{ {state} }}", graph)
    text = the_fault(triton, out)
    assert "state m: expected float32[1, 1] after step 0, got float32[1, 3]" in text


def test_a_run_that_leaves_infinity_is_refused_until_it_has_inputs_of_the_users(triton, out):
    graph = onnx.model(
        [onnx.node("Div", ["one", "total_in"], ["half"]), onnx.node("Add", ["half", "x"], ["total_out"]),
         onnx.node("Identity", ["total_out"], ["y"])],
        [("x", "float32", ("N", 3)), ("total_in", "float32", ("N", 3))],
        [("y", "float32", ("N", 3)), ("total_out", "float32", ("N", 3))],
        {"one": np.ones(1, np.float32)},
    )  # fmt: skip
    put(triton, "m", sequence(STATE % ""), graph)
    text = the_fault(triton, out)
    assert "state total_in: expected finite numbers after step 0, got NaN or infinity; --example FILE" in text
    config = (triton / "m" / "config.pbtxt").read_text().replace("dims: [ 3 ]  }", f"dims: [ 3 ] {INITIAL} }}")
    shutil.rmtree(triton / "m")
    put(triton, "m", config, graph, initial={"first": struct.pack("<3f", 1, 1, 1)})
    [one] = import_all(triton, out, example=lambda specs: {"x": np.ones((9, 3), np.float32)})
    assert one.fault is None, one.fault
    assert read_model_directory(one.path).golden.steps == 9


def test_inputs_that_the_graph_does_not_take_ask_for_an_example(triton, out):
    table = np.arange(4, dtype=np.float32)
    graph = onnx.model(
        [onnx.node("Sub", ["i", "two"], ["j"]), onnx.node("Gather", ["table", "j"], ["y"])],
        [("i", "int64", ("N", 1))], [("y", "float32", ("N", 1))],
        {"table": table, "two": np.array([9], np.int64)},
    )  # fmt: skip
    put(triton, "m", None, graph)
    assert "--example FILE.npz has it run with inputs of yours" in the_fault(triton, out)

    def refused(specs):
        raise InvalidInput("x.npz: expected the same T >= 1 steps")

    assert "--example: x.npz: expected" in the_fault(triton, out, example=refused)
    [one] = import_all(triton, out, example=lambda specs: {"i": np.array([[9], [10], [12]], np.int64)})
    assert one.fault is None, one.fault


# Repositories


def test_a_folder_that_is_no_repository_is_refused(triton, out, tmp_path):
    put(triton, "mlp", PERCEPTRON_CONFIG, onnx.perceptron())
    with pytest.raises(SettingsFault, match="is a model of a Triton repository, expected the repository"):
        import_all(triton / "mlp", out)
    with pytest.raises(SettingsFault, match="which is not a folder"):
        import_all(tmp_path / "nowhere", out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SettingsFault, match="expected folders of models"):
        import_all(tmp_path / "empty", out)
    with pytest.raises(SettingsFault, match=r"expected folders of models \['tts'\], got \['mlp'\]"):
        import_all(triton, out, models=["tts"])


def test_the_models_that_are_asked_for_are_imported_alone(triton, out):
    put(triton, "a", None, onnx.perceptron())
    put(triton, "b", None, onnx.perceptron())
    assert [one.model for one in import_all(triton, out, models=["b"])] == ["b"]


def test_a_config_that_is_no_text_is_refused(triton, out):
    put(triton, "m", None, onnx.perceptron())
    (triton / "m" / "config.pbtxt").write_bytes(b"\xff\xfe\x00")
    assert "config.pbtxt: expected a readable text" in the_fault(triton, out)


# Anything

WORDS = (
    *"{}[]:;,<>", "-1", "0", "4", "1000000000000", "1e400", "true", '""', '"x"', '"total_in"', "TYPE_FP64",
    "TYPE_STRING", "dims", "input", "output", "state", "initial_state", "data_file", "max_batch_size", "reshape",
    "control_input", "name",
)  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_config_and_graph_are_a_model_is_imported_or_refused_for_a_reason(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("any")
    words, graph = re.findall(r'"[^"]*"|\w+|[^\s\w]', SUM_CONFIG), bytearray(onnx.accumulator())
    for place in data.draw(st.lists(st.integers(0, len(words) - 1), max_size=3)):
        words[place] = data.draw(st.sampled_from(WORDS))
    for place in data.draw(st.lists(st.integers(0, len(graph) - 1), max_size=3)):
        graph[place] = data.draw(st.integers(0, 255))
    put(folder / "triton", "sum", " ".join(words), bytes(graph))
    for one in import_all(folder / "triton", folder / "models"):
        assert (one.fault is None) == (one.path is not None)
        assert one.fault is None or "cannot be imported" not in one.fault.message
    shutil.rmtree(folder)
