"""Room for steps to wait in: each session's, each model's, and that of all models together. No clock, no task.

Rules of this file: whoever finds no room is told when there may be some; whoever asks for more than there
ever is, is told that, and not to try again.
"""

from collections.abc import Callable
from typing import NoReturn

from ntm_serve.errors import LIMIT, LimitReached, TooLarge
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

    __slots__ = ("_key", "_observer", "_row_s", "_session_max", "_waiting_max", "total", "waiting")

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
        self._observer = observer
        self._row_s = row_s

    def expect(self, session: Session, steps: int) -> None:
        """Refuse at the door what would wait behind too much. Raises LimitReached, and TooLarge where waiting does
        not help.
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
            except (LimitReached, TooLarge):
                self._observer.rejected(self._key, reason="tenant")
                raise

    def expect_rows(self, rows: int) -> None:
        """As `expect`, of so many steps each of which is a session's only one."""
        total = self.total
        if self.waiting + rows > self._waiting_max or total.waiting + rows > total.waiting_max:
            limit, most = min(self._limits()[1:], key=lambda one: one[1])
            if rows > most:
                wrong = f"inputs: expected at most N = {most} rows, as many as may wait, got N = {rows}"
                raise TooLarge.beyond(limit, wrong, expected=most, actual=rows)
            self._refuse_behind_others(rows)

    def _refuse(self, session: Session, steps: int) -> None:
        limit, most = min(self._limits(), key=lambda one: one[1])
        if steps > most:
            wrong = f"inputs: expected at most T = {most} steps, as many as may wait, got T = {steps}"
            raise TooLarge.beyond(limit, wrong, expected=most, actual=steps)
        mine = session.promised_step - session.next_step
        if mine + steps > self._session_max:
            # The refusal comes after the replies to the steps before it: then they wait no more.
            of_session, _, _ = self._limits()
            self._raise("session", f"session {session.id}", of_session, mine, steps, wait_s=0.0)
        self._refuse_behind_others(steps)

    def _refuse_behind_others(self, steps: int) -> None:
        total = self.total
        _, of_model, of_all = self._limits()
        if self.waiting + steps > self._waiting_max:
            reason, what, limit, waiting = "queue", f"model {self._key}", of_model, self.waiting
        else:
            reason, what, limit, waiting = "total", "server", of_all, total.waiting
        self._raise(reason, what, limit, waiting, steps, wait_s=waiting * self._row_s())

    def _raise(
        self, reason: str, what: str, limit: tuple[str, int], waiting: int, steps: int, *, wait_s: float
    ) -> NoReturn:
        self._observer.rejected(self._key, reason=reason)
        name, most = limit
        raise LimitReached(
            f"{what}: expected at most {most} steps waiting, got {waiting} and {steps} more",
            retry_after_s=retry_after_s(wait_s),
            fields={LIMIT: name},
        )

    def _limits(self) -> tuple[tuple[str, int], tuple[str, int], tuple[str, int]]:
        """Of a session, of the model and of all, by the names of their settings."""
        return (
            ("session_steps_waiting_max", self._session_max),
            ("steps_waiting_max", self._waiting_max),
            ("steps_waiting_total_max", self.total.waiting_max),
        )


def retry_after_s(wait_s: float) -> float:
    """When to try again where what waits takes so long."""
    return RETRY_UNKNOWN_S if wait_s == float("inf") else min(max(wait_s, RETRY_MIN_S), RETRY_MAX_S)
