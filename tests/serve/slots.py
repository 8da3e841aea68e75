"""A memory by hand whose number of slots a session chooses: scores = memory x, w = softmax(scores), y = w memory,
memory' = memory + w x, usage' = usage + w, link' = link + w w.
"""

import numpy as np

from .model_directories import write_model
from .onnx_graphs import model, node

WIDTH, OWN, MOST = 3, 4, 12
INPUTS = {"x": ("float32", (WIDTH,))}
OUTPUTS = {"y": ("float32", (WIDTH,))}
STATE = {
    "memory": ("float32", (OWN, WIDTH), "memory"),
    "usage": ("float32", (OWN,), "usage"),
    "link": ("float32", (OWN, OWN), "link"),
}
AXES_OF = {"memory": ("slots", ""), "usage": ("slots",), "link": ("slots", "slots")}


def graph(axis="slots"):
    """axis: what the slots' axis is called; a number freezes it."""
    shapes = {"memory": (axis, WIDTH), "usage": (axis,), "link": (axis, axis)}
    state = [(name, "float32", ("N", *shape)) for name, shape in shapes.items()]
    following = [(f"next_{name}", "float32", ("N", *shape)) for name, shape in shapes.items()]
    nodes = [
        node("Unsqueeze", ["x", "second"], ["column"]),
        node("MatMul", ["memory", "column"], ["scores"]),
        node("Softmax", ["scores"], ["weights"], axis=1),
        node("Squeeze", ["weights", "second"], ["w"]),
        node("Unsqueeze", ["w", "first"], ["row"]),
        node("MatMul", ["row", "memory"], ["read"]),
        node("Squeeze", ["read", "first"], ["y"]),
        node("Unsqueeze", ["x", "first"], ["x_row"]),
        node("Mul", ["weights", "x_row"], ["written"]),
        node("Add", ["memory", "written"], ["next_memory"]),
        node("Add", ["usage", "w"], ["next_usage"]),
        node("Mul", ["weights", "row"], ["pairs"]),
        node("Add", ["link", "pairs"], ["next_link"]),
    ]
    constants = {"second": np.array([2], np.int64), "first": np.array([1], np.int64)}
    return model(
        nodes, [("x", "float32", ("N", WIDTH)), *state], [("y", "float32", ("N", WIDTH)), *following], constants
    )


def initial(slots=OWN):
    return {
        "memory": np.full((slots, WIDTH), 0.25, np.float32),
        "usage": np.zeros(slots, np.float32),
        "link": np.zeros((slots, slots), np.float32),
    }


def inputs_of(steps, seed=0):
    return {"x": np.random.default_rng(seed).standard_normal((steps, WIDTH)).astype(np.float32)}


def expected(xs, state):
    """y `[T, M]` of these steps, and the state after them: by numpy."""
    memory, used, link = (state[name].astype(np.float64) for name in STATE)
    ys = []
    for x in xs:
        scores = memory @ x
        w = np.exp(scores - scores.max())
        w /= w.sum()
        ys.append(w @ memory)
        memory, used, link = memory + np.outer(w, x), used + w, link + np.outer(w, w)
    return np.stack(ys), {"memory": memory, "usage": used, "link": link}


def write(repository, name="slots", *, version="1", axes_of=AXES_OF, axes=None, state=None, onnx=None):
    """Write it into a repository, as `<name>/<version>`."""
    axes = {"slots": (1, MOST)} if axes is None else axes
    return write_model(
        repository / name / version, onnx or graph(), INPUTS, OUTPUTS, STATE, state or initial(), inputs_of(24, seed=1),
        axes=axes, axes_of=axes_of,
    )  # fmt: skip
