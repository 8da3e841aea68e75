"""The service: models and sessions, in domain types only. Frontends translate to it and from it.

Rules of this file: it runs on one event loop and nothing in it waits for a lock; a message is checked
whole before anything of it is admitted; one session's error is its own.
"""

import asyncio
import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ntm_serve.errors import (
    InvalidInput,
    LimitReached,
    ModelRejected,
    ModelUnknown,
    NtmServeError,
    OperatorFault,
    ServerDraining,
    SessionExists,
)
from ntm_serve.message import Message, StepRequest
from ntm_serve.observer import Observer
from ntm_serve.scheduler import Scheduler, SchedulerStatistics
from ntm_serve.sessions import Session, Sessions
from ntm_serve.spec import Array, StepSpec
from ntm_serve.step_model import ModelKey, StepModel
from ntm_serve.submission import Reply, Submission
from ntm_serve.ticket import Ticket


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


class ModelView(NamedTuple):
    """A model that is served, or the reason why it is not."""

    key: ModelKey
    model: StepModel | None
    fault: OperatorFault | None
    sessions: int


@dataclass(frozen=True)
class ServiceStatistics:
    """Open sessions and their state's bytes, and the schedulers' statistics, by model."""

    sessions: Mapping[ModelKey, int]
    state_bytes: Mapping[ModelKey, int]
    schedulers: Mapping[ModelKey, SchedulerStatistics]


class Service:
    """Opens, steps and ends sessions of the models that it was given."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        schedulers: Sequence[Scheduler],
        faults: Mapping[ModelKey, OperatorFault],
        sessions_per_message_max: int,
        steps_per_message_max: int,
        observer: Observer,
        clock: Callable[[], float],
        arrival_s: Callable[[], float] | None = None,
    ) -> None:
        self._sessions = sessions
        self._schedulers = {scheduler.key: scheduler for scheduler in schedulers}
        self._faults = dict(faults)
        self._sessions_per_message_max = sessions_per_message_max
        self._steps_per_message_max = steps_per_message_max
        self._observer = observer
        self._clock = clock
        # When a message was found to have arrived: the same for all that are admitted in one turn of the loop.
        self._arrival_s = arrival_s or clock
        self._draining = False

    # Models

    def models(self) -> list[ModelView]:
        """Every model found, served or not, by name and version."""
        counts = self._sessions.open_by_model
        served = [ModelView(key, one.model, None, counts[key]) for key, one in self._schedulers.items()]
        faulty = [ModelView(key, None, fault, 0) for key, fault in self._faults.items()]
        return sorted(served + faulty, key=lambda view: _version_order(view.key))

    def model(self, name: str, version: str = "") -> ModelView:
        """One model; without a version the highest that is served. Raises ModelUnknown."""
        named = [view for view in self.models() if view.key.name == name and version in ("", view.key.version)]
        if not named:
            known = ", ".join(str(view.key) for view in self.models()) or "none"
            raise ModelUnknown(f"model {name}{'/' + version if version else ''}: expected one of {known}")
        served = [view for view in named if view.model is not None]
        return (served or named)[-1]

    # Sessions

    def open_session(
        self, model_name: str, version: str = "", *, session_id: str | None = None, resume: bool = False
    ) -> SessionView:
        """Open a session. resume: when one of that name is open for the same model, return it as it stands.

        Raises ModelUnknown, the fault of a model that is not served, SessionExists, InvalidInput,
        LimitReached, ServerDraining.
        """
        self._expect_serving()
        view = self.model(model_name, version)
        if view.model is None:
            raise view.fault or ModelRejected(f"model {view.key}: is not served")
        try:
            session = self._sessions.open(
                view.key,
                self._schedulers[view.key].initial_state,
                session_id=session_id,
                now_s=self._clock(),
                step_bytes=view.model.spec.step_bytes,
            )
        except SessionExists:
            session = self._sessions.find(session_id or "")
            if not resume or session.model.name != model_name or version not in ("", session.model.version):
                raise
            return self._view(session)
        except LimitReached:
            self._observer.rejected(view.key, reason="sessions")
            raise
        self._observer.session_opened(view.key)
        return self._view(session)

    def get_session(self, session_id: str) -> SessionView:
        """Raises SessionUnknown, SessionClosed, SessionExpired."""
        return self._view(self._sessions.find(session_id))

    def get_state(self, session_id: str, names: Sequence[str]) -> dict[str, Array]:
        """State tensors of a session as it stands, by name; "*" is all of them. Raises as `get_session`, and
        InvalidInput for a name that there is not.
        """
        session = self._sessions.find(session_id)
        state = {
            spec.name: array for spec, array in zip(self._spec(session).state, session.state.arrays(), strict=True)
        }
        wanted = list(state) if "*" in names else names
        unknown = [name for name in wanted if name not in state]
        if unknown:
            raise InvalidInput(f"state_names: expected some of {list(state)} or '*', got {unknown}")
        return {name: state[name] for name in wanted}

    def list_sessions(self, *, model_name: str = "", after: str = "", page_size: int = 100) -> list[SessionView]:
        """Open sessions in the order of their ids, those after `after`, at most page_size of them."""
        wanted = (s.id for s in self._sessions if s.id > after and model_name in ("", s.model.name))
        return [self.get_session(session_id) for session_id in heapq.nsmallest(page_size, wanted)]

    def close_session(self, session_id: str) -> SessionView:
        """End a session; steps in flight are answered with SessionClosed. Raises as `get_session`."""
        session = self._sessions.close(session_id)
        self._ended(session, reason="client")
        return self._view(session)

    def expire_sessions(self) -> int:
        """End the sessions whose idle life is over; returns how many."""
        expired = self._sessions.expire(self._clock())
        for session in expired:
            self._ended(session, reason="idle")
        return len(expired)

    # Steps

    def submit(self, request: StepRequest, reply: Reply, *, tag: int = 0, together: bool = True) -> Submission:
        """Admit the steps of a message. `reply` is told of the places that are answered, all at once or each
        as it is: when its steps are done; at once for retries; for errors, after what was in flight before.

        Raises InvalidInput where the message itself cannot be read; then nothing was admitted.
        """
        self._expect_serving()
        message = Message(request, sessions_max=self._sessions_per_message_max, steps_max=self._steps_per_message_max)
        submission = Submission(message, reply, tag=tag, together=together, tell=self._tell)
        now_s, find, schedulers = self._arrival_s(), self._sessions.find, self._schedulers
        for place, session_id in enumerate(request.session_ids):
            try:
                session = find(session_id)
                scheduler = schedulers[session.model]
                ticket = submission.admit(place, session, scheduler.model.spec, now_s, scheduler.expect_room)
                if ticket is not None:
                    scheduler.submit(ticket)
            except NtmServeError as error:
                self._refuse(submission, place, session_id, error)
        return submission

    async def step(self, request: StepRequest, *, tag: int = 0) -> Submission:
        """`submit`, and wait until all is answered. Cancelling it cancels the steps."""
        done = asyncio.Event()
        submission = self.submit(request, lambda *_: done.set(), tag=tag)
        try:
            await done.wait()
        except asyncio.CancelledError:
            submission.cancel()
            raise
        return submission

    def drain(self) -> None:
        """Take no more work; what was admitted is finished."""
        self._draining = True

    @property
    def draining(self) -> bool:
        return self._draining

    async def until_idle(self) -> None:
        """Until every admitted step is answered."""
        for scheduler in self._schedulers.values():
            await scheduler.until_idle()

    def statistics(self) -> ServiceStatistics:
        counts = {key: self._sessions.open_by_model[key] for key in self._schedulers}
        return ServiceStatistics(
            sessions=counts,
            state_bytes={key: n * self._schedulers[key].model.spec.state_bytes for key, n in counts.items()},
            schedulers={key: scheduler.statistics() for key, scheduler in self._schedulers.items()},
        )

    def _refuse(self, submission: Submission, place: int, session_id: str, error: NtmServeError) -> None:
        """Answer with an error, after what the session has in flight: its replies come in order."""

        def answer() -> None:
            submission.refuse(place, error, next_step=self._next_step(session_id))

        try:
            session = self._sessions.find(session_id)
        except NtmServeError:
            return answer()
        if not session.in_flight:
            return answer()
        return session.in_flight[-1].add_follower(answer)

    def _expect_serving(self) -> None:
        if self._draining:
            raise ServerDraining("server: is stopping; connect again")

    def _next_step(self, session_id: str) -> int:
        try:
            return self._sessions.find(session_id).next_step
        except NtmServeError:
            return 0

    def _view(self, session: Session) -> SessionView:
        now_s = self._clock()
        return SessionView(
            session_id=session.id,
            model=session.model,
            next_step=session.next_step,
            durable_step=0,
            oldest_step=session.oldest_step,
            steps_in_flight=session.promised_step - session.next_step,
            state_bytes=self._spec(session).state_bytes,
            open_for_s=now_s - session.opened_s,
            idle_for_s=now_s - session.used_s,
        )

    def _spec(self, session: Session) -> StepSpec:
        return self._schedulers[session.model].model.spec

    def _ended(self, session: Session, *, reason: str) -> None:
        lived_s = self._clock() - session.opened_s
        self._observer.session_ended(session.model, reason=reason, lived_s=lived_s, steps=session.next_step)

    def _tell(self, ticket: Ticket, outcome: str) -> None:
        """Count steps that were not made, or not now; the scheduler counts those that it made."""
        waited_s = None if ticket.started_s is None else ticket.started_s - ticket.submitted_s
        self._observer.steps_settled(
            ticket.session.model,
            outcome=outcome,
            sessions=1,
            steps=ticket.steps,
            latency_s=self._clock() - ticket.submitted_s,
            queue_wait_s=None if outcome == "duplicate" else waited_s,
        )


def _version_order(key: ModelKey) -> tuple[str, int, str]:
    return key.name, int(key.version) if key.version.isdigit() else 0, key.version
