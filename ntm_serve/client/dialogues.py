"""What a group says to a server, and what it makes of the answers: generators without a channel, so that the sync
and the aio group carry out the same. Pure.

A dialogue yields the calls that are to be made, side by side, and is sent their outcomes: replies, or errors.
"""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from ntm_serve.client.roster import Roster
from ntm_serve.client.rounds import Form
from ntm_serve.errors import DeadlinePassed, InvalidInput, NtmServeError, ServerDraining, ServerUnreachable
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
    """Calls of one method of Sessions, to be made side by side."""

    method: Literal["Open", "Step", "Get", "Close"]
    requests: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait before going on."""

    wait_s: float


Dialogue = Generator[Calls | Pause, list[Any], A]


@dataclass(frozen=True, slots=True)
class Opening:
    """How a group opens its sessions."""

    model: str
    version: str
    prefix: str


def opened(roster: Roster, opening: Opening, keys: Iterable[str]) -> Dialogue[dict[str, NtmServeError]]:
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
    outcomes = yield Calls(
        "Open",
        [
            sessions_pb2.OpenRequest(
                model=opening.model, version=opening.version, session_id=opening.prefix + key, resume=True
            )
            for key in fresh
        ],
    )
    answers = dict(zip(fresh, outcomes, strict=True))
    stands = yield from _settled({key: one for key, one in answers.items() if not isinstance(one, NtmServeError)})
    for key, answer in answers.items():
        try:
            if isinstance(answer, NtmServeError):
                raise answer
            roster.add(key, answer, stands[key])
        except NtmServeError as error:
            errors[key] = error
            roster.refuse(key, error)
    return errors


def stepped(roster: Roster, opening: Opening, form: Form[A]) -> Dialogue[A]:
    """Open whom it takes, and make one round. Raises InvalidInput for what belongs to no single key."""
    roster.begin()
    errors = yield from opened(roster, opening, form.keys)
    made = form.round(roster.inputs, roster.outputs, errors)
    try:
        for wave in roster.send(made):
            if (yield from _asked(roster, wave)) is not None:
                break
        else:
            yield from sent_again(roster)
    except BaseException:  # The caller waits no longer.
        roster.leave()
        raise
    roster.settle()
    return form.answers(made)


def sent_again(roster: Roster) -> Dialogue[NtmServeError | None]:
    """Send what followed a step that failed, until none is left. The error, where nobody answered any more."""
    while messages := roster.again():
        if (lost := (yield from _asked(roster, messages))) is not None:
            return lost
    return None


def closed(roster: Roster, keys: Sequence[str]) -> Dialogue[dict[str, Any]]:
    """End the sessions of keys in the roster: what the server said of each."""
    ids = {key: roster.id_of(key) for key in keys if key in roster}
    outcomes = yield Calls("Close", [sessions_pb2.CloseRequest(session_id=one) for one in ids.values()])
    for key in ids:
        roster.forget(key)
    return dict(zip(ids, outcomes, strict=True))


def _asked(roster: Roster, messages: Sequence[sessions_pb2.StepRequest]) -> Dialogue[NtmServeError | None]:
    """One wave of messages, each as a call. The error, where one was not answered: then all is broken off."""
    lost: NtmServeError | None = None
    outcomes = yield Calls("Step", messages)
    for message, outcome in zip(messages, outcomes, strict=True):
        if isinstance(outcome, UNANSWERED):
            lost = outcome
        elif isinstance(outcome, NtmServeError):
            roster.fail(message.tag, outcome)
        else:
            roster.take(outcome)
    if lost is not None:
        roster.break_off(lost)
    return lost


def _settled(taken_up: dict[str, sessions_pb2.OpenResponse]) -> Dialogue[dict[str, int]]:
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
        outcomes = yield Calls("Get", requests)
        still = []
        for key, outcome in zip(busy, outcomes, strict=True):
            if not isinstance(outcome, NtmServeError):
                stands[key] = outcome.session.next_step
                if outcome.session.steps_in_flight:
                    still.append(key)
        busy = still
    return stands
