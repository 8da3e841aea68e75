"""Rows through a model without state: each is one step of a session that lasts for it alone.

Rules of this file: a request's rows go the way of all steps, and share batches with everybody's; a request is
admitted whole or not at all; NaN and infinity pass, as there is no memory that they could spoil, and numbers beyond an
input's range do not, as the step is not made for them.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import structlog

from ntm_serve.errors import EngineFault, InvalidInput, LimitReached, StepCancelled, TooLarge
from ntm_serve.message import Message, StepRequest, wanted_outputs
from ntm_serve.observer import Observer
from ntm_serve.scheduler import Scheduler
from ntm_serve.sessions import Limits, Session
from ntm_serve.spec import Array, StepSpec, expect_names, expect_tensor, expect_within
from ntm_serve.step_model import ModelKey
from ntm_serve.submission import Reply, Submission
from ntm_serve.tenants import Account
from ntm_serve.ticket import Ticket

log = structlog.get_logger()


class InferRequest(NamedTuple):
    """N rows for a model without state.

    version: empty is the highest that is served. inputs: each `[N, ...]`. output_names: what the reply shall carry,
    in this order; empty for every output.
    """

    model: str
    version: str
    inputs: Mapping[str, Array]
    output_names: Sequence[str] = ()


class Rows(Message):
    """The rows of a request as a message of N sessions and one step of each."""

    __slots__ = ()

    def __init__(self, request: InferRequest, spec: StepSpec, *, rows_max: int) -> None:
        """Refuse what does not fit the spec. Raises InvalidInput, TooLarge."""
        inputs = request.inputs
        expect_names(spec.inputs, inputs, "inputs")
        counts: set[int] = set()
        for one in spec.inputs:
            expect_tensor(one, inputs[one.name], leading=("N",))
            counts.add(len(inputs[one.name]))
        if len(counts) > 1:
            raise InvalidInput(f"inputs: expected one N for all, got {sorted(counts)}")
        rows = counts.pop()
        if not 1 <= rows <= rows_max:
            wrong = f"inputs: expected 1 <= N <= {rows_max} rows, got N = {rows}"
            if not rows:
                raise InvalidInput(wrong)
            raise TooLarge.beyond("sessions_per_message_max", wrong, expected=rows_max, actual=rows)
        for place, bounds in spec.ranged:
            name = spec.inputs[place].name
            expect_within(name, inputs[name], bounds)
        self.steps = 1
        self._arrays = tuple([inputs[one.name][:, None] for one in spec.inputs])
        self._spec = spec
        self._all_fit = True  # Nobody asks.
        self.wanted = wanted_outputs(spec, request.output_names)
        self.request = StepRequest(("",) * rows, (None,) * rows, {}, request.output_names)


class PassingSession(Session):
    """A session of one message: it has no name, nothing of it is kept, and nobody steps it again."""

    __slots__ = ()

    def commit(self, ticket: Ticket, limits: Limits, now_s: float) -> None:
        """Its steps are done, and so is it."""
        del self.in_flight[0]
        self.next_step = ticket.end_step


class _Account:
    """Tells of a request once: when it is answered, or when its caller has left. Then whoever waits is told."""

    __slots__ = ("_clock", "_first", "_key", "_observer", "_over", "_reply", "_rows", "_submitted_s")

    def __init__(
        self,
        key: ModelKey,
        rows: int,
        reply: Reply,
        *,
        submitted_s: float,
        clock: Callable[[], float],
        observer: Observer,
    ) -> None:
        self._key = key
        self._rows = rows
        self._reply = reply
        self._submitted_s = submitted_s
        self._clock = clock
        self._observer = observer
        self._first: Ticket | None = None
        self._over = False

    def admit(self, ticket: Ticket) -> None:
        """One of its rows; the first says since when they run."""
        ticket.silent = True
        self._first = self._first or ticket

    def answered(self, submission: Submission, places: Sequence[int]) -> None:
        """See submission.Reply."""
        if not submission.errors:
            self._tell("ok", "")
        else:
            error = submission.errors[min(submission.errors)]
            if isinstance(error, EngineFault):  # Whoever runs the server must see it, and not once for each row.
                log.error("rows failed", model=str(self._key), rows=len(submission.errors), fault=error.detail)
            self._tell("error", error.reason)
        self._reply(submission, places)

    def left(self, _ticket: Ticket, outcome: str) -> None:
        """See submission.Tell: of rows that failed it is told when all are answered."""
        if outcome == "cancelled":
            self._tell(outcome, StepCancelled.reason)

    def _tell(self, outcome: str, fault: str) -> None:
        if self._over:
            return
        self._over = True
        started_s = None if self._first is None else self._first.started_s
        self._observer.rows_settled(
            self._key,
            outcome=outcome,
            rows=self._rows,
            latency_s=self._clock() - self._submitted_s,
            queue_wait_s=None if started_s is None else started_s - self._submitted_s,
            fault=fault,
        )


def submit_rows(
    scheduler: Scheduler,
    request: InferRequest,
    reply: Reply,
    *,
    tag: int,
    rows_max: int,
    now_s: float,
    clock: Callable[[], float],
    observer: Observer,
    tenant: Account | None = None,
) -> Submission:
    """Admit the rows of a request; see Service.submit_rows. tenant: who pays for them."""
    spec, key = scheduler.model.spec, scheduler.key
    if spec.state:
        raise InvalidInput(
            f"model {key}: has state, so its steps are those of a session: "
            "expected a session's name (by our own protocol after Sessions.Open, by the inference protocol as the "
            "parameter sequence_id with sequence_start), got rows without one"
        )
    message = Rows(request, spec, rows_max=rows_max)
    rows = len(message.request.session_ids)
    scheduler.expect_room_for(rows)
    if tenant is not None:
        try:
            tenant.expect_steps(rows)
        except (LimitReached, TooLarge):
            observer.rejected(key, reason="tenant")
            raise
    account = _Account(key, rows, reply, submitted_s=now_s, clock=clock, observer=observer)
    submission = Submission(message, account.answered, tag=tag, together=True, tell=account.left)
    for place in range(rows):
        session = PassingSession("", key, scheduler.initial_state, now_s)
        session.account = tenant
        ticket = submission.admit(place, session, spec, now_s, _has_room)
        assert ticket is not None, "a session that is new has no retries"
        account.admit(ticket)
        scheduler.submit(ticket)
    return submission


def rows_of(submission: Submission) -> dict[str, Array]:
    """The outputs `[N, ...]` that were asked for, of a submission that is answered. Raises the error of the first row
    that has one: a request is answered whole.
    """
    if submission.errors:
        raise submission.errors[min(submission.errors)]
    return {spec.name: array[:, 0] for spec, array in submission.outputs()}


def _has_room(_session: Session, _steps: int) -> None:
    """There is: it was asked for all rows at once."""
