"""What tests of the core share: admitting steps by hand, waiting for a ticket, reading a submission."""

from typing import NamedTuple

import numpy as np

from ntm_serve.ticket import Ticket


class Admitted(NamedTuple):
    """What Session.admit gives."""

    ticket: Ticket
    new: bool


def admit(session, inputs, first_step=None, **options):
    """Steps of a running sum, `[T, width]`, whose outputs are as large as its inputs."""
    outputs = tuple(np.empty_like(array) for array in inputs)
    return Admitted(*session.admit(inputs, outputs, first_step, now_s=0.0, **options))


class Told:
    """A waiter that calls a function with the ticket."""

    def __init__(self, tell):
        self.tell = tell

    def ticket_settled(self, place, ticket):
        self.tell(ticket)


class Reply(NamedTuple):
    """What became of one place of a message."""

    next_step: int
    error: Exception | None
    outputs: dict


def replies_of(submission):
    """What became of each place."""
    return [
        Reply(
            submission.next_steps[place],
            submission.errors.get(place),
            {spec.name: array[place] for spec, array in submission.outputs()},
        )
        for place in range(len(submission.session_ids))
    ]
