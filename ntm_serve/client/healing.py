"""Healing: what a client does when a connection breaks, or a server is away for a while. Pure: errors and times in,
decisions out.

Rules of this file:
- only what passes by itself is waited for: a server that is gone, stops, or does not have the session yet;
- a wait has a bound that grows, and is drawn from the whole of it ("full jitter", as Brooker has it in "Exponential
  backoff and jitter", 2015), so that the clients of a server that went away do not come back all at once;
- a new reply is progress, and with progress patience begins anew;
- a session that a server lost is never begun anew without a word: its memory is gone, and its caller must know.
"""

import copy
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from numbers import Real

from ntm_serve.errors import (
    DeadlinePassed,
    InvalidInput,
    LimitReached,
    NtmServeError,
    OwnedElsewhere,
    ServerDraining,
    ServerUnreachable,
    SessionLost,
    SessionUnknown,
    StepAhead,
    StepCancelled,
    StepConflict,
    StoreUnavailable,
)
from ntm_serve.wire import error_of

# After these a later try may go well: the connection or the server is not there now. A step that was cancelled was
# cancelled by the end of an earlier try: what the caller itself cancels is not an error that anybody would look at.
PASSING = (ServerUnreachable, ServerDraining, OwnedElsewhere, StoreUnavailable, StepCancelled)

# These say nothing of whether there is a server.
SILENT = (ServerUnreachable, DeadlinePassed, StepCancelled)

# How long a server is waited for that never answered this client: an address that is wrong should be told soon. But
# not before some tries: one connection that a network swallows takes longer to be found out.
FIRST_ANSWER_S = 3.0
FIRST_TRIES = 4

# The longest that asking where a session stands may take: where it takes longer the connection is as good as broken.
PROBE_S = 5.0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How a client goes on when its connection breaks or no server answers.

    patience_s: how long it tries without any progress; then the last error is raised.
    first_backoff_s, multiplier, backoff_max_s: the wait before a try is drawn from 0 to a bound, which begins with
    the first, is multiplied with every try and grows to no more than the last.
    silence_max_s: a connection over which nothing came for so long, not even the answer to a ping, is given up.
    waits_at_limits: calls and groups wait for a limit's time also where nothing broke, as who works through a file
    would; otherwise it is raised, and the caller decides.
    """

    patience_s: float = 30.0
    first_backoff_s: float = 0.05
    backoff_max_s: float = 2.0
    multiplier: float = 2.0
    silence_max_s: float = 20.0
    waits_at_limits: bool = False

    def __post_init__(self) -> None:
        for name in ("patience_s", "first_backoff_s", "backoff_max_s", "silence_max_s"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InvalidInput(f"{name}: expected more than 0 s and an end, got {getattr(self, name)}")
        if not 1 <= self.multiplier < float("inf"):
            raise InvalidInput(f"multiplier: expected at least 1, got {self.multiplier}")


RETRY_DEFAULT = RetryPolicy()


class Healing:
    """How one client heals: its policy, None to raise every error at once, and whether a server ever answered it."""

    def __init__(
        self,
        policy: RetryPolicy | None,
        *,
        clock: Callable[[], float],
        chance: random.Random | None = None,
    ) -> None:
        self.policy = policy
        self.clock = clock
        self.chance = chance or random.Random()
        self._answered = threading.Event()

    def heard(self, outcome: object) -> None:
        """A call ended with this: a reply, or an error."""
        if not isinstance(outcome, SILENT):
            self._answered.set()

    def patience_s(self, failures: int) -> float:
        """How long a client goes on without progress, after so many failures."""
        if self.policy is None:
            return 0.0
        if self._answered.is_set() or failures < FIRST_TRIES:
            return self.policy.patience_s
        return min(self.policy.patience_s, FIRST_ANSWER_S)


def expect_timeout(timeout_s: object) -> None:
    """Refuse what is no time to wait for an answer; 0 is what is left of a time that is over. Raises InvalidInput."""
    if timeout_s is not None and not (isinstance(timeout_s, Real) and 0 <= float(timeout_s) < inf):
        raise InvalidInput(f"timeout_s: expected seconds, at least 0, or None for no limit, got {timeout_s!r}")


class Patience:
    """The tries of one call, or of a stream from one reply to the next. timeout_s: the longest that all of them may
    take together, from now on; None is no limit.
    """

    def __init__(self, healing: Healing, *, timeout_s: float | None = None) -> None:
        """Raises InvalidInput for a time that is none."""
        expect_timeout(timeout_s)
        self._healing = healing
        # As Python's own number: what a thread waits for takes no other.
        self._timeout_s = None if timeout_s is None else float(timeout_s)
        self._deadline_s = None if self._timeout_s is None else healing.clock() + self._timeout_s
        self.progress()

    def progress(self) -> None:
        """Something new came: patience begins anew."""
        self.failures = 0
        self._failed_s = 0.0
        self._bound_s = 0.0

    def fresh(self) -> "Patience":
        """Of one part of the call, which has its own tries and the same end."""
        part = copy.copy(self)
        part.progress()
        return part

    @property
    def now_s(self) -> float:
        return self._healing.clock()

    def heard(self, outcome: object) -> None:
        """A call ended with this: a reply, or an error."""
        self._healing.heard(outcome)

    def waits_after(self, error: NtmServeError, *, again: bool) -> bool:
        """Whether this client sends again what was answered with this error. again: it was sent before."""
        policy = self._healing.policy
        return policy is not None and passes(error, again=again or policy.waits_at_limits)

    def left_s(self, at_most_s: float | None = None) -> float | None:
        """How long the next try may take; None is for ever."""
        if self._deadline_s is None:
            return at_most_s
        left_s = max(0.0, self._deadline_s - self._healing.clock())
        return left_s if at_most_s is None else min(left_s, at_most_s)

    def wait_s(self, error: NtmServeError, *, again: bool = False) -> float:
        """How long to wait before the next try, after this error. again: what failed was sent before, by a try that
        was not answered; only then a limit is waited for.

        Raises the error itself where no try would help, and where patience or time is at its end.
        """
        healing, policy = self._healing, self._healing.policy
        healing.heard(error)
        if policy is None or not (self.waits_after(error, again=again) or isinstance(error, DeadlinePassed)):
            raise error
        now_s = healing.clock()
        if not self.failures:
            self._failed_s = now_s
        self.failures += 1
        end_s = self._failed_s + healing.patience_s(self.failures)
        if self._deadline_s is not None and now_s >= self._deadline_s:
            if isinstance(error, DeadlinePassed) and self.failures == 1:
                raise error
            raise DeadlinePassed(f"the {self._timeout_s:g} s of the call are over{self._tried(now_s)}; last: {error}")
        if now_s >= end_s:
            raise _told(error, self._tried(now_s))
        grown_s = self._bound_s * policy.multiplier
        self._bound_s = min(policy.backoff_max_s, max(policy.first_backoff_s, grown_s))
        wait_s = healing.chance.uniform(0.0, self._bound_s)
        if isinstance(error, LimitReached):
            wait_s += error.retry_after_s
            if now_s + wait_s > end_s:
                raise _told(error, self._tried(now_s))
        # The last try is made when patience ends, not some backoff before.
        wait_s = min(wait_s, end_s - now_s)
        return wait_s if self._deadline_s is None else min(wait_s, self._deadline_s - now_s)

    def _tried(self, now_s: float) -> str:
        tries = "once" if self.failures == 1 else f"{self.failures} times"
        return f"; tried {tries} in {now_s - self._failed_s:.1f} s without a new reply"


def passes(error: NtmServeError, *, again: bool) -> bool:
    """Whether a message that was answered with this error is to be sent again. again: it was sent before."""
    return isinstance(error, PASSING) or (again and isinstance(error, LimitReached))


def meaning_of(error: NtmServeError, session_id: str, answered_step: int) -> NtmServeError:
    """What an error means for a session that this client opened, and of which it has the replies to all steps below
    `answered_step`: SessionLost where the server does not know it, or stands at an earlier step.
    """
    if isinstance(error, SessionUnknown):
        return SessionLost(
            f"session {session_id}: stood at step {answered_step}, and the server does not know it any more: its "
            "memory is gone, as that of a session of durability 'memory' is with its server. Open it anew and send its "
            "steps from 0 on; with durability 'process' or 'disk' it outlives the server",
            fields={"answered_step": str(answered_step)},
        )
    if isinstance(error, StepAhead) and int(error.fields.get("expected_step", answered_step)) < answered_step:
        return fallen_back(session_id, answered_step, int(error.fields["expected_step"]))
    return error


def expect_standing(session_id: str, stands_at: int, *, answered_step: int, sent_step: int) -> None:
    """Check where a server says that a session stands, which answered the steps below `answered_step` and was sent
    those below `sent_step`. Raises SessionLost, StepConflict.
    """
    if stands_at < answered_step:
        raise fallen_back(session_id, answered_step, stands_at)
    if stands_at > sent_step:
        raise StepConflict(
            f"session {session_id}: stands at step {stands_at}, and this client sent only those below {sent_step}: "
            "does another client step this session?",
            fields={"expected_step": str(stands_at)},
        )


def fallen_back(session_id: str, answered_step: int, stands_at: int) -> SessionLost:
    """The server has an earlier memory than one that it answered from."""
    return SessionLost(
        f"session {session_id}: the steps below {answered_step} were answered, and it stands at step {stands_at}: the "
        f"server lost what lay between. Send the steps from {stands_at} on again, in a session resumed anew, or open "
        "another",
        fields={"answered_step": str(answered_step), "expected_step": str(stands_at)},
    )


def _told(error: NtmServeError, tried: str) -> NtmServeError:
    """The same error, with what was tried."""
    retry_after_s = error.retry_after_s if isinstance(error, LimitReached) else None
    return error_of(
        reason=error.reason, message=f"{error.message}{tried}", metadata=error.fields, retry_after_s=retry_after_s
    )
