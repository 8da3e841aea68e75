"""An ONNX graph as bytes: what goes in and out, and the little that an import changes. Pure, and without ONNX.

Rules of this file: a graph that needs no change keeps its bytes; what is not understood is carried along.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from ntm_serve.errors import ModelRejected
from ntm_serve.graph import graph_pb2
from ntm_serve.spec import Array

# Of a constant's data.
EXTERNAL = 1

# Expand is from this one on.
OPSET_MIN = 8

DTYPE_OF_ELEMENT = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip
ELEMENT_OF_DTYPE = {dtype: element for element, dtype in DTYPE_OF_ELEMENT.items()}


class GraphTensor(NamedTuple):
    """What goes in or out. shape: with the batch axis; a number where it is fixed, None where it is not."""

    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True)
class Graph:
    """A graph's own description: inputs and outputs by name, and the version of its operators."""

    content: bytes
    inputs: Mapping[str, GraphTensor]
    outputs: Mapping[str, GraphTensor]
    opset: int


class Flag(NamedTuple):
    """A graph input that becomes a state: it is what it is before the first step, and `later` `[1]` after any."""

    graph_input: str
    graph_output: str
    later: Array


def read_graph(content: bytes, name: object) -> Graph:
    """A graph from the bytes of its file; `name` is for messages. Raises ModelRejected."""
    try:
        model = graph_pb2.Model.FromString(content)
    except DecodeError as fault:
        raise ModelRejected(f"{name}: expected an ONNX model, got bytes that are none") from fault
    if not model.graph.output:
        raise ModelRejected(f"{name}: expected an ONNX model, got a graph without outputs")
    elsewhere = [one.name for one in model.graph.initializer if one.data_location == EXTERNAL]
    if elsewhere:
        raise ModelRejected(
            f"{name}: expected all weights in this file, as onnx.save(onnx.load(...)) writes them, "
            f"got {len(elsewhere)} in others, {elsewhere[0]!r} first"
        )
    constants = {one.name for one in model.graph.initializer}  # Old ones are listed among the inputs as well.
    return Graph(
        content=content,
        inputs={one.name: _tensor(one) for one in model.graph.input if one.name not in constants},
        outputs={one.name: _tensor(one) for one in model.graph.output},
        opset=max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0),
    )


def changed(graph: Graph, *, flags: Iterable[Flag], left_out: Iterable[str]) -> bytes:
    """The graph with an output more for each flag, and without the outputs `left_out`."""
    flags, gone = tuple(flags), set(left_out)
    if not flags and not gone:
        return graph.content
    model = graph_pb2.Model.FromString(graph.content)
    kept = [one for one in model.graph.output if one.name not in gone]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    for flag in flags:
        _add_flag(model.graph, flag)
    return model.SerializeToString()


def _add_flag(graph: graph_pb2.Graph, flag: Flag) -> None:
    """later, for as many rows as the flag's input has."""
    later, shape = f"{flag.graph_output}/later", f"{flag.graph_output}/shape"
    element = ELEMENT_OF_DTYPE[flag.later.dtype.name]
    graph.initializer.add(name=later, dims=[1], data_type=element, raw_data=np.ascontiguousarray(flag.later).tobytes())
    graph.node.add(name=shape, op_type="Shape", input=[flag.graph_input], output=[shape])
    graph.node.add(name=flag.graph_output, op_type="Expand", input=[later, shape], output=[flag.graph_output])
    made = graph.output.add(name=flag.graph_output)
    made.type.tensor_type.elem_type = element
    made.type.tensor_type.shape.dim.add(dim_param="batch")
    made.type.tensor_type.shape.dim.add(dim_value=1)


def _tensor(tensor: graph_pb2.Tensor) -> GraphTensor:
    kind = tensor.type.tensor_type
    shape = tuple(one.dim_value if one.WhichOneof("value") == "dim_value" else None for one in kind.shape.dim)
    return GraphTensor(DTYPE_OF_ELEMENT.get(kind.elem_type, f"element type {kind.elem_type}"), shape)
