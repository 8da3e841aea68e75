"""Between the wire and the domain: tensors, specs and errors. Pure, and shared by server and client.

Rules of this file: arrays that come from the wire are read-only views of its bytes, not copies; the one
table of errors and statuses stands here.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import grpc
import numpy as np

from ntm_serve import errors
from ntm_serve.durability import Durability
from ntm_serve.errors import InvalidInput, LimitReached, NtmServeError
from ntm_serve.spec import Array, Range, StateSpec, TensorSpec, described
from ntm_serve.v1 import error_pb2, sessions_pb2, tensor_pb2

# The details of a status, as google.rpc.Status, in its trailing metadata.
DETAILS_KEY = "grpc-status-details-bin"

# What a tensor from the wire may look like: bounds on what is computed before its bytes are counted.
AXES_MAX = 32
AXIS_MAX = 2**31 - 1

CODE_OF_ERROR: Mapping[type[NtmServeError], grpc.StatusCode] = {
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.TooLarge: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.ModelUnknown: grpc.StatusCode.NOT_FOUND,
    errors.SessionUnknown: grpc.StatusCode.NOT_FOUND,
    errors.SessionClosed: grpc.StatusCode.NOT_FOUND,
    errors.SessionExpired: grpc.StatusCode.NOT_FOUND,
    errors.SessionEvicted: grpc.StatusCode.NOT_FOUND,
    errors.SessionLost: grpc.StatusCode.DATA_LOSS,
    errors.SessionExists: grpc.StatusCode.ALREADY_EXISTS,
    errors.SessionDiffers: grpc.StatusCode.FAILED_PRECONDITION,
    errors.StepAhead: grpc.StatusCode.OUT_OF_RANGE,
    errors.StepForgotten: grpc.StatusCode.OUT_OF_RANGE,
    errors.StepConflict: grpc.StatusCode.ABORTED,
    errors.StepAborted: grpc.StatusCode.ABORTED,
    errors.StepCancelled: grpc.StatusCode.CANCELLED,
    errors.NonFiniteState: grpc.StatusCode.FAILED_PRECONDITION,
    errors.SnapshotRejected: grpc.StatusCode.DATA_LOSS,
    errors.CallerFault: grpc.StatusCode.INVALID_ARGUMENT,
    errors.LimitReached: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.ServerDraining: grpc.StatusCode.UNAVAILABLE,
    errors.StreamAged: grpc.StatusCode.UNAVAILABLE,
    errors.OwnedElsewhere: grpc.StatusCode.UNAVAILABLE,
    errors.StoreUnavailable: grpc.StatusCode.UNAVAILABLE,
    errors.ServerUnreachable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlinePassed: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.ModelDamaged: grpc.StatusCode.DATA_LOSS,
    errors.StoreDamaged: grpc.StatusCode.DATA_LOSS,
    errors.StoreConflict: grpc.StatusCode.DATA_LOSS,
    errors.ModelIncomplete: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ModelRejected: grpc.StatusCode.FAILED_PRECONDITION,
    errors.SettingsFault: grpc.StatusCode.FAILED_PRECONDITION,
    errors.OperatorFault: grpc.StatusCode.FAILED_PRECONDITION,
    errors.EngineFault: grpc.StatusCode.INTERNAL,
    errors.NtmServeError: grpc.StatusCode.INTERNAL,
}

_WIRE_OF_DTYPE: Mapping[str, tensor_pb2.DataType] = {
    "float32": tensor_pb2.DATA_TYPE_FLOAT32,
    "float64": tensor_pb2.DATA_TYPE_FLOAT64,
    "float16": tensor_pb2.DATA_TYPE_FLOAT16,
    "int8": tensor_pb2.DATA_TYPE_INT8,
    "int16": tensor_pb2.DATA_TYPE_INT16,
    "int32": tensor_pb2.DATA_TYPE_INT32,
    "int64": tensor_pb2.DATA_TYPE_INT64,
    "uint8": tensor_pb2.DATA_TYPE_UINT8,
    "uint16": tensor_pb2.DATA_TYPE_UINT16,
    "uint32": tensor_pb2.DATA_TYPE_UINT32,
    "uint64": tensor_pb2.DATA_TYPE_UINT64,
    "bool": tensor_pb2.DATA_TYPE_BOOL,
}
_DTYPE_OF_WIRE: Mapping[int, str] = {value: dtype for dtype, value in _WIRE_OF_DTYPE.items()}
_WIRE_OF_NUMPY = {np.dtype(dtype): value for dtype, value in _WIRE_OF_DTYPE.items()}
_NUMPY_OF_WIRE = {value: np.dtype(dtype).newbyteorder("<") for value, dtype in _DTYPE_OF_WIRE.items()}


_WIRE_OF_DURABILITY: Mapping[Durability, sessions_pb2.Durability] = {
    Durability.MEMORY: sessions_pb2.DURABILITY_MEMORY,
    Durability.PROCESS: sessions_pb2.DURABILITY_PROCESS,
    Durability.DISK: sessions_pb2.DURABILITY_DISK,
}
_DURABILITY_OF_WIRE: Mapping[int, Durability] = {value: word for word, value in _WIRE_OF_DURABILITY.items()}


def wire_durability(durability: Durability | None) -> sessions_pb2.Durability:
    """A durability as it travels; None is what the server is set to."""
    return sessions_pb2.DURABILITY_UNSPECIFIED if durability is None else _WIRE_OF_DURABILITY[durability]


def durability_of(value: int) -> Durability | None:
    """A durability that came from the wire; None where it says none. Raises InvalidInput."""
    if value == sessions_pb2.DURABILITY_UNSPECIFIED:
        return None
    if value not in _DURABILITY_OF_WIRE:
        raise InvalidInput(f"durability: expected {', '.join(_WIRE_OF_DURABILITY)}, got number {value}")
    return _DURABILITY_OF_WIRE[value]


def tensor_of(name: str, array: Array) -> tensor_pb2.Tensor:
    """An array as it travels. Raises InvalidInput for a dtype that the wire does not carry."""
    dtype = _WIRE_OF_NUMPY.get(array.dtype)
    if dtype is None:
        raise InvalidInput(f"{name}: expected a dtype of {', '.join(_WIRE_OF_DTYPE)}, got {array.dtype}")
    return tensor_pb2.Tensor(name=name, dtype=dtype, shape=array.shape, data=array.tobytes())


def array_of(tensor: tensor_pb2.Tensor) -> Array:
    """A tensor's values: a read-only view of its bytes. Raises InvalidInput."""
    dtype, shape, data = _NUMPY_OF_WIRE.get(tensor.dtype), tuple(tensor.shape), tensor.data
    if dtype is not None and len(shape) <= AXES_MAX:
        try:
            array: Array = np.ndarray(shape, dtype, data)
        except (TypeError, ValueError):  # The bytes are too few, or the shape is none.
            pass
        else:
            if array.nbytes == len(data) and (tensor.dtype != tensor_pb2.DATA_TYPE_BOOL or _are_bools(data)):
                return array
    raise _misfit(tensor)


def _are_bools(data: bytes) -> bool:
    return not data.strip(b"\0\1")


def _misfit(tensor: tensor_pb2.Tensor) -> InvalidInput:
    """What is wrong with a tensor."""
    dtype = _NUMPY_OF_WIRE.get(tensor.dtype)
    shape = tuple(tensor.shape)
    if dtype is None:
        return InvalidInput(f"{tensor.name}: expected a known dtype, got number {tensor.dtype}")
    if len(shape) > AXES_MAX:
        return InvalidInput(f"{tensor.name}: expected at most {AXES_MAX} axes, got {len(shape)}")
    if not 0 <= min(shape, default=0) <= max(shape, default=0) <= AXIS_MAX:
        return InvalidInput(f"{tensor.name}: expected axes of 0 to {AXIS_MAX}, got {list(shape)}")
    if len(tensor.data) == math.prod(shape) * dtype.itemsize:
        return InvalidInput(f"{tensor.name}: expected a bool to be a byte 0 or 1")
    return InvalidInput(
        f"{tensor.name}: expected {math.prod(shape) * dtype.itemsize} bytes for {described(dtype.name, shape)}, "
        f"got {len(tensor.data)}"
    )


def arrays_of(tensors: Iterable[tensor_pb2.Tensor]) -> dict[str, Array]:
    """Tensors by name. Raises InvalidInput, also where a name stands twice."""
    arrays: dict[str, Array] = {}
    for tensor in tensors:
        if tensor.name in arrays:
            raise InvalidInput(f"{tensor.name}: expected each tensor once in a message")
        arrays[tensor.name] = array_of(tensor)
    return arrays


def wire_spec(spec: TensorSpec, *, role: str = "", axes: Sequence[str] = ()) -> tensor_pb2.TensorSpec:
    """A spec as it travels."""
    dtype = _WIRE_OF_DTYPE[spec.dtype]
    bounds = None if spec.range is None else tensor_pb2.Range(min=spec.range.min, max=spec.range.max)
    return tensor_pb2.TensorSpec(name=spec.name, dtype=dtype, shape=spec.shape, role=role, axes=axes, range=bounds)


def spec_of(spec: tensor_pb2.TensorSpec) -> TensorSpec:
    """A spec that came from the wire."""
    bounds = Range(spec.range.min, spec.range.max) if spec.HasField("range") else None
    return TensorSpec(spec.name, _DTYPE_OF_WIRE[spec.dtype], tuple(spec.shape), range=bounds)


def state_spec_of(spec: tensor_pb2.TensorSpec) -> StateSpec:
    """That of a state tensor that came from the wire."""
    return StateSpec(spec.name, _DTYPE_OF_WIRE[spec.dtype], tuple(spec.shape), spec.role, tuple(spec.axes))


def code_of(error: NtmServeError) -> grpc.StatusCode:
    """The status of an error: that of its class, or of the nearest class above it."""
    return next(CODE_OF_ERROR[kind] for kind in type(error).__mro__ if kind in CODE_OF_ERROR)


def wire_error(error: NtmServeError) -> error_pb2.Error:
    """An error as it travels inside a reply."""
    number: int = code_of(error).value[0]
    travelling = error_pb2.Error(code=number, reason=error.reason, message=error.message, metadata=error.fields)
    if isinstance(error, LimitReached):
        travelling.retry_after.FromMilliseconds(round(error.retry_after_s * 1000))
    return travelling


def error_of(*, reason: str, message: str, metadata: Mapping[str, str], retry_after_s: float | None) -> NtmServeError:
    """The error that was sent: of the same class where the reason is known."""
    kind = errors.ERROR_OF_REASON.get(reason, NtmServeError)
    if issubclass(kind, LimitReached):
        return kind(message, fields=metadata, retry_after_s=1.0 if retry_after_s is None else retry_after_s)
    return kind(message, fields=metadata)


def error_of_wire(error: error_pb2.Error) -> NtmServeError:
    """The error inside a reply."""
    retry_after_s = error.retry_after.ToMilliseconds() / 1000 if error.HasField("retry_after") else None
    return error_of(
        reason=error.reason, message=error.message, metadata=dict(error.metadata), retry_after_s=retry_after_s
    )
