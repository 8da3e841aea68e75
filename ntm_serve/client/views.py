"""What a server says of its models and sessions, as plain values."""

from collections.abc import Mapping
from dataclasses import dataclass

from ntm_serve.durability import Durability
from ntm_serve.errors import NtmServeError
from ntm_serve.spec import Axis, StateSpec, TensorSpec
from ntm_serve.v1 import models_pb2, sessions_pb2
from ntm_serve.wire import durability_of, error_of_wire, spec_of, state_spec_of


@dataclass(frozen=True)
class SessionInfo:
    """Where a session stands. next_step: how many steps were made. resident: whether it is in the server's memory.
    oldest_retained_step: the oldest that it can be snapshot, forked and rewound at. tenant: whose it is; empty where
    the server has no tenants. initial_state_digest: of the state that it began with; empty is the model's own.
    sizes: of its state's axes, where it was opened with others than the model's own.
    """

    session_id: str
    model: str
    version: str
    next_step: int
    durable_step: int
    oldest_step: int
    steps_in_flight: int
    state_bytes: int
    open_for_s: float
    idle_for_s: float
    durability: Durability
    resident: bool
    oldest_retained_step: int
    tenant: str
    initial_state_digest: str
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class SessionSnapshot:
    """A session's state as bytes, and the number of steps that led to it."""

    step: int
    data: bytes


@dataclass(frozen=True)
class BatchIndependence:
    """Whether a session's bits depend on its company, as far as the server tested."""

    holds: bool
    padding: int
    rows_tested: int


@dataclass(frozen=True)
class ModelInfo:
    """A model of a server. Where it is not ready, `fault` says why and the rest is empty. axes: of its state, whose
    sizes a session may choose.
    """

    name: str
    version: str
    ready: bool
    fault: NtmServeError | None
    family: str
    task: str
    licence: str
    digest: str
    engine: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    state: tuple[StateSpec, ...]
    axes: tuple[Axis, ...]
    roles: tuple[str, ...]
    state_bytes: int
    batch_max: int
    batch_independence: BatchIndependence
    sessions: int


def session_info(session: sessions_pb2.Session) -> SessionInfo:
    """From the wire."""
    return SessionInfo(
        session_id=session.session_id,
        model=session.model,
        version=session.version,
        next_step=session.next_step,
        durable_step=session.durable_step,
        oldest_step=session.oldest_step,
        steps_in_flight=session.steps_in_flight,
        state_bytes=session.state_bytes,
        open_for_s=session.open_for.ToMilliseconds() / 1000,
        idle_for_s=session.idle_for.ToMilliseconds() / 1000,
        durability=durability_of(session.durability) or Durability.MEMORY,
        resident=session.resident,
        oldest_retained_step=session.oldest_retained_step,
        tenant=session.tenant,
        initial_state_digest=session.initial_state_digest,
        sizes=dict(session.sizes),
    )


def model_info(model: models_pb2.Model) -> ModelInfo:
    """From the wire."""
    independence = model.batch_independence
    return ModelInfo(
        name=model.name,
        version=model.version,
        ready=model.ready,
        fault=error_of_wire(model.fault) if model.HasField("fault") else None,
        family=model.family,
        task=model.task,
        licence=model.licence,
        digest=model.digest,
        engine=model.engine,
        inputs=tuple(spec_of(spec) for spec in model.inputs),
        outputs=tuple(spec_of(spec) for spec in model.outputs),
        state=tuple(state_spec_of(spec) for spec in model.state),
        axes=tuple(Axis(one.name, one.size, one.size_min, one.size_max) for one in model.axes),
        roles=tuple(spec.role for spec in model.state),
        state_bytes=model.state_bytes,
        batch_max=model.batch_max,
        batch_independence=BatchIndependence(independence.holds, independence.padding, independence.rows_tested),
        sessions=model.sessions,
    )
