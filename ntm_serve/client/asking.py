"""What a client of single sessions says to a server, as often as it takes: generators without a channel, so that the
sync and the aio client carry out the same. Pure, but for the names that are drawn for sessions.

A generator yields a call that is to be made, and is sent its reply or its error; or it yields a wait.
"""

import secrets
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from ntm_serve.client.conversion import SessionFacts, Steps
from ntm_serve.client.dialogues import PAUSE_S, SETTLING_S, Pause
from ntm_serve.client.healing import PROBE_S, Healing, Patience
from ntm_serve.client.lines import Metadata, affinity
from ntm_serve.errors import NtmServeError, SessionClosed, SessionExists, SessionUnknown
from ntm_serve.spec import Array
from ntm_serve.v1 import sessions_pb2

A = TypeVar("A")

Method = Literal[
    "Models.List",
    "Models.Get",
    "Admin.ListSessions",
    "Admin.Drain",
    "Sessions.Open",
    "Sessions.Step",
    "Sessions.Get",
    "Sessions.List",
    "Sessions.Close",
    "Sessions.Snapshot",
    "Sessions.Restore",
    "Sessions.Fork",
    "Sessions.Rewind",
]


@dataclass(frozen=True, slots=True)
class Call:
    """One call; timeout_s None is no limit."""

    method: Method
    request: Any
    timeout_s: float | None

    @property
    def session_id(self) -> str:
        """Whose call it is; empty where it belongs to no session."""
        if self.method == "Sessions.Step":
            return str(self.request.session_ids[0])
        if self.method in ("Sessions.Open", "Sessions.Get", "Sessions.Close"):
            return str(self.request.session_id)
        return ""

    @property
    def affinity(self) -> Metadata:
        """What tells a balancer whose call it is: with a fork or a snapshot also the session that it is made of."""
        return affinity(self.session_id or str(getattr(self.request, "session_id", "")))


@dataclass(frozen=True, slots=True)
class Backoff:
    """Wait, and then try another line."""

    wait_s: float


Asking = Generator[Call | Pause | Backoff, Any, A]


def asked(healing: Healing, method: Method, request: Any, timeout_s: float | None) -> Asking[Any]:
    """The reply to what may be asked twice. Raises the error of the last try."""
    return (yield from _tried(healing, Patience(healing, timeout_s=timeout_s), method, request, request))


def opened(
    healing: Healing, request: sessions_pb2.OpenRequest, timeout_s: float | None
) -> Asking[sessions_pb2.OpenResponse]:
    """Open a session. One without a name gets it here, so that a second try finds what the first has opened."""
    first, again = sessions_pb2.OpenRequest(), sessions_pb2.OpenRequest()
    first.CopyFrom(request)
    if not first.session_id:
        first.session_id = secrets.token_hex(16)
    again.CopyFrom(first)
    again.resume = request.resume or not request.session_id
    patience = Patience(healing, timeout_s=timeout_s)
    try:
        response: sessions_pb2.OpenResponse = yield from _tried(healing, patience, "Sessions.Open", first, again)
    except SessionExists as error:
        if not patience.failures:
            raise
        raise SessionExists(
            f"{error.message}; an earlier try of this call, whose answer was lost, may have opened it: resume=True "
            "takes it up",
            fields=error.fields,
        ) from None
    return response


def restored(
    healing: Healing, request: sessions_pb2.RestoreRequest, timeout_s: float | None
) -> Asking[sessions_pb2.OpenResponse]:
    """Open a session where a snapshot was taken. One without a name gets it here, as in `opened`."""
    named = sessions_pb2.RestoreRequest()
    named.CopyFrom(request)
    named.session_id = request.session_id or secrets.token_hex(16)
    patience = Patience(healing, timeout_s=timeout_s)
    made = yield from _begun(
        healing, patience, "Sessions.Restore", named, named.session_id, drawn=not request.session_id
    )
    return sessions_pb2.OpenResponse(session=made.session, inputs=made.inputs, outputs=made.outputs)


def forked(
    healing: Healing, request: sessions_pb2.ForkRequest, timeout_s: float | None
) -> Asking[sessions_pb2.OpenResponse]:
    """Open a session where another stands or stood. One without a name gets it here, as in `opened`."""
    named = sessions_pb2.ForkRequest()
    named.CopyFrom(request)
    named.fork_session_id = request.fork_session_id or secrets.token_hex(16)
    patience = Patience(healing, timeout_s=timeout_s)
    made = yield from _begun(
        healing, patience, "Sessions.Fork", named, named.fork_session_id, drawn=not request.fork_session_id
    )
    return (yield from _taken_up(healing, patience, made.session))


def closed(healing: Healing, known: sessions_pb2.Session, timeout_s: float | None) -> Asking[sessions_pb2.Session]:
    """End a session: it as it stood; or as it is known, where an earlier try ended it and its answer was lost."""
    request = sessions_pb2.CloseRequest(session_id=known.session_id)
    patience = Patience(healing, timeout_s=timeout_s)
    try:
        response = yield from _tried(healing, patience, "Sessions.Close", request, request)
    except (SessionClosed, SessionUnknown):
        if not patience.failures:
            raise
        return known
    session: sessions_pb2.Session = response.session
    return session


def stepped(
    healing: Healing,
    session: SessionFacts,
    steps: Steps,
    timeout_s: float | None,
    asked: Sequence[str] | None = None,
) -> Asking[dict[str, Array]]:
    """The outputs `[T, ...]` of the session's next steps. asked: those by these names; None are the session's."""
    patience = Patience(healing, timeout_s=timeout_s)
    message = session.message_of(steps, asked=asked)
    sent_step = session.next_step + steps.count
    while True:
        outcome = yield Call("Sessions.Step", message, patience.left_s())
        if not isinstance(outcome, NtmServeError):
            return session.advance(outcome)
        yield from back(patience, session, outcome, sent_step=sent_step, again=patience.failures > 0)


def back(
    patience: Patience, session: SessionFacts, error: NtmServeError, *, sent_step: int, again: bool
) -> Asking[None]:
    """After an error: wait until a server has the session, which was sent the steps below sent_step, and see where it
    stands. again: what failed was sent before. Raises SessionLost, StepConflict, and the error that does not pass.
    """
    request = sessions_pb2.GetRequest(session_id=session.id)
    while True:
        yield Backoff(patience.wait_s(session.meaning_of(error), again=again))
        outcome = yield Call("Sessions.Get", request, patience.left_s(PROBE_S))
        if not isinstance(outcome, NtmServeError):
            return session.expect_standing(outcome.session.next_step, sent_step=sent_step)
        error, again = outcome, True


def settled(healing: Healing, session: SessionFacts, timeout_s: float | None) -> Asking[int]:
    """Where the session stands, once it makes no more steps of a stream that was given up; or after some patience:
    the server refuses whatever two clients have sent. Raises SessionLost.
    """
    request = sessions_pb2.GetRequest(session_id=session.id)
    waited_s = 0.0
    while True:
        try:
            stands = (yield from asked(healing, "Sessions.Get", request, timeout_s)).session
        except NtmServeError as error:
            raise session.meaning_of(error) from None
        if not stands.steps_in_flight or waited_s >= SETTLING_S:
            session.expect_standing(stands.next_step)
            return int(stands.next_step)
        yield Pause(PAUSE_S)
        waited_s += PAUSE_S


def _begun(
    healing: Healing, patience: Patience, method: Method, request: Any, session_id: str, *, drawn: bool
) -> Asking[Any]:
    """What made a session of this name. drawn: nobody else can have the name, so one that is in use is this one."""
    try:
        return (yield from _tried(healing, patience, method, request, request))
    except SessionExists:
        if not (drawn and patience.failures):
            raise
    get = sessions_pb2.GetRequest(session_id=session_id)
    found = yield from _tried(healing, patience, "Sessions.Get", get, get)
    return (yield from _taken_up(healing, patience, found.session))


def _taken_up(healing: Healing, patience: Patience, session: sessions_pb2.Session) -> Asking[sessions_pb2.OpenResponse]:
    """A session that is there, with its specs."""
    request = sessions_pb2.OpenRequest(
        model=session.model, version=session.version, session_id=session.session_id, resume=True
    )
    response: sessions_pb2.OpenResponse = yield from _tried(healing, patience, "Sessions.Open", request, request)
    return response


def _tried(healing: Healing, patience: Patience, method: Method, request: Any, again: Any) -> Asking[Any]:
    """The reply to the request, or to what is sent again in its place. Raises the error of the last try."""
    while True:
        outcome = yield Call(method, request, patience.left_s())
        healing.heard(outcome)
        if not isinstance(outcome, NtmServeError):
            return outcome
        yield Backoff(patience.wait_s(outcome, again=patience.failures > 0))
        request = again
