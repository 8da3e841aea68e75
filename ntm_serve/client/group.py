"""The sync group: steps of many sessions at once. What it says to the server is in ntm_serve.client.dialogues."""

import contextlib
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import grpc

from ntm_serve.client.conversion import Inputs, error_of_call, expect_positive
from ntm_serve.client.dialogues import (
    CALLS_IN_FLIGHT_MAX,
    Backoff,
    Calls,
    Dialogue,
    Opening,
    closed,
    opened,
    sent_again,
    stepped,
)
from ntm_serve.client.healing import Healing, Patience
from ntm_serve.client.lines import Lines, Metadata, Turn, group_affinity
from ntm_serve.client.roster import OnFailure, Roster
from ntm_serve.client.rounds import Answer, Answers, ByKey, ByRow, Form, Round
from ntm_serve.client.views import SessionInfo, session_info
from ntm_serve.errors import CallerFault, NtmServeError, ServerUnreachable, StepCancelled
from ntm_serve.spec import Array
from ntm_serve.v1 import sessions_pb2, sessions_pb2_grpc

A = TypeVar("A")

# Rounds on their way before the first is answered: enough to keep a server busy while the client reads and writes.
ROUNDS_IN_FLIGHT_MAX_DEFAULT = 4


class Group:
    """Sessions of one model, by key, stepped many at once. A key's session is opened, or taken up where it stands,
    when its key comes first. As a context manager it closes its sessions at the end of the block; else they stay
    open. Not for use from several threads at once.
    """

    def __init__(
        self,
        stubs: Sequence[sessions_pb2_grpc.SessionsStub],
        opening: Opening,
        *,
        lines: Lines,
        healing: Healing,
        closing: threading.Event,
        next_steps: Mapping[str, int],
        timeout_s: float | None,
    ) -> None:
        """stubs, lines, healing, closing: the client's."""
        self._stubs = stubs
        self._lines = lines
        self._metadata = group_affinity(opening.prefix)
        self._turn = Turn()
        self._healing = healing
        self._closing = closing
        self._opening = opening
        self._timeout_s = timeout_s
        self._roster = Roster(next_steps=next_steps, asked=opening.outputs)
        # Held to look at or change the roster: a stream has two threads.
        self._lock = threading.RLock()
        self._exchange: _Exchange[Any] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for end in self.close().values():
            # A session that is over is no fault of the block; and a block that failed has its own error to tell.
            if isinstance(end, NtmServeError) and not isinstance(end, CallerFault) and kind is None:
                raise end

    def __len__(self) -> int:
        """How many sessions this group has opened or taken up."""
        return len(self._roster)

    def __contains__(self, key: object) -> bool:
        return key in self._roster

    def next_steps(self) -> dict[str, int]:
        """The number of each session's next step, as far as replies told."""
        with self._lock:
            return self._roster.next_steps()

    def open(self, keys: Iterable[str]) -> dict[str, int | NtmServeError]:
        """Open the sessions of these keys now, or take them up: the number of each one's next step, or its error.
        No key needs it; it tells where sessions stand before they are stepped.
        """
        wanted = list(keys)
        errors = self._carry_out(opened(self._roster, self._opening, wanted, self._patience(self._timeout_s)))
        stands = self.next_steps()
        return {key: errors[key] if key in errors else stands[key] for key in wanted}

    def step(self, xs: Mapping[str, Inputs], *, timeout_s: float | None = None) -> dict[str, Answer]:
        """`{key: x}` to `{key: y or its error}`: one step of each key, or T steps; y has the form of x. timeout_s: the
        longest that it may take, all tries together; None is the client's.

        Raises nothing of the server's: each key has its own error. After ServerUnreachable, DeadlinePassed,
        ServerDraining, OwnedElsewhere, StoreUnavailable and LimitReached the same x may be passed again, it is run
        once. SessionLost: the server lost the session's memory.
        """
        return self._stepped(ByKey(xs), timeout_s)

    def step_rows(
        self, keys: Sequence[str], x: Array | Mapping[str, Array], *, timeout_s: float | None = None
    ) -> Answers:
        """One step for each row of x `[N, ...]`, or of each input `[N, ...]`, of the key in the same place. A key
        may stand several times; its rows are its steps, in their order, and each has its own error.

        For callers that have arrays anyway: nothing is done row by row. Raises InvalidInput where x does not fit.
        """
        return self._stepped(ByRow(keys, x), timeout_s)

    def stream(
        self, rounds: Iterable[Mapping[str, Inputs]], *, in_flight_max: int = ROUNDS_IN_FLIGHT_MAX_DEFAULT
    ) -> Generator[dict[str, Answer], None, None]:
        """As `step` for one round after another, in order, over one stream. rounds is read ahead, by another
        thread, as far as `in_flight_max` rounds: for an x that depends on the y before it use `step`.

        A step that fails does not keep its key from the steps of later rounds. When the connection breaks, what was not
        answered is sent again over another, and the loop notices nothing but the time; see RetryPolicy. Where patience
        is at its end every round that was sent still has its answers, with the error where there was none; then it is
        raised.
        """
        yield from self._streamed((ByKey(xs) for xs in rounds), in_flight_max)

    def stream_rows(
        self,
        rounds: Iterable[tuple[Sequence[str], Array | Mapping[str, Array]]],
        *,
        in_flight_max: int = ROUNDS_IN_FLIGHT_MAX_DEFAULT,
        go_on: bool = True,
        on_failure: OnFailure | None = None,
    ) -> Generator[Answers, None, None]:
        """As `step_rows` for one round `(keys, x)` after another; see `stream`.

        go_on: whether a key makes its later steps after one that failed; where not, they have StepAborted until the
        stream ends. on_failure is told of a failed step (round, row, error) before its key goes on.
        """
        forms = (ByRow(keys, x) for keys, x in rounds)
        yield from self._streamed(forms, in_flight_max, go_on=go_on, on_failure=on_failure)

    def forget(self, keys: Iterable[str]) -> None:
        """Take the sessions of these keys up anew when they come again: opened, or where the server has them. For
        sessions that were closed or lost, and for those that somebody else has stepped.
        """
        self._end_exchange()
        with self._lock:
            for key in keys:
                self._roster.forget(key)

    def close(self, keys: Iterable[str] | None = None) -> dict[str, SessionInfo | NtmServeError]:
        """End the sessions of these keys on the server, or all that this group has: how each one stood."""
        self._end_exchange()
        wanted = list(self._roster.next_steps() if keys is None else keys)
        outcomes = self._carry_out(closed(self._roster, wanted, self._patience(self._timeout_s)))
        return {
            key: one if isinstance(one, NtmServeError) else session_info(one.session) for key, one in outcomes.items()
        }

    def _stepped(self, form: Form[A], timeout_s: float | None) -> A:
        self._end_exchange()
        patience = self._patience(self._timeout_s if timeout_s is None else timeout_s)
        return self._carry_out(stepped(self._roster, self._opening, form, patience))

    def _streamed(
        self, forms: Iterator[Form[A]], in_flight_max: int, *, go_on: bool = True, on_failure: OnFailure | None = None
    ) -> Generator[A, None, None]:
        expect_positive("in_flight_max", in_flight_max)
        self._end_exchange()
        patience = self._patience(None)
        with self._lock:
            self._roster.begin(patience, go_on=go_on, on_failure=on_failure)
        exchange = self._exchange = _Exchange(self, forms, patience=patience, in_flight_max=in_flight_max)
        try:
            while (answers := exchange.receive()) is not None:
                yield answers
        finally:
            exchange.end(self._timeout_s)

    def _end_exchange(self) -> None:
        if self._exchange is not None:
            self._exchange.end(self._timeout_s)
            self._exchange = None

    def _patience(self, timeout_s: float | None) -> Patience:
        return Patience(self._healing, timeout_s=timeout_s)

    def _stub(self) -> sessions_pb2_grpc.SessionsStub:
        """Over the line that the group's calls take."""
        return self._stubs[self._lines.place(self._opening.prefix, self._turn)]

    def _turn_from(self, turned: int) -> None:
        """Take the next line, unless a stream or a call beside it did so already."""
        if self._turn.number == turned:
            self._turn.next()

    def _carry_out(self, dialogue: Dialogue[A]) -> A:
        """Make the calls that a dialogue asks for, until it has its result."""
        outcomes: Any = None
        turned = self._turn.number
        try:
            while True:
                with self._lock:
                    wanted = dialogue.send(outcomes)
                if isinstance(wanted, Calls):
                    turned = self._turn.number
                    method = getattr(self._stub(), wanted.method)
                    outcomes = _made(method, wanted.requests, timeout_s=wanted.timeout_s, metadata=self._metadata)
                else:
                    pause(self._closing, wanted.wait_s)
                    outcomes = []
                    if isinstance(wanted, Backoff):
                        self._turn_from(turned)
        except StopIteration as end:
            result: A = end.value
            return result
        finally:
            with self._lock:
                dialogue.close()


class _Exchange(Generic[A]):
    """One stream of a group: rounds are read and sent by gRPC's own thread while the caller's takes the replies. When
    its call breaks another takes its place, and gRPC's thread of that one goes on where the one before is.
    """

    def __init__(self, group: Group, forms: Iterator[Form[A]], *, patience: Patience, in_flight_max: int) -> None:
        self._group = group
        self._roster = group._roster
        self._lock = group._lock
        self._forms = forms
        self._patience = patience
        self._room = threading.Semaphore(in_flight_max)
        # Rounds that were read and whose answers were not taken; and what of them this call was not given yet.
        self._pending: deque[tuple[Form[A], Round]] = deque()
        self._unsent: deque[sessions_pb2.StreamRequest] = deque()
        # Held to read rounds: the thread of a call that broke may still wait for the next when another call begins.
        self._reading = threading.Lock()
        self._rounds = 0
        self._ended = self._read_all = self._all_heard = False
        self._broken: NtmServeError | None = None
        self._fault: BaseException | None = None
        # Whether the caller left between two answers: if not, no reply can be waited for any more.
        self._whole = True
        self._calls = 0
        self._begin_call()

    def receive(self) -> A | None:
        """What the next round gave; None after the last. Raises the error of the connection, or of the rounds."""
        if self._ended:
            raise StepCancelled("group: a later call ended this stream")
        self._whole = False
        while True:
            with self._lock:
                if self._pending and not self._pending[0][1].unanswered:
                    form, made = self._pending.popleft()
                    self._room.release()
                    answers = form.answers(made)
                    self._whole = True
                    return answers
            if self._broken is not None:
                raise self._fault or self._broken
            if self._all_heard:
                if self._fault is not None:
                    raise self._fault
                return None
            self._hear()

    def end(self, timeout_s: float | None) -> None:
        """Send no more, and hear what became of that which was sent: a message still on its way could else
        be run after the session's next one.
        """
        with self._lock:
            self._ended, was_ended = True, self._ended
        if was_ended:
            return
        self._room.release()
        wait_s = threading.TIMEOUT_MAX if timeout_s is None else timeout_s
        patience = threading.Timer(wait_s, self._call.cancel)
        patience.daemon = True
        try:
            if self._whole and self._roster.messages_in_flight:
                patience.start()
                with contextlib.suppress(grpc.RpcError):
                    while self._roster.messages_in_flight and (response := next(self._call, None)) is not None:
                        if self._take(response) is not None:
                            break
        finally:
            patience.cancel()
            self._call.cancel()
            with self._lock:
                self._roster.leave()

    def _begin_call(self) -> None:
        group = self._group
        with self._lock:
            self._calls += 1
            self._unsent = deque(sessions_pb2.StreamRequest(step=message) for message in self._roster.unanswered())
        self._turned = group._turn.number
        self._call: Any = group._stub().Stream(self._messages(self._calls), metadata=group._metadata)

    def _hear(self) -> None:
        """One reply, or the end of a wait, and what follows from it."""
        group = self._group
        try:
            broken = self._heard()
            if broken is None:
                broken = group._carry_out(sent_again(self._roster, self._patience, group._timeout_s))
            if broken is not None:
                self._heal(broken)
        except NtmServeError as error:
            self._break_off(error)

    def _heard(self) -> NtmServeError | None:
        """Wait for a reply; or where none is to come, until something is sent again. What broke, if it did."""
        with self._lock:
            wait_s = None if self._roster.messages_in_flight else self._roster.wait_s
        if wait_s is not None:
            pause(self._group._closing, wait_s)
            return None
        try:
            response = next(self._call, None)
        except grpc.RpcError as failed:
            return error_of_call(failed)
        if response is not None:
            return self._take(response)
        if self._read_all and not self._pending:
            self._all_heard = True
            return None
        return ServerUnreachable("the stream ended before its messages were answered")

    def _heal(self, broken: NtmServeError) -> None:
        """Have another call take the place of one that broke. Raises what does not pass."""
        self._call.cancel()
        group = self._group
        if group._closing.is_set():
            raise broken
        pause(group._closing, self._patience.wait_s(broken, again=True))
        group._turn_from(self._turned)
        self._begin_call()

    def _break_off(self, error: NtmServeError) -> None:
        self._call.cancel()
        with self._lock:
            self._broken = error
            self._roster.break_off(error)
        self._room.release()

    def _is_over(self) -> bool:
        return self._ended or self._broken is not None

    def _take(self, response: sessions_pb2.StreamResponse) -> NtmServeError | None:
        """The error in the reply, where its message is to be sent again because of it."""
        self._patience.heard(response)
        if not response.HasField("step"):
            return None
        with self._lock:
            error = self._roster.take(response.step)
        if error is None:
            self._patience.progress()
        return error

    def _messages(self, call: int) -> Iterator[sessions_pb2.StreamRequest]:
        """For that call one after another: what the one before did not bring across, then what is read."""
        while True:
            with self._lock:
                if call != self._calls:
                    return
                message = self._unsent.popleft() if self._unsent else None
            if message is not None:
                yield message
            elif not self._read(call):
                return

    def _read(self, call: int) -> bool:
        """Have the next round to send, once there is room; False where there is none any more, for this call."""
        with self._reading:
            with self._lock:
                if call != self._calls:
                    return False
                if self._unsent:
                    return True
                if self._is_over() or self._read_all:
                    return False
            self._room.acquire()
            if self._is_over():
                return False
            try:
                self._read_all = not self._read_round()
            except BaseException as fault:  # The fault of the rounds: the caller's thread shall see it, not gRPC's.
                self._fault, self._read_all = fault, True
            return not self._read_all

    def _read_round(self) -> bool:
        """Whether there was another."""
        group = self._group
        form = next(self._forms, None)
        if form is None:
            return False
        patience = group._patience(group._timeout_s)
        errors = group._carry_out(opened(self._roster, group._opening, form.keys, patience))
        with self._lock:
            if self._is_over():
                return False
            made = form.round(self._roster.inputs, self._roster.outputs, errors)
            made.number = self._rounds
            self._rounds += 1
            messages = [message for wave in self._roster.send(made) for message in wave]
            self._pending.append((form, made))
            self._unsent.extend(sessions_pb2.StreamRequest(step=message) for message in messages)
            if not messages:
                # Nothing of it goes to the server, and still its reader must hear that it is done.
                self._unsent.append(sessions_pb2.StreamRequest(heartbeat=sessions_pb2.Heartbeat()))
        return True


def pause(closing: threading.Event, wait_s: float) -> None:
    """Raises StepCancelled once the client is closed."""
    if closing.wait(wait_s):
        raise StepCancelled("client: was closed while it waited to try again")


def _made(method: Any, requests: Sequence[Any], *, timeout_s: float | None, metadata: Metadata) -> list[Any]:
    """The reply of each call, or the domain's error."""
    if len(requests) == 1:
        try:
            return [method(requests[0], timeout=timeout_s, metadata=metadata)]
        except grpc.RpcError as failed:
            return [error_of_call(failed)]
    outcomes: list[Any] = []
    waiting: deque[Any] = deque()
    try:
        for request in requests:
            if len(waiting) == CALLS_IN_FLIGHT_MAX:
                outcomes.append(_outcome(waiting.popleft()))
            waiting.append(method.future(request, timeout=timeout_s, metadata=metadata))
        while waiting:
            outcomes.append(_outcome(waiting.popleft()))
    finally:
        for call in waiting:
            call.cancel()
    return outcomes


def _outcome(call: Any) -> Any:
    try:
        return call.result()
    except grpc.RpcError as failed:
        return error_of_call(failed)
