"""Rows through a model without state: each is one step of a session that lasts for it alone.

Rules of this file: a request's rows go the way of all steps, and share batches with everybody's; a request is
admitted whole or not at all; NaN and infinity pass, as there is no memory that they could spoil.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ntm_serve.errors import InvalidInput
from ntm_serve.message import Message, StepRequest, wanted_outputs
from ntm_serve.scheduler import Scheduler
from ntm_serve.sessions import Limits, Session
from ntm_serve.spec import Array, StepSpec, expect_names, expect_tensor
from ntm_serve.submission import Reply, Submission, Tell
from ntm_serve.ticket import Ticket


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
        """Refuse what does not fit the spec. Raises InvalidInput."""
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
            raise InvalidInput(
                f"inputs: expected 1 <= N <= {rows_max} rows, got N = {rows}", fields={"sessions_max": str(rows_max)}
            )
        self.steps = 1
        self._arrays = tuple([inputs[one.name][:, None] for one in spec.inputs])
        self._spec = spec
        self._all_finite = True  # Nobody asks.
        self.wanted = wanted_outputs(spec, request.output_names)
        self.request = StepRequest(("",) * rows, (None,) * rows, {}, request.output_names)


class PassingSession(Session):
    """A session of one message: it has no name, nothing of it is kept, and nobody steps it again."""

    __slots__ = ()

    def commit(self, ticket: Ticket, limits: Limits, now_s: float) -> None:
        """Its steps are done, and so is it."""
        del self.in_flight[0]
        self.next_step = ticket.end_step


def submit_rows(
    scheduler: Scheduler,
    request: InferRequest,
    reply: Reply,
    *,
    rows_max: int,
    tag: int,
    now_s: float,
    tell: Tell,
) -> Submission:
    """Admit the rows of a request; see Service.submit_rows."""
    spec = scheduler.model.spec
    if spec.state:
        raise InvalidInput(
            f"model {scheduler.key}: has state, so its steps are those of a session: "
            "expected a session's name (by our own protocol after Sessions.Open, by the inference protocol as the "
            "parameter sequence_id with sequence_start), got rows without one"
        )
    message = Rows(request, spec, rows_max=rows_max)
    rows = len(message.request.session_ids)
    scheduler.expect_room_for(rows)
    submission = Submission(message, reply, tag=tag, together=True, tell=tell)
    for place in range(rows):
        session = PassingSession("", scheduler.key, scheduler.initial_state, now_s)
        ticket = submission.admit(place, session, spec, now_s, _has_room)
        assert ticket is not None, "a session that is new has no retries"
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
