"""Room for steps to wait in: each session's, each model's, and that of all models together. No clock, no task.

Rules of this file: whoever finds no room is told when there may be some; whoever asks for more than there
ever is, is told that, and not to try again.
"""

from collections.abc import Callable
from typing import NoReturn

from ntm_serve.errors import InvalidInput, LimitReached
from ntm_serve.observer import Observer
from ntm_serve.sessions import Session
from ntm_serve.step_model import ModelKey

# When a retry makes sense: a client that comes back sooner does nothing but ask, and what takes longer is a guess.
RETRY_MIN_S, RETRY_MAX_S = 0.05, 10.0

# Where nothing ran yet, so that nobody knows how long a step takes.
RETRY_UNKNOWN_S = 1.0


class TotalRoom:
    """Steps that wait over all models of a server, and how many may."""

    __slots__ = ("waiting", "waiting_max")

    def __init__(self, waiting_max: int) -> None:
        self.waiting = 0
        self.waiting_max = waiting_max


class Room:
    """The steps of one model that were admitted and not yet answered. Whoever admits and answers them counts, here
    and in the total: it is on the path of every step, and so done without a call.
    """

    __slots__ = ("_key", "_most", "_observer", "_row_s", "_session_max", "_waiting_max", "total", "waiting")

    def __init__(
        self,
        key: ModelKey,
        *,
        session_max: int,
        waiting_max: int,
        total: TotalRoom,
        observer: Observer,
        row_s: Callable[[], float],
    ) -> None:
        """session_max: of one session. waiting_max: of the model. row_s: how long a row of a run takes, infinity
        where none was seen.
        """
        self.waiting = 0
        self._key = key
        self._session_max = session_max
        self._waiting_max = waiting_max
        self.total = total
        self._most = min(session_max, waiting_max, total.waiting_max)
        self._observer = observer
        self._row_s = row_s

    def expect(self, session: Session, steps: int) -> None:
        """Refuse at the door what would wait behind too much. Raises LimitReached, and InvalidInput where waiting
        does not help.
        """
        total, room = self.total, self._session_max - steps
        if (
            self.waiting + steps > self._waiting_max
            or total.waiting + steps > total.waiting_max
            or room < 0
            or (session.in_flight and session.promised_step - session.next_step > room)
        ):
            self._refuse(session, steps)
        if session.account is not None:
            try:
                session.account.expect_steps(steps)
            except (LimitReached, InvalidInput):
                self._observer.rejected(self._key, reason="tenant")
                raise

    def expect_rows(self, rows: int) -> None:
        """As `expect`, of so many steps each of which is a session's only one."""
        total = self.total
        if self.waiting + rows > self._waiting_max or total.waiting + rows > total.waiting_max:
            most = min(self._waiting_max, total.waiting_max)
            if rows > most:
                raise InvalidInput(f"inputs: expected at most N = {most} rows, as many as may wait, got N = {rows}")
            self._refuse_behind_others(rows)

    def _refuse(self, session: Session, steps: int) -> None:
        if steps > self._most:
            raise InvalidInput(f"inputs: expected at most T = {self._most} steps, as many as may wait, got T = {steps}")
        mine = session.promised_step - session.next_step
        if mine + steps > self._session_max:
            # The refusal comes after the replies to the steps before it: then they wait no more.
            self._raise("session", f"session {session.id}", self._session_max, mine, steps, wait_s=0.0)
        self._refuse_behind_others(steps)

    def _refuse_behind_others(self, steps: int) -> None:
        total = self.total
        if self.waiting + steps > self._waiting_max:
            reason, what, most, waiting = "queue", f"model {self._key}", self._waiting_max, self.waiting
        else:
            reason, what, most, waiting = "total", "server", total.waiting_max, total.waiting
        self._raise(reason, what, most, waiting, steps, wait_s=waiting * self._row_s())

    def _raise(self, reason: str, what: str, most: int, waiting: int, steps: int, *, wait_s: float) -> NoReturn:
        self._observer.rejected(self._key, reason=reason)
        raise LimitReached(
            f"{what}: expected at most {most} steps waiting, got {waiting} and {steps} more",
            retry_after_s=retry_after_s(wait_s),
        )


def retry_after_s(wait_s: float) -> float:
    """When to try again where what waits takes so long."""
    return RETRY_UNKNOWN_S if wait_s == float("inf") else min(max(wait_s, RETRY_MIN_S), RETRY_MAX_S)
