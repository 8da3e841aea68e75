"""Tensors as the Open Inference Protocol has them: a model's inputs and outputs on its wire, and back. Pure.

Rules of this file: arrays that come as raw bytes are read-only views of them, not copies; a shape is that of one step
with the axes before it that say how many: none or 1 for one step, T for T of them, and before it a batch axis of 1.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ntm_serve.errors import InvalidInput, Unsupported
from ntm_serve.inference import service_pb2
from ntm_serve.spec import Array, StepSpec, TensorSpec

WIRE_OF_DTYPE: Mapping[str, str] = {
    "float32": "FP32",
    "float64": "FP64",
    "float16": "FP16",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "bool": "BOOL",
}

# The field of InferTensorContents; float16 has none.
_CONTENTS_OF_DTYPE: Mapping[str, str] = {
    "float32": "fp32_contents",
    "float64": "fp64_contents",
    "int8": "int_contents",
    "int16": "int_contents",
    "int32": "int_contents",
    "int64": "int64_contents",
    "uint8": "uint_contents",
    "uint16": "uint_contents",
    "uint32": "uint_contents",
    "uint64": "uint64_contents",
    "bool": "bool_contents",
}

Axes = tuple[int, ...]


class Port:
    """One input or output of a model on this wire. shape: of one step; a scalar goes as `[1]`."""

    __slots__ = ("datatype", "dtype", "name", "rank", "shape", "spec", "step_bytes")

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.datatype = WIRE_OF_DTYPE[spec.dtype]
        self.dtype: np.dtype[Any] = spec.numpy_dtype
        self.shape: Axes = spec.shape or (1,)
        self.rank = len(self.shape)
        self.step_bytes = spec.nbytes


class Ports:
    """Those of a model."""

    def __init__(self, spec: StepSpec) -> None:
        self.spec = spec
        self.inputs = {one.name: Port(one) for one in spec.inputs}
        # Whose bytes may be wrong.
        self.have_bools = any(one.dtype == "bool" for one in spec.inputs)


def arrays_of(
    ports: Ports, tensors: Sequence[service_pb2.ModelInferRequest.InferInputTensor], raw: Sequence[bytes]
) -> tuple[dict[str, Array], Axes]:
    """A request's inputs, each `[1, T, ...]`, and the axes that all of them have before those of a step. raw: the
    bytes of each, or none where the tensors have their contents. Raises InvalidInput, Unsupported.
    """
    if raw and len(raw) != len(tensors):
        raise InvalidInput(f"raw_input_contents: expected none or {len(tensors)}, one for each input, got {len(raw)}")
    arrays: dict[str, Array] = {}
    axes: Axes | None = None
    for place, tensor in enumerate(tensors):
        name = tensor.name
        port = ports.inputs.get(name)
        if port is None or name in arrays:
            raise InvalidInput(f"inputs: expected {list(ports.inputs)}, each once, got {[one.name for one in tensors]}")
        if tensor.parameters:
            expect_no_shared_memory(name, tensor.parameters)
        mine, steps = _axes_of(port, tensor)
        if axes is None:
            axes = mine
        elif axes != mine:
            raise InvalidInput(
                f"{name}: expected the axes {list(axes)} before a step's, as other inputs, got {list(mine)}"
            )
        shape = (1, steps, *port.spec.shape)
        if raw:
            if tensor.HasField("contents"):
                raise InvalidInput(f"{name}: expected contents or raw_input_contents, got both")
            arrays[name] = _array_of_raw(port, shape, raw[place])
        elif tensor.HasField("contents"):
            arrays[name] = _array_of_contents(port, shape, tensor.contents)
        else:
            raise InvalidInput(
                f"unable to find data for input tensor '{name}': expected it in raw_input_contents or in contents"
            )
    if axes is None or len(arrays) != len(ports.inputs):
        raise InvalidInput(f"inputs: expected {list(ports.inputs)}, got {[one.name for one in tensors]}")
    return arrays, axes


def expect_no_shared_memory(name: str, parameters: Mapping[str, object]) -> None:
    """Raises Unsupported."""
    for key in parameters:
        if key.startswith("shared_memory"):
            raise Unsupported(f"{name}: shared memory is not supported: send tensors in messages")


def _axes_of(port: Port, tensor: service_pb2.ModelInferRequest.InferInputTensor) -> tuple[Axes, int]:
    """The axes before those of a step, and T."""
    shape = tuple(tensor.shape)
    ahead = len(shape) - port.rank
    if tensor.datatype == port.datatype and 0 <= ahead <= 2 and shape[ahead:] == port.shape:
        if ahead == 1 and shape[0] >= 1:
            return shape[:1], shape[0]
        if ahead == 0:
            return (), 1
        if ahead == 2 and shape[0] == 1 and shape[1] >= 1:
            return shape[:2], shape[1]
    step = ", ".join(map(str, port.shape))
    raise InvalidInput(
        f"{port.name}: expected {port.datatype} [T, {step}] or [1, T, {step}] with T steps of one sequence, "
        f"got {tensor.datatype} {list(shape)}"
    )


def _array_of_raw(port: Port, shape: Axes, raw: bytes) -> Array:
    # Counted before it is believed: a shape may say anything.
    expected = shape[1] * port.step_bytes
    if len(raw) != expected:
        raise InvalidInput(f"{port.name}: expected {expected} bytes for {list(shape[1:])}, got {len(raw)}")
    if port.spec.dtype == "bool" and raw.strip(b"\0\1"):
        raise InvalidInput(f"{port.name}: expected a bool to be a byte 0 or 1")
    array: Array = np.ndarray(shape, port.dtype, raw)
    return array


def _array_of_contents(port: Port, shape: Axes, contents: service_pb2.InferTensorContents) -> Array:
    field = _CONTENTS_OF_DTYPE.get(port.spec.dtype)
    if field is None:
        raise InvalidInput(f"{port.name}: {port.datatype} has no contents; send it in raw_input_contents")
    given = [one.name for one, _ in contents.ListFields() if one.name != field]
    if given:
        raise InvalidInput(f"{port.name}: expected {field} for {port.datatype}, got {', '.join(given)}")
    values = getattr(contents, field)[:]
    expected = math.prod(shape)
    if len(values) != expected:
        raise InvalidInput(f"{port.name}: expected {expected} elements for {list(shape[1:])}, got {len(values)}")
    try:
        array: Array = np.array(values, port.dtype).reshape(shape)
    except OverflowError as fault:
        raise InvalidInput(f"{port.name}: expected numbers that are {port.datatype}: {fault}") from None
    array.flags.writeable = False
    return array
