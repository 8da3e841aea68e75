"""The service: models and sessions, in domain types only. Frontends translate to it and from it.

Rules of this file: it runs on one event loop, and sessions need no lock; a message is checked
whole before anything of it is admitted; one session's error is its own.
"""

import asyncio
import heapq
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from functools import partial

import structlog

from ntm_serve.beginning import (
    beginning_with,
    expect_same_beginning,
    expect_same_sizes,
)
from ntm_serve.caller import keys_of, tenant_of
from ntm_serve.durability import Durability
from ntm_serve.errors import (
    LIMIT,
    EngineFault,
    InvalidInput,
    LimitReached,
    ModelUnknown,
    NtmServeError,
    OperatorFault,
    OwnedElsewhere,
    ServerDraining,
    SessionClosed,
    SessionEvicted,
    SessionExists,
    SessionExpired,
    SessionUnknown,
    StepForgotten,
)
from ntm_serve.lineage import Lineage
from ntm_serve.message import Message, StepRequest
from ntm_serve.observer import Observer
from ntm_serve.offload import offloaded
from ntm_serve.picture import Frame
from ntm_serve.replay import bases_of
from ntm_serve.residency import Residency, until_nothing_in_flight
from ntm_serve.scheduler import Scheduler, scheduler_of
from ntm_serve.search import Place, Query, Search
from ntm_serve.sessions import Session, Sessions
from ntm_serve.sizes import chosen_sizes, sized_spec
from ntm_serve.snapshot import decoded, encoded
from ntm_serve.spec import Array
from ntm_serve.stateless import InferRequest, rows_of, submit_rows
from ntm_serve.step_model import ModelKey, StepModel
from ntm_serve.store import StoredSession
from ntm_serve.submission import Reply, Submission
from ntm_serve.tenants import HOLDING, Account
from ntm_serve.ticket import Ticket
from ntm_serve.views import ModelView, ServiceStatistics, SessionView, Views, version_order
from ntm_serve.watching import Granted, Watching, Wish

log = structlog.get_logger()


class Service:
    """Opens, steps and ends sessions of the models that it was given."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        residency: Residency,
        lineage: Lineage,
        watching: Watching,
        search: Search,
        schedulers: dict[ModelKey, Scheduler],
        faults: Mapping[ModelKey, OperatorFault],
        sessions_per_message_max: int,
        steps_per_message_max: int,
        observer: Observer,
        clock: Callable[[], float],
        arrival_s: Callable[[], float] | None = None,
    ) -> None:
        self._sessions = sessions
        self._residency = residency
        self._lineage = lineage
        self._watching = watching
        self._search = search
        self._schedulers = schedulers
        self._views = Views(schedulers, clock)
        # Places of messages that wait for a session to come back, in the order of their arrival.
        self._waiting: dict[str, list[tuple[Submission, int]]] = {}
        self._returns: set[asyncio.Task[None]] = set()
        self._faults = dict(faults)
        # Of each model the highest version that is served, once it was looked for.
        self._newest: dict[str, ModelKey] = {}
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
        served = [
            ModelView(key, one.model, self._faults.get(key), counts[key]) for key, one in self._schedulers.items()
        ]
        faulty = [ModelView(key, None, fault, 0) for key, fault in self._faults.items() if key not in self._schedulers]
        return sorted(served + faulty, key=lambda view: version_order(view.key))

    def model(self, name: str, version: str = "") -> ModelView:
        """One model; without a version the highest that is served. Raises ModelUnknown."""
        named = [view for view in self.models() if view.key.name == name and version in ("", view.key.version)]
        if not named:
            known = ", ".join(str(view.key) for view in self.models()) or "none"
            raise ModelUnknown(f"model {name}{'/' + version if version else ''}: expected one of {known}")
        served = [view for view in named if view.takes_sessions]
        return (served or named)[-1]

    def add_model(self, scheduler: Scheduler) -> None:
        """Sessions of this model can be opened from now on. Whoever made the scheduler runs it."""
        self._schedulers[scheduler.key] = scheduler
        self.offer_model(scheduler.key)

    def fault_model(self, key: ModelKey, fault: OperatorFault) -> None:
        """No session of this model is opened from now on; those that it has go on."""
        self._faults[key] = fault

    def offer_model(self, key: ModelKey) -> None:
        """Sessions of this model can be opened again."""
        self._faults.pop(key, None)
        self._newest.pop(key.name, None)

    def remove_model(self, key: ModelKey) -> None:
        """The model is no more. It has no session."""
        self._schedulers.pop(key, None)
        self._faults.pop(key, None)

    async def is_used(self, key: ModelKey) -> bool:
        """Whether a session of this model is in memory or in the store, or something of it waits."""
        # In this order: one may have come while the store was asked.
        return await self._residency.is_stored(key) or self._sessions.open_by_model[key] > 0 or self._is_busy(key)

    # Sessions

    async def open_session(
        self,
        model_name: str,
        version: str = "",
        *,
        session_id: str | None = None,
        resume: bool = False,
        durability: Durability | None = None,
        initial_state: Mapping[str, Array] | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> SessionView:
        """Open a session. resume: when one of that name is open for the same model, return it as it stands.
        durability: None is what the server is set to. initial_state: tensors that it begins with in place of the
        model's own, without leading axes. sizes: of axes of the model's state, by name, in place of its own.

        Raises ModelUnknown, the fault of a model that is not served, SessionExists, SessionDiffers, InvalidInput,
        TooLarge, LimitReached, ServerDraining, and where there is a store what that raises.
        """
        self._expect_serving()
        served, wanted = self._serving(model_name, version), (initial_state or {}, sizes or {})
        if resume and session_id and any(wanted):
            # What it is to be like is its own model's to say, which may be of another version than is served by now.
            with suppress(SessionUnknown, SessionClosed, SessionExpired, SessionEvicted):
                return await self._resumed(session_id, model_name, version, *wanted)
        chosen = chosen_sizes(served.model.spec, wanted[1])
        try:
            # Before anything is made for its sizes.
            self._residency.expect_free(served.key, sized_spec(served.model.spec, chosen).state_bytes, session_id)
            with self._residency.making(served, chosen, session_id):
                scheduler = await served.sized(chosen)
                with scheduler.use.one_more():
                    begin = partial(beginning_with, scheduler.model, wanted[0], chosen)
                    beginning = await offloaded(_bytes_of(wanted[0]), begin)
                    return self._views.of(
                        await self._residency.create(scheduler, session_id, durability, beginning=beginning)
                    )
        except SessionExists:
            if not resume:  # Nor is it to come back here for that.
                raise
        return await self._resumed(session_id or "", model_name, version, *wanted)

    async def _resumed(
        self, session_id: str, name: str, version: str, initial_state: Mapping[str, Array], sizes: Mapping[str, int]
    ) -> SessionView:
        """A session that is open. Raises SessionExists where it is another model's, SessionDiffers, InvalidInput, and
        as Residency.find.
        """
        session = await self._residency.find(session_id)
        if session.model.name != name or version not in ("", session.model.version):
            wanted = ModelKey(name, version or session.model.version)
            raise SessionExists(
                f"session {session_id}: is one of model {session.model}, and cannot be resumed as one of {wanted}; "
                "choose another name, or close it"
            )
        if sizes:
            expect_same_sizes(session.id, session.sizes, self._schedulers[session.model].model.spec, sizes)
        if initial_state:
            model = scheduler_of(self._schedulers, session).model
            await offloaded(
                _bytes_of(initial_state),
                partial(expect_same_beginning, session_id, session.options, model, initial_state),
            )
            return await self.get_session(session_id)  # It may have made steps, or gone, meanwhile.
        return self._views.of(session)

    def begin_here(self, session_id: str, model_name: str, version: str = "") -> bool:
        """Open a session, ending one of that name before, where nothing must be waited for: without a store, and with
        none of its steps in flight. Whether it is open. Raises as `open_session`.
        """
        session = self._sessions.get(session_id)
        if self._residency.has_store or (session is not None and session.in_flight):
            return False
        self._expect_serving()
        scheduler = self._serving(model_name, version)
        if session is not None:
            self._residency.close_here(session)
            self.count_restart(scheduler.key)
        self._residency.create_here(scheduler, session_id)
        return True

    def end_here(self, session_id: str) -> bool:
        """Close a session where nothing must be waited for. Whether it is closed."""
        session = self._sessions.get(session_id)
        if session is None or session.in_flight or self._residency.has_store:
            return False
        self._residency.close_here(session)
        return True

    def count_restart(self, model: ModelKey) -> None:
        """A session was begun anew under the name of one that was ended for it."""
        self._observer.sequence_restarted(model)

    @property
    def has_store(self) -> bool:
        """Whether sessions are in a store, which is to be asked and told of them."""
        return self._residency.has_store

    async def get_session(self, session_id: str) -> SessionView:
        """Raises SessionUnknown, SessionClosed, SessionExpired, SessionEvicted, StoreUnavailable, StoreDamaged."""
        session = self._residency.here(session_id)
        if session is not None:
            return self._views.of(session)
        stored = await self._residency.read(session_id)
        return self._views.of_stored(stored, bases_of(stored)[0])

    async def wake_session(self, session_id: str) -> None:
        """Have a session come back that is not in memory. Raises as `get_session`."""
        await self._residency.find(session_id, from_step=None)

    async def get_state(self, session_id: str, names: Sequence[str]) -> tuple[SessionView, dict[str, Array]]:
        """A session as it stands, and state tensors of it by name; "*" is all of them. Raises as `get_session`, and
        InvalidInput for a name that there is not.
        """
        session = await self._residency.find(session_id)
        state = {
            spec.name: array
            for spec, array in zip(self._views.spec_of(session).state, session.state.arrays(), strict=True)
        }
        wanted = list(state) if "*" in names else names
        unknown = [name for name in wanted if name not in state]
        if unknown:
            raise InvalidInput(f"state_names: expected some of {list(state)} or '*', got {unknown}")
        return self._views.of(session), {name: state[name] for name in wanted}

    async def list_sessions(
        self, *, model_name: str = "", after: str = "", page_size: int = 100, tenant: str | None = None
    ) -> list[SessionView]:
        """Open sessions in the order of their ids, those after `after`, at most page_size of them. tenant: whose are
        asked for; those of others that the store has alone may be among them.
        """
        stored = await self._residency.list_stored(model=model_name, after=after, limit=page_size)
        wanted = (
            s.id
            for s in self._sessions
            if s.id > after and model_name in ("", s.model.name) and (tenant is None or tenant_of(s.id) == tenant)
        )
        views = {one.session_id: self._views.of_stored(one, 0) for one in stored}
        for session_id in heapq.nsmallest(page_size, wanted):
            session = self._sessions.get(session_id)
            if session is not None:
                views[session_id] = self._views.of(session)
        return [views[session_id] for session_id in heapq.nsmallest(page_size, views)]

    async def find_sessions(self, query: Query) -> tuple[list[SessionView], Place | None, bool]:
        """Open sessions, searched and sorted; the place of the last where there are more; and whether the store was
        looked through as far as it might have some. Raises StoreUnavailable.
        """
        rows, last, complete = await self._search.find(query)
        views = [self._views.of(one) if isinstance(one, Session) else self._views.of_stored(one, 0) for one in rows]
        return views, last, complete

    async def close_session(self, session_id: str) -> SessionView:
        """End a session; steps in flight are answered with SessionClosed. Raises as `get_session`."""
        closed = await self._residency.close(session_id)
        if isinstance(closed, StoredSession):
            return self._views.of_stored(closed, closed.next_step)
        return self._views.of(closed)

    async def expire_sessions(self) -> int:
        """End the sessions whose idle life is over; returns how many."""
        return await self._residency.expire()

    # States

    async def snapshot_session(
        self, session_id: str, step: int | None = None, *, named: str | None = None
    ) -> tuple[int, bytes]:
        """A session's state before that step, or as it stands, as bytes (see ntm_serve.snapshot), and the step.
        named: what the bytes say that it is called. Raises as `get_session`, StepForgotten, InvalidInput.
        """
        session, saved = await self._lineage.saved_state(session_id, step)
        card, spec = self._schedulers[session.model].model.card, self._views.spec_of(session)
        write = partial(encoded, card, spec.state, named or session_id, saved.step, saved.state)
        return saved.step, await offloaded(spec.state_bytes, write)

    async def restore_session(
        self, snapshot: bytes, *, session_id: str | None = None, durability: Durability | None = None
    ) -> SessionView:
        """A new session where a snapshot was taken. Raises SnapshotRejected, and as `open_session`."""
        self._expect_serving()
        saved = await offloaded(len(snapshot), partial(decoded, snapshot))
        return self._views.of(await self._lineage.restore(saved, session_id, durability))

    async def fork_session(
        self,
        session_id: str,
        *,
        fork_id: str | None = None,
        step: int | None = None,
        durability: Durability | None = None,
    ) -> SessionView:
        """A new session where another stands, or stood before that step. Raises as `snapshot_session` and
        `open_session`.
        """
        self._expect_serving()
        return self._views.of(await self._lineage.fork(session_id, fork_id, step, durability))

    async def rewind_session(self, session_id: str, step: int) -> SessionView:
        """Take a session back to that step; steps in flight are answered with StepAborted. Raises as
        `snapshot_session`.
        """
        self._expect_serving()
        return self._views.of(await self._lineage.rewind(session_id, step))

    # Looking

    def grant(self, wish: Wish) -> Granted:
        """What of a wish is granted. Raises InvalidInput."""
        return self._watching.grant(wish)

    async def look(self, session_id: str, wish: Wish) -> Frame:
        """A session as it stands, to be looked at: it is not brought into memory for that. Raises as `get_session`,
        ModelUnknown, and InvalidInput for tensors that there are not.
        """
        return await self._watching.look(session_id, wish)

    async def look_whole(self, session_id: str, tensors: Sequence[str]) -> tuple[int, dict[str, Array]]:
        """How many steps a session made, and its state tensors of these names or roles, whole. Raises as `look`."""
        return await self._watching.state(session_id, tensors)

    async def watch(self, session_id: str, wish: Wish) -> AsyncGenerator[Frame | SessionView, None]:
        """Frames of a session while it lives, and where it stands: first, when it leaves memory or comes back, and now
        and then. It ends with an error alone: those of `look`, SessionClosed and the like, LimitReached,
        OwnedElsewhere, ServerDraining. Whoever asks for frames closes it.
        """
        self._expect_serving()
        self.grant(wish)
        yield await self.get_session(session_id)
        async with aclosing(self._watching.frames(session_id, wish)) as frames:
            async for frame in frames:
                yield await self.get_session(session_id) if frame is None else frame

    # Steps

    def model_here(self, session_id: str) -> StepModel | None:
        """The model of a session that is in memory. On the path of a step."""
        session = self._sessions.get(session_id)
        return None if session is None else scheduler_of(self._schedulers, session).model

    def expect_readable(self, request: StepRequest, model: StepModel, *, account: Account | None = None) -> None:
        """Refuse steps that no session of this model would take. Raises InvalidInput, TooLarge."""
        message = self._message(request, account)
        message.expect(model.spec)
        for place in range(len(request.session_ids)):
            message.rows(place, model.spec)

    def submit(
        self,
        request: StepRequest,
        reply: Reply,
        *,
        tag: int = 0,
        together: bool = True,
        account: Account | None = None,
    ) -> Submission:
        """Admit the steps of a message. `reply` is told of the places that are answered, all at once or each
        as it is: when its steps are done; at once for retries; for errors, after what was in flight before.
        account: of the tenant whose sessions the message names; None where they are called by their keys.

        Raises InvalidInput and TooLarge where the message itself cannot be taken; then nothing was admitted.
        """
        self._expect_serving()
        ids, tenant = request.session_ids, ""
        if account is not None:
            tenant = account.tenant
            ids = keys_of(tenant, ids)
        message = self._message(request, account)
        submission = Submission(message, reply, tag=tag, together=together, tell=self._tell, tenant=tenant)
        now_s, get = self._arrival_s(), self._sessions.get
        self._residency.expect_lease(now_s)
        leaving = self._residency.leaving
        for place, session_id in enumerate(ids):
            session = get(session_id)
            # Where others still wait for it, it has only just come back, and they are before this one.
            if session is not None and session_id not in self._waiting:
                if session_id in leaving:
                    self._refuse(submission, place, session_id, _wanted(session_id))
                else:
                    self._admit(submission, place, session, now_s)
            elif self._residency.has_store:
                self._await(submission, place, session_id)
            else:
                self._refuse(submission, place, session_id, self._sessions.why_not(session_id))
        return submission

    async def step(self, request: StepRequest, *, tag: int = 0, account: Account | None = None) -> Submission:
        """`submit`, and wait until all is answered. Cancelling it cancels the steps."""
        done = asyncio.Event()
        submission = self.submit(request, lambda *_: done.set(), tag=tag, account=account)
        await _until(done, submission)
        return submission

    async def until_answered(self, session_id: str) -> None:
        """Until the steps that this session was given so far are answered."""
        while session_id in self._waiting:
            await asyncio.wait(self._returns, return_when=asyncio.FIRST_COMPLETED)
        session = self._sessions.get(session_id)
        if session is not None:
            await until_nothing_in_flight(session)

    # Models without state

    def submit_rows(
        self, request: InferRequest, reply: Reply, *, tag: int = 0, account: Account | None = None
    ) -> Submission:
        """Admit the rows of a request to a model without state. `reply` is told once, when all are answered; then
        `rows_of` has the outputs. account: of the tenant, for whom each row is a step.

        Raises ModelUnknown, the fault of a model that is not served, InvalidInput, TooLarge, LimitReached,
        ServerDraining; then nothing was admitted.
        """
        self._expect_serving()
        return submit_rows(
            self._serving(request.model, request.version),
            request,
            reply,
            tag=tag,
            rows_max=self._sessions_per_message_max,
            now_s=self._arrival_s(),
            clock=self._clock,
            observer=self._observer,
            tenant=account,
        )

    async def infer(self, request: InferRequest, *, account: Account | None = None) -> dict[str, Array]:
        """`submit_rows`, and wait: outputs `[N, ...]` by name. Cancelling it cancels the rows. Raises as
        `submit_rows`, and the error of a row that failed.
        """
        done = asyncio.Event()
        submission = self.submit_rows(request, lambda *_: done.set(), account=account)
        await _until(done, submission)
        return rows_of(submission)

    def drain(self) -> None:
        """Take no more work; what was admitted is finished."""
        self._draining = True
        self._watching.end(_draining())

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def held_s(self) -> float:
        """For how long whoever calls is at a limit of its tenant: there is none."""
        return 0.0

    async def until_idle(self) -> None:
        """Until every admitted step is answered."""
        while self._returns:
            await asyncio.wait(self._returns)
        for scheduler in list(self._schedulers.values()):
            await scheduler.until_idle()

    async def leave(self) -> None:
        """Nothing is in flight any more: have the store know all, and give the sessions up."""
        await self._residency.leave_all()

    def statistics(self) -> ServiceStatistics:
        counts = {key: self._sessions.open_by_model[key] for key in self._schedulers}
        return ServiceStatistics(
            sessions=counts,
            state_bytes={key: self._sessions.state_bytes_by_model[key] for key in self._schedulers},
            schedulers={key: scheduler.statistics() for key, scheduler in self._schedulers.items()},
            store=self._residency.store_statistics,
        )

    def _message(self, request: StepRequest, account: Account | None) -> Message:
        """Raises InvalidInput, TooLarge."""
        sessions_max, steps_max = self._sessions_per_message_max, self._steps_per_message_max
        if account is not None:
            theirs = account.limits.steps_per_message_max
            if theirs is not None and theirs < steps_max:
                limit = "tenant_steps_per_message_max"
                return Message(request, sessions_max=sessions_max, steps_max=theirs, steps_limit=limit)
        return Message(request, sessions_max=sessions_max, steps_max=steps_max)

    def _admit(
        self, submission: Submission, place: int, session: Session, now_s: float, *, reached: bool = False
    ) -> None:
        """A session that is in memory takes its steps. reached: its window goes as far back as the store could tell."""
        try:
            scheduler = self._schedulers[session.model]
            if session.sizes:
                scheduler = scheduler.of(session.sizes)
            ticket = submission.admit(place, session, scheduler.model.spec, now_s, scheduler.expect_room)
            if ticket is not None:
                scheduler.submit(ticket)
        except StepForgotten as error:
            first_step = submission.first_step(place)
            if reached or first_step is None or not self._residency.reaches_further(session, first_step):
                self._refuse(submission, place, session.id, error)
            else:
                self._await(submission, place, session.id)
        except NtmServeError as error:
            self._refuse(submission, place, session.id, error)

    def _await(self, submission: Submission, place: int, session_id: str) -> None:
        """The place waits for its session to come back, behind those that wait already."""
        waiting = self._waiting.setdefault(session_id, [])
        waiting.append((submission, place))
        if len(waiting) == 1:
            task = asyncio.get_running_loop().create_task(self._bring(session_id))
            self._returns.add(task)
            task.add_done_callback(self._returns.discard)

    async def _bring(self, session_id: str) -> None:
        """Have a session come back, and take the steps that wait for it, in order; or refuse them."""
        waiting = self._waiting[session_id]
        numbers = [number for one, place in waiting if (number := one.first_step(place)) is not None]
        from_step = min(numbers, default=None)
        error: NtmServeError | None = None
        try:
            session = await self._residency.reach(session_id, from_step)
        except NtmServeError as fault:
            error = fault.with_traceback(None)
        except Exception:  # The boundary: a fault of ours is the answer to these messages.
            error = EngineFault(f"session {session_id}: could not come back; the server's log says why")
            log.exception("a session could not come back", session=session_id)
        for submission, place in self._waiting.pop(session_id):
            if submission.cancelled:
                continue
            if error is not None:
                self._refuse(submission, place, session_id, error)
                continue
            try:
                # One that came meanwhile may ask for what is further back.
                number = submission.first_step(place)
                reached = number is None or (from_step is not None and number >= from_step)
                self._admit(submission, place, session, self._clock(), reached=reached)
            except Exception:  # The same boundary, so that those behind it are answered.
                log.exception("steps were not admitted", session=session_id)
                said = f"session {session_id}: steps were not admitted; the server's log says why"
                self._refuse(submission, place, session_id, EngineFault(said))

    def _refuse(self, submission: Submission, place: int, session_id: str, error: NtmServeError) -> None:
        """Answer with an error, after what the session has in flight: its replies come in order."""
        if isinstance(error, LimitReached) and error.fields.get(LIMIT) in HOLDING:
            submission.held_s = max(submission.held_s, error.retry_after_s)

        def answer() -> None:
            submission.refuse(place, error, next_step=self._next_step(session_id))

        session = self._sessions.get(session_id)
        if session is None or not session.in_flight:
            return answer()
        return session.in_flight[-1].add_follower(answer)

    def _expect_serving(self) -> None:
        if self._draining:
            raise _draining()

    def _serving(self, model_name: str, version: str) -> Scheduler:
        """The scheduler of a model; without a version of the highest that is served. Raises ModelUnknown, and the
        fault of one that is not served.
        """
        key = ModelKey(model_name, version) if version else self._newest.get(model_name)
        if key in self._schedulers and key not in self._faults:
            return self._schedulers[key]
        view = self.model(model_name, version)
        if view.fault is not None:
            raise view.fault
        self._newest[model_name] = view.key
        return self._schedulers[view.key]

    def _is_busy(self, key: ModelKey) -> bool:
        scheduler = self._schedulers.get(key)
        return scheduler is not None and scheduler.statistics().steps_waiting > 0

    def _next_step(self, session_id: str) -> int:
        session = self._sessions.get(session_id)
        return 0 if session is None else session.next_step

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
            fault="" if ticket.error is None else ticket.error.reason,
        )


def _bytes_of(arrays: Mapping[str, Array]) -> int:
    return sum(array.nbytes for array in arrays.values())


def _draining() -> ServerDraining:
    return ServerDraining("server: is stopping; connect again")


def _wanted(session_id: str) -> OwnedElsewhere:
    """Were it given more to do it would never be without a step in flight, and whoever asked would wait in vain."""
    return OwnedElsewhere(
        f"session {session_id}: another server asked for it, and gets it after the steps in flight; ask there"
    )


async def _until(done: asyncio.Event, submission: Submission) -> None:
    """Until it is answered; whoever waits no more wants no answer."""
    try:
        await done.wait()
    except asyncio.CancelledError:
        submission.cancel()
        raise
