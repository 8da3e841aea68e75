"""A model directory whose input is a token: an index that a table of so many rows knows."""

import numpy as np

from .model_directories import write_model
from .onnx_graphs import model, node

TOKENS, WIDTH = 8, 3
TABLE = np.arange(TOKENS * WIDTH, dtype=np.float32).reshape(TOKENS, WIDTH)


# What a manifest says of the token, where it says anything.
RANGE = {"token": (0, TOKENS - 1)}


def write_embedding(target, ranges=None, example=(0, 7, 3)):
    """total' = total + TABLE[token], y = total'. Another token is a fault of the runtime, but where a range says that
    there is none.
    """
    shape = ("N", 1, WIDTH)
    graph = model(
        [
            node("Gather", ["table", "token"], ["row"]),
            node("Add", ["total", "row"], ["next_total"]),
            node("Identity", ["next_total"], ["y"]),
        ],
        [("token", "int64", ("N", 1)), ("total", "float32", shape)],
        [("y", "float32", shape), ("next_total", "float32", shape)],
        {"table": TABLE},
    )
    return write_model(
        target,
        graph,
        {"token": ("int64", (1,))},
        {"y": ("float32", (1, WIDTH))},
        {"total": ("float32", (1, WIDTH), "sum")},
        {"total": np.zeros((1, WIDTH), np.float32)},
        {"token": np.array(example)[:, None]},
        ranges=ranges,
    )


def write_lookup(target, ranges=None):
    """y = TABLE[token], without state."""
    graph = model(
        [node("Gather", ["table", "token"], ["y"])],
        [("token", "int64", ("N", 1))],
        [("y", "float32", ("N", 1, WIDTH))],
        {"table": TABLE},
    )
    example = {"token": np.array([[0], [7], [3]])}
    return write_model(
        target, graph, {"token": ("int64", (1,))}, {"y": ("float32", (1, WIDTH))}, {}, {}, example, ranges=ranges
    )
