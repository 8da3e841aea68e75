"""What may be known of models and sessions, as values to be told: of those in memory and those of a store."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ntm_serve.beginning import recorded_digest, shown
from ntm_serve.durability import Durability
from ntm_serve.errors import OperatorFault
from ntm_serve.scheduler import Scheduler, SchedulerStatistics
from ntm_serve.sessions import Session
from ntm_serve.sizes import OWN_SIZES, Sizes, sized_spec
from ntm_serve.spec import StepSpec
from ntm_serve.step_model import ModelKey, StepModel
from ntm_serve.store import StoredSession, StoredSummary, StoreStatistics


class SessionView(NamedTuple):
    """What may be known of a session. Times are seconds of the server's monotonic clock ago."""

    session_id: str
    model: ModelKey
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
    # Of the state that it began with; empty is the model's own.
    initial_state_digest: str = ""
    # Of its state, where it was opened with others than the model's own.
    sizes: Sizes = OWN_SIZES
    # Whose it is, where it is called by its name and not by its key.
    tenant: str = ""


class ModelView(NamedTuple):
    """A model that is served, or the reason why it is not; both where it serves the sessions that it has, and takes
    no more.
    """

    key: ModelKey
    model: StepModel | None
    fault: OperatorFault | None
    sessions: int

    @property
    def takes_sessions(self) -> bool:
        return self.model is not None and self.fault is None


@dataclass(frozen=True)
class ServiceStatistics:
    """Sessions in memory and their state's bytes, and the schedulers' statistics, by model; and what the store has."""

    sessions: Mapping[ModelKey, int]
    state_bytes: Mapping[ModelKey, int]
    schedulers: Mapping[ModelKey, SchedulerStatistics]
    store: StoreStatistics | None


class Views:
    """Makes them."""

    def __init__(self, schedulers: Mapping[ModelKey, Scheduler], clock: Callable[[], float]) -> None:
        self._schedulers = schedulers
        self._clock = clock

    def of(self, session: Session) -> SessionView:
        """Of a session in memory."""
        now_s = self._clock()
        return SessionView(
            session_id=session.id,
            model=session.model,
            next_step=session.next_step,
            durable_step=session.durable_step,
            oldest_step=session.oldest_step,
            steps_in_flight=session.promised_step - session.next_step,
            state_bytes=self.spec_of(session).state_bytes,
            open_for_s=now_s - session.opened_s,
            idle_for_s=now_s - session.used_s,
            durability=Durability.MEMORY if session.kept is None else session.kept.durability,
            resident=True,
            oldest_retained_step=session.oldest_retained_step,
            initial_state_digest=recorded_digest(session.options),
            sizes=session.sizes,
        )

    def of_stored(self, stored: StoredSession | StoredSummary, oldest_step: int) -> SessionView:
        """Of a session that the store has and this server has not. oldest_step: that the store has a way back to."""
        key, now_s = ModelKey(stored.head.model, stored.head.version), time.time()
        scheduler, (digest, sizes) = self._schedulers.get(key), shown(stored.head.options)
        return SessionView(
            session_id=stored.session_id,
            model=key,
            next_step=stored.next_step,
            durable_step=stored.next_step,
            oldest_step=oldest_step,
            steps_in_flight=0,
            state_bytes=0 if scheduler is None else sized_spec(scheduler.model.spec, sizes).state_bytes,
            open_for_s=max(0.0, now_s - stored.head.opened_at_s),
            idle_for_s=max(0.0, now_s - stored.used_at_s),
            durability=Durability(stored.head.durability),
            resident=False,
            oldest_retained_step=oldest_step,
            initial_state_digest=digest,
            sizes=sizes,
        )

    def spec_of(self, session: Session) -> StepSpec:
        """Of a session's step, at its sizes; also of one that has just left memory."""
        return sized_spec(self._schedulers[session.model].model.spec, session.sizes)


def version_order(key: ModelKey) -> tuple[str, int, str]:
    """By name, and the versions of each as numbers."""
    return key.name, int(key.version) if key.version.isdigit() else 0, key.version
