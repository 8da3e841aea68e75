"""Small ONNX graphs as bytes, written without the onnx package: what the tests that need no torch load.

A ModelProto is a protobuf message; the numbers below are the fields of onnx.proto.
"""

import struct

import numpy as np

IR_VERSION, OPSET = 8, 17
ELEMENT = {
    "float32": 1, "uint8": 2, "int8": 3, "uint16": 4, "int16": 5, "int32": 6, "int64": 7, "string": 8, "bool": 9,
    "float16": 10, "float64": 11, "uint32": 12, "uint64": 13, "bfloat16": 16,
}  # fmt: skip


def _varint(number):
    out = bytearray()
    number &= (1 << 64) - 1
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def _field(number, value):
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _message(*fields):
    return b"".join(_field(number, value) for number, value in fields)


def node(op, inputs, outputs, **attributes):
    """attributes: whole numbers."""
    given = [(5, _message((1, name), (3, value), (20, 2))) for name, value in attributes.items()]
    return _message(*[(1, name) for name in inputs], *[(2, name) for name in outputs], (4, op), *given)


def constant(name, array):
    dims = [(1, size) for size in array.shape]
    return _message(*dims, (2, ELEMENT[array.dtype.name]), (8, name), (9, np.ascontiguousarray(array).tobytes()))


def constant_elsewhere(name, dtype, shape, file):
    """One whose bytes are in a file beside the graph's."""
    dims = [(1, size) for size in shape]
    return _message(*dims, (2, ELEMENT[dtype]), (8, name), (13, _message((1, "location"), (2, file))), (14, 1))


def tensor(name, dtype, shape):
    """shape: numbers, and words for what is symbolic."""
    dims = [(1, _message((2, one) if isinstance(one, str) else (1, one))) for one in shape]
    kind = _message((1, _message((1, ELEMENT[dtype]), (2, _message(*dims)))))
    return _message((1, name), (2, kind))


def model(nodes, inputs, outputs, constants=(), elsewhere=()):
    """inputs, outputs: (name, dtype, shape). constants: by name. elsewhere: (name, dtype, shape, file)."""
    graph = _message(
        *[(1, one) for one in nodes],
        (2, "graph"),
        *[(5, constant(name, array)) for name, array in dict(constants).items()],
        *[(5, constant_elsewhere(*one)) for one in elsewhere],
        *[(11, tensor(*one)) for one in inputs],
        *[(12, tensor(*one)) for one in outputs],
    )
    return _message((1, IR_VERSION), (7, graph), (8, _message((1, ""), (2, OPSET))))


def perceptron(width=8, hidden=16, outputs=4, *, batch="N"):
    """y = tanh(x W) V: no state."""
    random = np.random.default_rng(5)
    return model(
        [node("MatMul", ["x", "W"], ["a"]), node("Tanh", ["a"], ["h"]), node("MatMul", ["h", "V"], ["y"])],
        [("x", "float32", (batch, width))],
        [("y", "float32", (batch, outputs))],
        {
            "W": random.standard_normal((width, hidden)).astype(np.float32),
            "V": random.standard_normal((hidden, outputs)).astype(np.float32),
        },
    )


def scaled_elsewhere(file, width=3):
    """y = x W, where W [width] is in another file."""
    return model(
        [node("Mul", ["x", "W"], ["y"])],
        [("x", "float32", ("N", width))],
        [("y", "float32", ("N", width))],
        elsewhere=[("W", "float32", (width,), file)],
    )


def accumulator(width=3, *, batch="N", dtype="float32"):
    """total' = total + x, y = total' + total': a running sum by state names that a Triton user would give."""
    shape = (batch, width)
    return model(
        [node("Add", ["total_in", "x"], ["total_out"]), node("Add", ["total_out", "total_out"], ["y"])],
        [("x", dtype, shape), ("total_in", dtype, shape)],
        [("y", dtype, shape), ("total_out", dtype, shape)],
    )
