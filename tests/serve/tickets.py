"""What tests of the core share: admitting steps by hand, waiting for a ticket, a service, reading a submission."""

from typing import NamedTuple

import numpy as np

from ntm_serve.lineage import Lineage
from ntm_serve.observer import NoObserver
from ntm_serve.replay import Replay
from ntm_serve.residency import Residency, ResidencySettings
from ntm_serve.search import Search
from ntm_serve.service import Service
from ntm_serve.sessions import Sessions
from ntm_serve.ticket import Ticket
from ntm_serve.watching import Watching


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


def service_of(schedulers, *, limits, clock, claims=None, settings=None, observer=None, **options):
    """A service of these schedulers; without a keeper its sessions live in memory."""
    sessions, by_key = Sessions(limits), {scheduler.key: scheduler for scheduler in schedulers}
    shared = {"sessions": sessions, "schedulers": by_key, "clock": clock}
    shared["observer"] = observer or NoObserver()
    replay = Replay(by_key, observer=shared["observer"], clock=clock)
    residency = Residency(replay=replay, claims=claims, settings=settings or ResidencySettings(), **shared)
    lineage = Lineage(residency, replay, schedulers=by_key, claims=claims)
    looking = {name: shared[name] for name in ("sessions", "schedulers", "clock")}
    watching = Watching(residency=residency, replay=replay, frames_per_s_max=30.0, **looking)
    shared |= {"watching": watching, "search": Search(residency=residency, **looking)}
    return Service(residency=residency, lineage=lineage, **shared, **{"faults": {}, **options})


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
