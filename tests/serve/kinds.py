"""A model directory with every kind of tensor: several inputs and outputs, and state that is no float."""

import numpy as np

import ntm_serve
from ntm_serve.bundle import file_entries, npz, write_directory
from ntm_serve.engine import graph_run
from ntm_serve.manifest import (
    GOLDEN_FILE,
    INITIAL_STATE_FILE,
    MODEL_FILE,
    Exporter,
    Manifest,
    StateEntry,
    TensorEntry,
    Verification,
)
from ntm_serve.model_directory import Golden, golden_arrays

from .onnx_graphs import model, node

SLOTS, WIDTH, MARKS = 4, 3, 2

INPUTS = {"x": ("float32", (WIDTH,)), "reset": ("bool", (1,))}
OUTPUTS = {"y": ("float32", (WIDTH,)), "scores": ("float32", (SLOTS,)), "steps": ("int64", (1,))}
STATE = {
    "memory": ("float32", (SLOTS, WIDTH), "external_memory"),
    "count": ("int64", (1,), "counter"),
    "seen": ("bool", (SLOTS,), "usage"),
    "marks": ("int32", (MARKS,), "hash"),
}
INITIAL = {
    "memory": np.linspace(-1, 1, SLOTS * WIDTH, dtype=np.float32).reshape(SLOTS, WIDTH),
    "count": np.zeros(1, np.int64),
    "seen": np.zeros(SLOTS, bool),
    # As floats these would be NaN and minus infinity.
    "marks": np.array([0x7FC00000, -0x00800000], np.int32),
}


def graph():
    """Reads a memory that it never writes, and keeps in whole numbers and truths what it has read.

    scores = memory x; y = softmax(scores) memory; seen' = (seen and not reset) or scores > 0;
    count' = 0 where reset, else count + 1; marks' = 31 marks + count', modulo 2^32.
    """
    shaped = [(name, dtype, ("N", *shape)) for name, (dtype, shape, *_) in (INPUTS | STATE).items()]
    given = [(name, dtype, ("N", *shape)) for name, (dtype, shape) in OUTPUTS.items()]
    following = [(f"next_{name}", dtype, ("N", *shape)) for name, (dtype, shape, _) in STATE.items()]
    nodes = [
        node("Unsqueeze", ["x", "last"], ["column"]),
        node("MatMul", ["memory", "column"], ["products"]),
        node("Squeeze", ["products", "last"], ["scores"]),
        node("Softmax", ["scores"], ["weights"]),
        node("Unsqueeze", ["weights", "first"], ["row"]),
        node("MatMul", ["row", "memory"], ["read"]),
        node("Squeeze", ["read", "first"], ["y"]),
        node("Identity", ["memory"], ["next_memory"]),
        node("Add", ["count", "one"], ["counted"]),
        node("Where", ["reset", "zero", "counted"], ["next_count"]),
        node("Identity", ["next_count"], ["steps"]),
        node("Not", ["reset"], ["kept"]),
        node("And", ["seen", "kept"], ["seen_before"]),
        node("Greater", ["scores", "nothing"], ["seen_now"]),
        node("Or", ["seen_before", "seen_now"], ["next_seen"]),
        node("Cast", ["next_count"], ["count32"], to=6),
        node("Mul", ["marks", "factor"], ["scaled"]),
        node("Add", ["scaled", "count32"], ["next_marks"]),
    ]
    constants = {
        "last": np.array([2], np.int64),
        "first": np.array([1], np.int64),
        "one": np.array([1], np.int64),
        "zero": np.array([0], np.int64),
        "nothing": np.array([0], np.float32),
        "factor": np.array([31], np.int32),
    }
    return model(nodes, shaped, [*given, *following], constants)


def inputs_of(steps, seed=0):
    """A run of T steps of one session."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((steps, WIDTH)).astype(np.float32)
    return {"x": x, "reset": random.random((steps, 1)) < 0.2}


def expected(inputs, state=None):
    """What T steps give, outputs by name, and the state after them: by numpy."""
    state = {name: array.copy() for name, array in (INITIAL | (state or {})).items()}
    made = {name: [] for name in OUTPUTS}
    for x, reset in zip(inputs["x"], inputs["reset"], strict=True):
        scores = state["memory"] @ x
        weights = np.exp(scores - scores.max())
        state["count"] = np.where(reset, 0, state["count"] + 1)
        state["seen"] = (state["seen"] & ~reset) | (scores > 0)
        state["marks"] = (state["marks"].astype(np.int64) * 31 + state["count"]).astype(np.int32)
        made["y"].append(weights / weights.sum() @ state["memory"])
        made["scores"].append(scores)
        made["steps"].append(state["count"])
    return {name: np.stack(arrays) for name, arrays in made.items()}, state


def write(repository, name="kinds"):
    """Write it into a repository, as `<name>/1`."""
    onnx, target = graph(), repository / name / "1"
    run, inputs = graph_run(onnx, target), inputs_of(32, seed=1)
    wanted = [*OUTPUTS, *(f"next_{one}" for one in STATE)]
    states, outputs = [dict(INITIAL)], []
    for step in range(32):
        feeds = {n: array[step : step + 1] for n, array in inputs.items()}
        feeds |= {n: array[np.newaxis] for n, array in states[-1].items()}
        given = [array[0] for array in run(feeds, wanted)]
        outputs.append(given[: len(OUTPUTS)])
        states.append(dict(zip(STATE, given[len(OUTPUTS) :], strict=True)))
    manifest = Manifest(
        family="kinds",
        opset=17,
        inputs=tuple(TensorEntry(name=n, dtype=dtype, shape=shape) for n, (dtype, shape) in INPUTS.items()),
        outputs=tuple(TensorEntry(name=n, dtype=dtype, shape=shape) for n, (dtype, shape) in OUTPUTS.items()),
        state=tuple(
            StateEntry(name=n, dtype=dtype, shape=shape, role=role, graph_input=n, graph_output=f"next_{n}")
            for n, (dtype, shape, role) in STATE.items()
        ),
        files={},
        exporter=Exporter(ntm_serve=ntm_serve.__version__),
        verification=Verification(
            tolerance=1e-5, batch_sizes=(), parity_steps=0, parity_error_max=0, drift_steps=0, drift_error_max=None
        ),
    )
    golden = Golden(
        tuple(inputs.values()),
        tuple(np.stack(arrays) for arrays in zip(*outputs, strict=True)),
        tuple(np.stack([state[n] for state in states]) for n in STATE),
    )
    files = {
        MODEL_FILE: onnx,
        INITIAL_STATE_FILE: npz(INITIAL),
        GOLDEN_FILE: npz(golden_arrays(manifest.step_spec(), golden)),
    }
    signed = manifest.model_copy(update={"files": file_entries(files)}).signed()
    write_directory(target, files, signed, force=False, check=lambda _: None)
    return target
