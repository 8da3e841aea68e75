from ntm_serve.v1 import error_pb2 as _error_pb2
from ntm_serve.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListModelsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListModelsResponse(_message.Message):
    __slots__ = ("models",)
    MODELS_FIELD_NUMBER: _ClassVar[int]
    models: _containers.RepeatedCompositeFieldContainer[Model]
    def __init__(self, models: _Optional[_Iterable[_Union[Model, _Mapping]]] = ...) -> None: ...

class GetModelRequest(_message.Message):
    __slots__ = ("name", "version")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ...) -> None: ...

class GetModelResponse(_message.Message):
    __slots__ = ("model",)
    MODEL_FIELD_NUMBER: _ClassVar[int]
    model: Model
    def __init__(self, model: _Optional[_Union[Model, _Mapping]] = ...) -> None: ...

class Model(_message.Message):
    __slots__ = ("name", "version", "ready", "fault", "family", "task", "licence", "digest", "engine", "inputs", "outputs", "state", "state_bytes", "batch_max", "batch_independence", "sessions", "axes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    READY_FIELD_NUMBER: _ClassVar[int]
    FAULT_FIELD_NUMBER: _ClassVar[int]
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    LICENCE_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ENGINE_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    STATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    BATCH_MAX_FIELD_NUMBER: _ClassVar[int]
    BATCH_INDEPENDENCE_FIELD_NUMBER: _ClassVar[int]
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    AXES_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    ready: bool
    fault: _error_pb2.Error
    family: str
    task: str
    licence: str
    digest: str
    engine: str
    inputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.TensorSpec]
    outputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.TensorSpec]
    state: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.TensorSpec]
    state_bytes: int
    batch_max: int
    batch_independence: BatchIndependence
    sessions: int
    axes: _containers.RepeatedCompositeFieldContainer[Axis]
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., ready: _Optional[bool] = ..., fault: _Optional[_Union[_error_pb2.Error, _Mapping]] = ..., family: _Optional[str] = ..., task: _Optional[str] = ..., licence: _Optional[str] = ..., digest: _Optional[str] = ..., engine: _Optional[str] = ..., inputs: _Optional[_Iterable[_Union[_tensor_pb2.TensorSpec, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[_tensor_pb2.TensorSpec, _Mapping]]] = ..., state: _Optional[_Iterable[_Union[_tensor_pb2.TensorSpec, _Mapping]]] = ..., state_bytes: _Optional[int] = ..., batch_max: _Optional[int] = ..., batch_independence: _Optional[_Union[BatchIndependence, _Mapping]] = ..., sessions: _Optional[int] = ..., axes: _Optional[_Iterable[_Union[Axis, _Mapping]]] = ...) -> None: ...

class Axis(_message.Message):
    __slots__ = ("name", "size", "size_min", "size_max")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    SIZE_MIN_FIELD_NUMBER: _ClassVar[int]
    SIZE_MAX_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    size_min: int
    size_max: int
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ..., size_min: _Optional[int] = ..., size_max: _Optional[int] = ...) -> None: ...

class BatchIndependence(_message.Message):
    __slots__ = ("holds", "padding", "rows_tested")
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    PADDING_FIELD_NUMBER: _ClassVar[int]
    ROWS_TESTED_FIELD_NUMBER: _ClassVar[int]
    holds: bool
    padding: int
    rows_tested: int
    def __init__(self, holds: _Optional[bool] = ..., padding: _Optional[int] = ..., rows_tested: _Optional[int] = ...) -> None: ...
