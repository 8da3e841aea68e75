import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from ntm_serve.v1 import error_pb2 as _error_pb2
from ntm_serve.v1 import tensor_pb2 as _tensor_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Durability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DURABILITY_UNSPECIFIED: _ClassVar[Durability]
    DURABILITY_MEMORY: _ClassVar[Durability]
    DURABILITY_PROCESS: _ClassVar[Durability]
    DURABILITY_DISK: _ClassVar[Durability]

class ReplyMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REPLY_MODE_UNSPECIFIED: _ClassVar[ReplyMode]
    REPLY_MODE_TOGETHER: _ClassVar[ReplyMode]
    REPLY_MODE_AS_FINISHED: _ClassVar[ReplyMode]

class Reduction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REDUCTION_UNSPECIFIED: _ClassVar[Reduction]
    REDUCTION_PEAK: _ClassVar[Reduction]
    REDUCTION_MEAN: _ClassVar[Reduction]
DURABILITY_UNSPECIFIED: Durability
DURABILITY_MEMORY: Durability
DURABILITY_PROCESS: Durability
DURABILITY_DISK: Durability
REPLY_MODE_UNSPECIFIED: ReplyMode
REPLY_MODE_TOGETHER: ReplyMode
REPLY_MODE_AS_FINISHED: ReplyMode
REDUCTION_UNSPECIFIED: Reduction
REDUCTION_PEAK: Reduction
REDUCTION_MEAN: Reduction

class Session(_message.Message):
    __slots__ = ("session_id", "model", "version", "next_step", "durable_step", "oldest_step", "steps_in_flight", "state_bytes", "open_for", "idle_for", "durability", "resident", "oldest_retained_step", "tenant", "initial_state_digest", "sizes")
    class SizesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NEXT_STEP_FIELD_NUMBER: _ClassVar[int]
    DURABLE_STEP_FIELD_NUMBER: _ClassVar[int]
    OLDEST_STEP_FIELD_NUMBER: _ClassVar[int]
    STEPS_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    STATE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OPEN_FOR_FIELD_NUMBER: _ClassVar[int]
    IDLE_FOR_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_FIELD_NUMBER: _ClassVar[int]
    OLDEST_RETAINED_STEP_FIELD_NUMBER: _ClassVar[int]
    TENANT_FIELD_NUMBER: _ClassVar[int]
    INITIAL_STATE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    model: str
    version: str
    next_step: int
    durable_step: int
    oldest_step: int
    steps_in_flight: int
    state_bytes: int
    open_for: _duration_pb2.Duration
    idle_for: _duration_pb2.Duration
    durability: Durability
    resident: bool
    oldest_retained_step: int
    tenant: str
    initial_state_digest: str
    sizes: _containers.ScalarMap[str, int]
    def __init__(self, session_id: _Optional[str] = ..., model: _Optional[str] = ..., version: _Optional[str] = ..., next_step: _Optional[int] = ..., durable_step: _Optional[int] = ..., oldest_step: _Optional[int] = ..., steps_in_flight: _Optional[int] = ..., state_bytes: _Optional[int] = ..., open_for: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., idle_for: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., durability: _Optional[_Union[Durability, str]] = ..., resident: _Optional[bool] = ..., oldest_retained_step: _Optional[int] = ..., tenant: _Optional[str] = ..., initial_state_digest: _Optional[str] = ..., sizes: _Optional[_Mapping[str, int]] = ...) -> None: ...

class OpenRequest(_message.Message):
    __slots__ = ("model", "version", "session_id", "resume", "durability", "initial_state", "sizes")
    class SizesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    MODEL_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    INITIAL_STATE_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    model: str
    version: str
    session_id: str
    resume: bool
    durability: Durability
    initial_state: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    sizes: _containers.ScalarMap[str, int]
    def __init__(self, model: _Optional[str] = ..., version: _Optional[str] = ..., session_id: _Optional[str] = ..., resume: _Optional[bool] = ..., durability: _Optional[_Union[Durability, str]] = ..., initial_state: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., sizes: _Optional[_Mapping[str, int]] = ...) -> None: ...

class OpenResponse(_message.Message):
    __slots__ = ("session", "inputs", "outputs")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    session: Session
    inputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.TensorSpec]
    outputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.TensorSpec]
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., inputs: _Optional[_Iterable[_Union[_tensor_pb2.TensorSpec, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[_tensor_pb2.TensorSpec, _Mapping]]] = ...) -> None: ...

class StepRequest(_message.Message):
    __slots__ = ("tag", "session_ids", "first_steps", "inputs", "output_names", "reply_mode")
    TAG_FIELD_NUMBER: _ClassVar[int]
    SESSION_IDS_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEPS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_NAMES_FIELD_NUMBER: _ClassVar[int]
    REPLY_MODE_FIELD_NUMBER: _ClassVar[int]
    tag: int
    session_ids: _containers.RepeatedScalarFieldContainer[str]
    first_steps: _containers.RepeatedScalarFieldContainer[int]
    inputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    output_names: _containers.RepeatedScalarFieldContainer[str]
    reply_mode: ReplyMode
    def __init__(self, tag: _Optional[int] = ..., session_ids: _Optional[_Iterable[str]] = ..., first_steps: _Optional[_Iterable[int]] = ..., inputs: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., output_names: _Optional[_Iterable[str]] = ..., reply_mode: _Optional[_Union[ReplyMode, str]] = ...) -> None: ...

class StepResponse(_message.Message):
    __slots__ = ("tag", "session_ids", "next_steps", "durable_steps", "outputs", "failures", "error")
    TAG_FIELD_NUMBER: _ClassVar[int]
    SESSION_IDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_STEPS_FIELD_NUMBER: _ClassVar[int]
    DURABLE_STEPS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    tag: int
    session_ids: _containers.RepeatedScalarFieldContainer[str]
    next_steps: _containers.RepeatedScalarFieldContainer[int]
    durable_steps: _containers.RepeatedScalarFieldContainer[int]
    outputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    failures: _containers.RepeatedCompositeFieldContainer[StepFailure]
    error: _error_pb2.Error
    def __init__(self, tag: _Optional[int] = ..., session_ids: _Optional[_Iterable[str]] = ..., next_steps: _Optional[_Iterable[int]] = ..., durable_steps: _Optional[_Iterable[int]] = ..., outputs: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ..., failures: _Optional[_Iterable[_Union[StepFailure, _Mapping]]] = ..., error: _Optional[_Union[_error_pb2.Error, _Mapping]] = ...) -> None: ...

class StepFailure(_message.Message):
    __slots__ = ("session_id", "next_step", "error")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    NEXT_STEP_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    next_step: int
    error: _error_pb2.Error
    def __init__(self, session_id: _Optional[str] = ..., next_step: _Optional[int] = ..., error: _Optional[_Union[_error_pb2.Error, _Mapping]] = ...) -> None: ...

class StreamRequest(_message.Message):
    __slots__ = ("step", "heartbeat")
    STEP_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    step: StepRequest
    heartbeat: Heartbeat
    def __init__(self, step: _Optional[_Union[StepRequest, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ...) -> None: ...

class StreamResponse(_message.Message):
    __slots__ = ("step", "heartbeat")
    STEP_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    step: StepResponse
    heartbeat: Heartbeat
    def __init__(self, step: _Optional[_Union[StepResponse, _Mapping]] = ..., heartbeat: _Optional[_Union[Heartbeat, _Mapping]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("tag",)
    TAG_FIELD_NUMBER: _ClassVar[int]
    tag: int
    def __init__(self, tag: _Optional[int] = ...) -> None: ...

class GetRequest(_message.Message):
    __slots__ = ("session_id", "state_names")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_NAMES_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    state_names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, session_id: _Optional[str] = ..., state_names: _Optional[_Iterable[str]] = ...) -> None: ...

class GetResponse(_message.Message):
    __slots__ = ("session", "state")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    session: Session
    state: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.Tensor]
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., state: _Optional[_Iterable[_Union[_tensor_pb2.Tensor, _Mapping]]] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("model", "page_size", "page_token")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    model: str
    page_size: int
    page_token: str
    def __init__(self, model: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListResponse(_message.Message):
    __slots__ = ("sessions", "next_page_token")
    SESSIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    sessions: _containers.RepeatedCompositeFieldContainer[Session]
    next_page_token: str
    def __init__(self, sessions: _Optional[_Iterable[_Union[Session, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class CloseRequest(_message.Message):
    __slots__ = ("session_id",)
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    def __init__(self, session_id: _Optional[str] = ...) -> None: ...

class CloseResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class SnapshotRequest(_message.Message):
    __slots__ = ("session_id", "step")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    step: int
    def __init__(self, session_id: _Optional[str] = ..., step: _Optional[int] = ...) -> None: ...

class SnapshotResponse(_message.Message):
    __slots__ = ("snapshot", "step")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    snapshot: bytes
    step: int
    def __init__(self, snapshot: _Optional[bytes] = ..., step: _Optional[int] = ...) -> None: ...

class RestoreRequest(_message.Message):
    __slots__ = ("snapshot", "session_id", "durability")
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    snapshot: bytes
    session_id: str
    durability: Durability
    def __init__(self, snapshot: _Optional[bytes] = ..., session_id: _Optional[str] = ..., durability: _Optional[_Union[Durability, str]] = ...) -> None: ...

class RestoreResponse(_message.Message):
    __slots__ = ("session", "inputs", "outputs")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    session: Session
    inputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.TensorSpec]
    outputs: _containers.RepeatedCompositeFieldContainer[_tensor_pb2.TensorSpec]
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., inputs: _Optional[_Iterable[_Union[_tensor_pb2.TensorSpec, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[_tensor_pb2.TensorSpec, _Mapping]]] = ...) -> None: ...

class ForkRequest(_message.Message):
    __slots__ = ("session_id", "fork_session_id", "step", "durability")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    FORK_SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    fork_session_id: str
    step: int
    durability: Durability
    def __init__(self, session_id: _Optional[str] = ..., fork_session_id: _Optional[str] = ..., step: _Optional[int] = ..., durability: _Optional[_Union[Durability, str]] = ...) -> None: ...

class ForkResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class RewindRequest(_message.Message):
    __slots__ = ("session_id", "step")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    step: int
    def __init__(self, session_id: _Optional[str] = ..., step: _Optional[int] = ...) -> None: ...

class RewindResponse(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("session_id", "tensors", "frames_per_s", "rows_max", "columns_max", "reduction", "state_only")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    FRAMES_PER_S_FIELD_NUMBER: _ClassVar[int]
    ROWS_MAX_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_MAX_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_FIELD_NUMBER: _ClassVar[int]
    STATE_ONLY_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    tensors: _containers.RepeatedScalarFieldContainer[str]
    frames_per_s: float
    rows_max: int
    columns_max: int
    reduction: Reduction
    state_only: bool
    def __init__(self, session_id: _Optional[str] = ..., tensors: _Optional[_Iterable[str]] = ..., frames_per_s: _Optional[float] = ..., rows_max: _Optional[int] = ..., columns_max: _Optional[int] = ..., reduction: _Optional[_Union[Reduction, str]] = ..., state_only: _Optional[bool] = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("begun", "frame", "session")
    BEGUN_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    SESSION_FIELD_NUMBER: _ClassVar[int]
    begun: WatchBegun
    frame: Frame
    session: Session
    def __init__(self, begun: _Optional[_Union[WatchBegun, _Mapping]] = ..., frame: _Optional[_Union[Frame, _Mapping]] = ..., session: _Optional[_Union[Session, _Mapping]] = ...) -> None: ...

class WatchBegun(_message.Message):
    __slots__ = ("session", "frames_per_s", "rows_max", "columns_max", "reduction")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    FRAMES_PER_S_FIELD_NUMBER: _ClassVar[int]
    ROWS_MAX_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_MAX_FIELD_NUMBER: _ClassVar[int]
    REDUCTION_FIELD_NUMBER: _ClassVar[int]
    session: Session
    frames_per_s: float
    rows_max: int
    columns_max: int
    reduction: Reduction
    def __init__(self, session: _Optional[_Union[Session, _Mapping]] = ..., frames_per_s: _Optional[float] = ..., rows_max: _Optional[int] = ..., columns_max: _Optional[int] = ..., reduction: _Optional[_Union[Reduction, str]] = ...) -> None: ...

class Frame(_message.Message):
    __slots__ = ("next_step", "taken_at", "lost", "state", "first_step", "inputs", "outputs", "resident")
    NEXT_STEP_FIELD_NUMBER: _ClassVar[int]
    TAKEN_AT_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FIRST_STEP_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    OUTPUTS_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_FIELD_NUMBER: _ClassVar[int]
    next_step: int
    taken_at: _timestamp_pb2.Timestamp
    lost: int
    state: _containers.RepeatedCompositeFieldContainer[Picture]
    first_step: int
    inputs: _containers.RepeatedCompositeFieldContainer[Picture]
    outputs: _containers.RepeatedCompositeFieldContainer[Picture]
    resident: bool
    def __init__(self, next_step: _Optional[int] = ..., taken_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., lost: _Optional[int] = ..., state: _Optional[_Iterable[_Union[Picture, _Mapping]]] = ..., first_step: _Optional[int] = ..., inputs: _Optional[_Iterable[_Union[Picture, _Mapping]]] = ..., outputs: _Optional[_Iterable[_Union[Picture, _Mapping]]] = ..., resident: _Optional[bool] = ...) -> None: ...

class Picture(_message.Message):
    __slots__ = ("tensor", "role", "full_shape", "blocks")
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    FULL_SHAPE_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    tensor: _tensor_pb2.Tensor
    role: str
    full_shape: _containers.RepeatedScalarFieldContainer[int]
    blocks: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, tensor: _Optional[_Union[_tensor_pb2.Tensor, _Mapping]] = ..., role: _Optional[str] = ..., full_shape: _Optional[_Iterable[int]] = ..., blocks: _Optional[_Iterable[int]] = ...) -> None: ...
