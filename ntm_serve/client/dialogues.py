"""What a group says to a server, and what it makes of the answers: generators without a channel, so that the sync
and the aio group carry out the same. Pure.

A dialogue yields the calls that are to be made, side by side, and is sent their outcomes: replies, or errors.
"""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from ntm_serve.client.conversion import InitialState, open_request
from ntm_serve.client.healing import Patience
from ntm_serve.client.roster import Roster
from ntm_serve.client.rounds import Form
from ntm_serve.errors import (
    DeadlinePassed,
    InvalidInput,
    NtmServeError,
    ServerDraining,
    ServerUnreachable,
    SessionClosed,
    SessionUnknown,
)
from ntm_serve.v1 import sessions_pb2

A = TypeVar("A")

# Calls on their way side by side: enough to hide the round trips of thousands of opens, too few to
# keep a server from its steps.
CALLS_IN_FLIGHT_MAX = 64

# How long a session is waited for that still makes steps of a connection that broke, and how often it is asked.
SETTLING_S = 2.0
PAUSE_S = 0.02

# Nobody answered; what was sent may have been run.
UNANSWERED = (ServerUnreachable, DeadlinePassed, ServerDraining)


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls of one method of Sessions, to be made side by side; timeout_s None is no limit."""

    method: Literal["Open", "Step", "Get", "Close"]
    requests: Sequence[Any]
    timeout_s: float | None


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before going on."""

    wait_s: float


@dataclass(frozen=True, slots=True)
class Backoff:
    """Wait, and then try another line."""

    wait_s: float


# What the sessions of a group begin with: all with the same, or what a function says of the key.
GroupState = InitialState | Callable[[str], InitialState | None]

Dialogue = Generator[Calls | Pause | Backoff, list[Any], A]


@dataclass(frozen=True, slots=True)
class Opening:
    """How a group opens its sessions."""

    model: str
    version: str
    prefix: str
    initial_state: GroupState | None = None
    sizes: Mapping[str, int] | None = None
    outputs: tuple[str, ...] = ()

    def request_of(self, key: str) -> sessions_pb2.OpenRequest:
        """Raises InvalidInput for an initial state that is none."""
        given = self.initial_state
        return open_request(
            self.model,
            self.version,
            self.prefix + key,
            # A second try finds what the first has opened.
            resume=True,
            durability=None,
            initial_state=given(key) if callable(given) else given,
            sizes=self.sizes,
        )


def opened(
    roster: Roster, opening: Opening, keys: Iterable[str], patience: Patience
) -> Dialogue[dict[str, NtmServeError]]:
    """Open the sessions of those keys that are not in the roster yet, or take them up. The keys that failed."""
    errors: dict[str, NtmServeError] = {}
    fresh: list[str] = []
    for key in dict.fromkeys(key for key in keys if key not in roster):
        # What is no ASCII is no id either, and need not fit into a message.
        if key in roster.refused:
            errors[key] = roster.refused[key]
        elif isinstance(key, str) and key.isascii():
            fresh.append(key)
        else:
            errors[key] = InvalidInput(f"key: expected 1 to 128 of A-Z a-z 0-9 . _ ~ : @ + -, got {key!a}")
    if not fresh:
        return errors
    answers: dict[str, Any] = {}
    # With states of their own not all requests at once: they may be more than memory has room for.
    count = len(fresh) if opening.initial_state is None else CALLS_IN_FLIGHT_MAX
    for at in range(0, len(fresh), count):
        requests: dict[str, sessions_pb2.OpenRequest] = {}
        for key in fresh[at : at + count]:
            try:
                requests[key] = opening.request_of(key)
            except NtmServeError as error:
                answers[key] = error
        outcomes, _ = yield from _tried(patience, "Open", list(requests.values()))
        answers.update(zip(requests, outcomes, strict=True))
    taken_up = {key: one for key, one in answers.items() if not isinstance(one, NtmServeError)}
    stands = yield from _settled(taken_up, patience)
    for key, answer in answers.items():
        try:
            if isinstance(answer, NtmServeError):
                raise answer
            roster.add(key, answer, stands[key])
        except NtmServeError as error:
            errors[key] = error
            roster.refuse(key, error)
    return errors


def stepped(roster: Roster, opening: Opening, form: Form[A], patience: Patience) -> Dialogue[A]:
    """Open whom it takes, and make one round. Raises InvalidInput for what belongs to no single key."""
    roster.begin(patience)
    errors = yield from opened(roster, opening, form.keys, patience)
    made = form.round(roster.inputs, roster.outputs, errors)
    try:
        lost = yield from _made(roster, roster.send(made), patience)
        if lost is not None:
            roster.break_off(lost)
    except BaseException:  # The caller waits no longer.
        roster.leave()
        raise
    roster.settle()
    return form.answers(made)


def sent_again(roster: Roster, patience: Patience, timeout_s: float | None) -> Dialogue[NtmServeError | None]:
    """Send what followed a step that failed, and what failed for a while, until none is left that is due. The error,
    where nobody answered any more. timeout_s: the longest that a call may take.
    """
    while messages := roster.again():
        if (lost := (yield from _asked(roster, messages, patience, timeout_s))) is not None:
            return lost
    return None


def closed(roster: Roster, keys: Sequence[str], patience: Patience) -> Dialogue[dict[str, Any]]:
    """End the sessions of keys in the roster: what the server said of each; or where it stood, as far as replies told,
    where an earlier try ended it and its answer was lost.
    """
    stands = {key: step for key, step in roster.next_steps().items() if key in set(keys)}
    ids = {key: roster.id_of(key) for key in keys if key in stands}
    requests = [sessions_pb2.CloseRequest(session_id=one) for one in ids.values()]
    outcomes, again = yield from _tried(patience, "Close", requests)
    ends = dict(zip(ids, outcomes, strict=True))
    for nth, key in enumerate(ids):
        if nth in again and isinstance(ends[key], (SessionClosed, SessionUnknown)):
            known = sessions_pb2.Session(session_id=ids[key], next_step=stands[key])
            ends[key] = sessions_pb2.CloseResponse(session=known)
        roster.forget(key)
    return ends


def _made(
    roster: Roster, waves: Iterable[Sequence[sessions_pb2.StepRequest]], patience: Patience
) -> Dialogue[NtmServeError | None]:
    """Waves of messages, and what is to be sent again because of them. The error, where patience with a server that
    does not answer ended.
    """
    for wave in waves:
        if (lost := (yield from _insisted(roster, wave, patience))) is not None:
            return lost
    while (wait_s := roster.wait_s) is not None:
        if wait_s > 0:
            yield Pause(wait_s)
        if (lost := (yield from _insisted(roster, roster.again(), patience))) is not None:
            return lost
    return None


def _insisted(
    roster: Roster, messages: Sequence[sessions_pb2.StepRequest], patience: Patience
) -> Dialogue[NtmServeError | None]:
    """Messages that have no session in common, sent until each was answered. The error that patience ended with."""
    while messages:
        lost = yield from _asked(roster, messages, patience, patience.left_s())
        if lost is None:
            return None
        try:
            yield Backoff(patience.wait_s(lost, again=True))
        except NtmServeError as last:
            return last
        messages = [message for message in messages if not roster.is_answered(message.tag)]
        for message in messages:
            roster.send_again(message.tag)
    return None


def _asked(
    roster: Roster, messages: Sequence[sessions_pb2.StepRequest], patience: Patience, timeout_s: float | None
) -> Dialogue[NtmServeError | None]:
    """Messages that have no session in common, each as a call. The error of one that was not answered."""
    if not messages:
        return None
    lost: NtmServeError | None = None
    outcomes = yield Calls("Step", messages, timeout_s)
    for message, outcome in zip(messages, outcomes, strict=True):
        patience.heard(outcome)
        if isinstance(outcome, UNANSWERED):
            lost = outcome
        elif isinstance(outcome, NtmServeError):
            lost = roster.fail(message.tag, outcome) or lost
        else:
            patience.progress()
            roster.take(outcome)
    return lost


def _tried(
    patience: Patience, method: Literal["Open", "Close"], requests: Sequence[Any]
) -> Dialogue[tuple[list[Any], set[int]]]:
    """The outcome of each request, of what may be asked twice; and which were sent again."""
    outcomes: list[Any] = [None] * len(requests)
    own: dict[int, Patience] = {}
    again: set[int] = set()
    waiting: Sequence[int] = range(len(requests))
    while waiting:
        answers = yield Calls(method, [requests[nth] for nth in waiting], patience.left_s())
        waits_s: dict[int, float] = {}
        unanswered = False
        for nth, outcome in zip(waiting, answers, strict=True):
            patience.heard(outcome)
            outcomes[nth] = outcome
            if isinstance(outcome, NtmServeError):
                try:
                    waits_s[nth] = own.setdefault(nth, patience.fresh()).wait_s(outcome, again=nth in again)
                except NtmServeError as last:
                    outcomes[nth] = last
                else:
                    unanswered = unanswered or isinstance(outcome, UNANSWERED)
        waiting = list(waits_s)
        again.update(waiting)
        if waiting:
            wait_s = max(waits_s.values())
            yield Backoff(wait_s) if unanswered else Pause(wait_s)
    return outcomes, again


def _settled(taken_up: dict[str, sessions_pb2.OpenResponse], patience: Patience) -> Dialogue[dict[str, int]]:
    """Where each session stands, once it makes no more steps of whoever had it before; or after some patience:
    the server refuses whatever two clients have sent.
    """
    stands = {key: one.session.next_step for key, one in taken_up.items()}
    busy = [key for key, one in taken_up.items() if one.session.steps_in_flight]
    waited_s = 0.0
    while busy and waited_s < SETTLING_S:
        yield Pause(PAUSE_S)
        waited_s += PAUSE_S
        requests = [sessions_pb2.GetRequest(session_id=taken_up[key].session.session_id) for key in busy]
        outcomes = yield Calls("Get", requests, patience.left_s())
        still = []
        for key, outcome in zip(busy, outcomes, strict=True):
            if isinstance(outcome, NtmServeError):
                if patience.waits_after(outcome, again=True):
                    still.append(key)
            else:
                stands[key] = outcome.session.next_step
                if outcome.session.steps_in_flight:
                    still.append(key)
        busy = still
    return stands
