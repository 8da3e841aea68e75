"""A submission: a message on its way, with a place for each of its sessions, and what became of them.

Rules of this file: the outputs of all its sessions are rows of the same arrays, so that a reply is made of
them as they are; whoever waits is told when all is done, or of each place as it is, and never twice.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ntm_serve.caller import as_told
from ntm_serve.errors import NtmServeError, StepCancelled
from ntm_serve.message import Message
from ntm_serve.observer import Timeline
from ntm_serve.sessions import Session
from ntm_serve.spec import Array, StepSpec, TensorSpec
from ntm_serve.step_model import ModelKey
from ntm_serve.ticket import Ticket

# Told of a ticket that did not end well or was not new: the outcome in the words of the metrics.
Tell = Callable[[Ticket, str], None]


class Submission:
    """A message on its way, and where each session stands after it, by places.

    tag: what the caller knows it by. next_steps: what each session's next step is. durable_steps: the steps
    below outlive the process.
    errors: of the sessions that failed; their rows of the outputs mean nothing.
    """

    __slots__ = (
        "_arrays", "_foreign", "_left", "_message", "_reply", "_retried", "_spec", "_tell", "_tenant", "_tickets",
        "_together", "cancelled", "durable_steps", "errors", "form", "held_s", "model", "next_steps", "session_ids",
        "tag",
    )  # fmt: skip

    def __init__(
        self, message: Message, reply: "Reply", *, tag: int, together: bool, tell: Tell, tenant: str = ""
    ) -> None:
        """reply: told of the places that are answered; of all of them at once where `together`. tenant: who calls the
        sessions by these names.
        """
        self.tag = tag
        self.session_ids = message.request.session_ids
        count = len(self.session_ids)
        self.next_steps = [0] * count
        self.durable_steps = [0] * count
        self.errors: dict[int, NtmServeError] = {}
        self._message = message
        self._reply = reply
        self._together = together
        self._tell = tell
        self._tenant = tenant
        self._left = count
        self._tickets: list[Ticket] = []
        self._spec: StepSpec | None = None
        self._arrays: tuple[Array, ...] = ()
        # Submissions of an equal form have outputs of the same names, dtypes and shapes.
        self.form: tuple[StepSpec, Sequence[int], int] | None = None
        # Of the sessions that were admitted.
        self.model: ModelKey | None = None
        # Nobody waits for it any more.
        self.cancelled = False
        # For how long its tenant is at a limit: whoever sent it is to be read no sooner.
        self.held_s = 0.0
        # Places whose ticket is of another message: a retry of steps in flight.
        self._foreign: set[int] = set()
        # Places that were answered from a reply window, or together with another message.
        self._retried: set[int] = set()

    @property
    def answered(self) -> bool:
        """Whether every place is."""
        return self._left == 0

    def outputs(self) -> list[tuple[TensorSpec, Array]]:
        """The outputs that were asked for, `[S, T, ...]`; none before any place was admitted."""
        if self._spec is None:
            return []
        return [(self._spec.outputs[i], self._arrays[i]) for i in self._message.wanted]

    def timeline(self) -> Timeline:
        """What became of it, for whoever traces it."""
        tickets = self._tickets
        return Timeline(
            model=tickets[0].session.model if tickets else None,
            session_ids=self.session_ids,
            steps=self._message.steps,
            started_s=min((one.started_s for one in tickets if one.started_s is not None), default=None),
            computed_s=max((one.computed_s for one in tickets if one.computed_s is not None), default=None),
            errors=list(self.errors.values()),
        )

    def first_step(self, place: int) -> int | None:
        """The number that the caller gave to the first step of a place; None is the next one."""
        return self._message.request.first_steps[place]

    def admit(
        self, place: int, session: Session, spec: StepSpec, now_s: float, expect_room: Callable[[Session, int], None]
    ) -> Ticket | None:
        """Admit the steps of a place to its session. Returns the ticket, where it is new and must be run.

        Raises InvalidInput and what Session.admit raises; then the place is to be refused.
        """
        message = self._message
        if self._spec is None:
            message.expect(spec)
            self._spec = spec
            axes = (len(self.session_ids), message.steps)
            self.form = (spec, message.wanted, message.steps)
            self.model = session.model
            self._arrays = tuple([np.empty((*axes, *one.shape), one.numpy_dtype) for one in spec.outputs])
        elif spec is not self._spec:
            message.expect(spec)
        rows = tuple([array[place] for array in self._arrays])
        first_step = message.request.first_steps[place]
        ticket, new = session.admit(message.rows(place, spec), rows, first_step, now_s=now_s, expect_room=expect_room)
        if not new:
            self._retried.add(place)
            if ticket.outputs is not rows:
                self._foreign.add(place)
        self._tickets.append(ticket)
        ticket.add_waiter(self, place)
        return ticket if new else None

    def refuse(self, place: int, error: NtmServeError, *, next_step: int) -> None:
        """The place is answered with an error; the session stands at next_step."""
        # Where it was raised knows of this submission: neither would be freed before the garbage collector came.
        self.errors[place] = as_told(error, self._tenant).with_traceback(None)
        self._answer(place, next_step)

    def ticket_settled(self, place: int, ticket: Ticket) -> None:
        """See ticket.Waiter."""
        error = ticket.error
        if error is not None:
            self._tell(ticket, "cancelled" if isinstance(error, StepCancelled) else "error")
            return self.refuse(place, error, next_step=ticket.session.next_step)
        if place in self._retried:
            self._tell(ticket, "duplicate")
            if place in self._foreign:
                for mine, theirs in zip(self._arrays, ticket.outputs, strict=True):
                    mine[place] = theirs
        if ticket.session.kept is not None:
            self.durable_steps[place] = ticket.end_step
        return self._answer(place, ticket.end_step)

    def cancel(self) -> None:
        """Nobody waits for the replies any more: steps that were not committed will not be."""
        self.cancelled = True
        tickets, self._tickets = self._tickets, []
        for ticket in tickets:
            session = ticket.session
            if ticket.drop_waiter(self) and not ticket.keeping and ticket in session.in_flight:
                session.fail(ticket, StepCancelled(f"session {session.id}: step {ticket.first_step}: was cancelled"))
                self._tell(ticket, "cancelled")

    def _answer(self, place: int, next_step: int) -> None:
        self.next_steps[place] = next_step
        self._left -= 1
        if not self._together:
            self._reply(self, (place,))
        elif not self._left:
            self._reply(self, range(len(self.session_ids)))


Reply = Callable[[Submission, Sequence[int]], None]
