"""Which waiting steps run together: pure decisions, no clock, no task, no engine.

Rules of this file: a batch holds at most one step of a session; whoever took part in a batch and has
more to do goes to the end of the line, so that nobody waits longer than the line is long.
"""

from collections import deque
from collections.abc import Iterable

from ntm_serve.sessions import Session
from ntm_serve.ticket import Ticket

# Fewer rows than this are not worth a second core: the step's own overhead is then most of its time.
TILE_MIN = 16


class Batcher:
    """The line of sessions of one model that have a step waiting."""

    def __init__(self, batch_max: int) -> None:
        self.batch_max = batch_max
        self._line: deque[Session] = deque()

    def __len__(self) -> int:
        return len(self._line)

    def add(self, session: Session) -> None:
        """The session has something in flight: it joins the line, unless it is in it or in a batch, or its steps are
        on their way to the store.
        """
        if not session.queued and not session.in_flight[0].keeping:
            session.queued = True
            self._line.append(session)

    def take(self, lanes: int = 1) -> list[Ticket]:
        """The next company, a ticket of each session: the first in the line, shared with the other lanes that
        are free; empty when nobody waits.
        """
        line = self._line
        size_max = min(self.batch_max, max(TILE_MIN, -(-len(line) // lanes)))
        company: list[Ticket] = []
        while line and len(company) < size_max:
            session = line.popleft()
            if session.in_flight and not session.in_flight[0].keeping:
                company.append(session.in_flight[0])
            else:
                session.queued = False
        return company

    def give_back(self, company: Iterable[Ticket]) -> None:
        """They rode: sessions with more to do join the end of the line."""
        for ticket in company:
            session = ticket.session
            if session.in_flight and not session.in_flight[0].keeping:
                self._line.append(session)
            else:
                session.queued = False
