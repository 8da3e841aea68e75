"""A model directory with every kind of tensor: several inputs and outputs, and state that is no float."""

import numpy as np

from .model_directories import write_model
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
    return write_model(repository / name / "1", graph(), INPUTS, OUTPUTS, STATE, INITIAL, inputs_of(32, seed=1))
