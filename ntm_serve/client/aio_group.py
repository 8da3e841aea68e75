"""The asyncio group: steps of many sessions at once. What it says to the server is in ntm_serve.client.dialogues."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
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
from ntm_serve.client.group import ROUNDS_IN_FLIGHT_MAX_DEFAULT
from ntm_serve.client.healing import Healing, Patience
from ntm_serve.client.lines import Lines, Metadata, Turn, group_affinity
from ntm_serve.client.roster import OnFailure, Roster
from ntm_serve.client.rounds import Answer, Answers, ByKey, ByRow, Form, Round
from ntm_serve.client.views import SessionInfo, session_info
from ntm_serve.errors import CallerFault, NtmServeError, ServerUnreachable, StepCancelled
from ntm_serve.spec import Array
from ntm_serve.v1 import sessions_pb2

A = TypeVar("A")


class AsyncGroup:
    """Sessions of one model, by key, stepped many at once. A key's session is opened, or taken up where it stands,
    when its key comes first. As a context manager it closes its sessions at the end of the block; else they stay
    open. One call at a time.
    """

    def __init__(
        self,
        stubs: Sequence[Any],
        opening: Opening,
        *,
        lines: Lines,
        healing: Healing,
        closing: asyncio.Event,
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
        self._exchange: _Exchange[Any] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for end in (await self.close()).values():
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
        return self._roster.next_steps()

    async def open(self, keys: Iterable[str]) -> dict[str, int | NtmServeError]:
        """Open the sessions of these keys now, or take them up: the number of each one's next step, or its error.
        No key needs it; it tells where sessions stand before they are stepped.
        """
        wanted = list(keys)
        errors = await self._carry_out(opened(self._roster, self._opening, wanted, self._patience(self._timeout_s)))
        stands = self.next_steps()
        return {key: errors[key] if key in errors else stands[key] for key in wanted}

    async def step(self, xs: Mapping[str, Inputs], *, timeout_s: float | None = None) -> dict[str, Answer]:
        """`{key: x}` to `{key: y or its error}`: one step of each key, or T steps; y has the form of x. timeout_s: the
        longest that it may take, all tries together; None is the client's.

        Raises nothing of the server's: each key has its own error. After ServerUnreachable, DeadlinePassed,
        ServerDraining, OwnedElsewhere, StoreUnavailable and LimitReached the same x may be passed again, it is run
        once. SessionLost: the server lost the session's memory.
        """
        return await self._stepped(ByKey(xs), timeout_s)

    async def step_rows(
        self, keys: Sequence[str], x: Array | Mapping[str, Array], *, timeout_s: float | None = None
    ) -> Answers:
        """One step for each row of x `[N, ...]`, or of each input `[N, ...]`, of the key in the same place. A key
        may stand several times; its rows are its steps, in their order, and each has its own error.

        For callers that have arrays anyway: nothing is done row by row. Raises InvalidInput where x does not fit.
        """
        return await self._stepped(ByRow(keys, x), timeout_s)

    def stream(
        self,
        rounds: Iterable[Mapping[str, Inputs]] | AsyncIterable[Mapping[str, Inputs]],
        *,
        in_flight_max: int = ROUNDS_IN_FLIGHT_MAX_DEFAULT,
    ) -> AsyncIterator[dict[str, Answer]]:
        """As `step` for one round after another, in order, over one stream. rounds is read ahead, by another
        task, as far as `in_flight_max` rounds: for an x that depends on the y before it use `step`.

        A step that fails does not keep its key from the steps of later rounds. When the connection breaks, what was not
        answered is sent again over another, and the loop notices nothing but the time; see RetryPolicy. Where patience
        is at its end every round that was sent still has its answers, with the error where there was none; then it is
        raised.
        """
        forms = (ByKey(xs) async for xs in each(rounds))
        return self._streamed(forms, in_flight_max)

    def stream_rows(
        self,
        rounds: Iterable[tuple[Sequence[str], Array | Mapping[str, Array]]]
        | AsyncIterable[tuple[Sequence[str], Array | Mapping[str, Array]]],
        *,
        in_flight_max: int = ROUNDS_IN_FLIGHT_MAX_DEFAULT,
        go_on: bool = True,
        on_failure: OnFailure | None = None,
    ) -> AsyncIterator[Answers]:
        """As `step_rows` for one round `(keys, x)` after another; see `stream`.

        go_on: whether a key makes its later steps after one that failed; where not, they have StepAborted until the
        stream ends. on_failure is told of a failed step (round, row, error) before its key goes on.
        """
        forms = (ByRow(keys, x) async for keys, x in each(rounds))
        return self._streamed(forms, in_flight_max, go_on=go_on, on_failure=on_failure)

    async def forget(self, keys: Iterable[str]) -> None:
        """Take the sessions of these keys up anew when they come again: opened, or where the server has them. For
        sessions that were closed or lost, and for those that somebody else has stepped.
        """
        await self._end_exchange()
        for key in keys:
            self._roster.forget(key)

    async def close(self, keys: Iterable[str] | None = None) -> dict[str, SessionInfo | NtmServeError]:
        """End the sessions of these keys on the server, or all that this group has: how each one stood."""
        await self._end_exchange()
        wanted = list(self._roster.next_steps() if keys is None else keys)
        outcomes = await self._carry_out(closed(self._roster, wanted, self._patience(self._timeout_s)))
        return {
            key: one if isinstance(one, NtmServeError) else session_info(one.session) for key, one in outcomes.items()
        }

    async def _stepped(self, form: Form[A], timeout_s: float | None) -> A:
        await self._end_exchange()
        patience = self._patience(self._timeout_s if timeout_s is None else timeout_s)
        return await self._carry_out(stepped(self._roster, self._opening, form, patience))

    async def _streamed(
        self,
        forms: AsyncIterator[Form[A]],
        in_flight_max: int,
        *,
        go_on: bool = True,
        on_failure: OnFailure | None = None,
    ) -> AsyncIterator[A]:
        expect_positive("in_flight_max", in_flight_max)
        await self._end_exchange()
        patience = self._patience(None)
        self._roster.begin(patience, go_on=go_on, on_failure=on_failure)
        exchange = self._exchange = _Exchange(self, forms, patience=patience, in_flight_max=in_flight_max)
        try:
            while (answers := await exchange.receive()) is not None:
                yield answers
        finally:
            await exchange.end(self._timeout_s)

    async def _end_exchange(self) -> None:
        if self._exchange is not None:
            await self._exchange.end(self._timeout_s)
            self._exchange = None

    def _patience(self, timeout_s: float | None) -> Patience:
        return Patience(self._healing, timeout_s=timeout_s)

    def _stub(self) -> Any:
        """Over the line that the group's calls take."""
        return self._stubs[self._lines.place(self._opening.prefix, self._turn)]

    def _turn_from(self, turned: int) -> None:
        """Take the next line, unless a stream or a call beside it did so already."""
        if self._turn.number == turned:
            self._turn.next()

    async def _carry_out(self, dialogue: Dialogue[A]) -> A:
        """Make the calls that a dialogue asks for, until it has its result."""
        outcomes: Any = None
        turned = self._turn.number
        try:
            while True:
                wanted = dialogue.send(outcomes)
                if isinstance(wanted, Calls):
                    turned = self._turn.number
                    method = getattr(self._stub(), wanted.method)
                    outcomes = await _made(method, wanted.requests, timeout_s=wanted.timeout_s, metadata=self._metadata)
                else:
                    await pause(self._closing, wanted.wait_s)
                    outcomes = []
                    if isinstance(wanted, Backoff):
                        self._turn_from(turned)
        except StopIteration as end:
            result: A = end.value
            return result
        finally:
            dialogue.close()


class _Exchange(Generic[A]):
    """One stream of a group: one task reads rounds, another sends what was read, and the caller's takes the replies.
    When the call breaks, another takes its place with a task of its own that sends.
    """

    def __init__(
        self, group: AsyncGroup, forms: AsyncIterator[Form[A]], *, patience: Patience, in_flight_max: int
    ) -> None:
        self._group = group
        self._roster = group._roster
        self._forms = forms
        self._patience = patience
        self._room = asyncio.Semaphore(in_flight_max)
        # Rounds that were read and whose answers were not taken; and what of them this call was not given yet.
        self._pending: deque[tuple[Form[A], Round]] = deque()
        self._unsent: deque[sessions_pb2.StreamRequest] = deque()
        self._rounds = 0
        self._ended = self._read_all = self._all_heard = False
        # There is something to send, or nothing more will be.
        self._read_more = asyncio.Event()
        self._broken: NtmServeError | None = None
        self._fault: BaseException | None = None
        # Whether the caller left between two answers: if not, no reply can be waited for any more.
        self._whole = True
        # Held to end: a loop that was left early ends its exchange later, in a task of the event loop.
        self._ending = asyncio.Lock()
        self._reading = asyncio.create_task(self._read())
        self._begin_call()

    async def receive(self) -> A | None:
        """What the next round gave; None after the last. Raises the error of the connection, or of the rounds."""
        if self._ended:
            raise StepCancelled("group: a later call ended this stream")
        self._whole = False
        while True:
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
            await self._hear()

    async def end(self, timeout_s: float | None) -> None:
        """Send no more, and hear what became of that which was sent: a message still on its way could else
        be run after the session's next one.
        """
        async with self._ending:
            if self._ended:
                return
            self._ended = True
            self._room.release()
            try:
                with contextlib.suppress(grpc.RpcError, TimeoutError):
                    async with asyncio.timeout(timeout_s):
                        while self._whole and self._roster.messages_in_flight:
                            response = await self._call.read()
                            if response is grpc.aio.EOF or self._take(response) is not None:
                                break
            finally:
                self._reading.cancel()
                self._sending.cancel()
                self._call.cancel()
                self._roster.leave()
                await asyncio.gather(self._reading, self._sending, return_exceptions=True)

    def _begin_call(self) -> None:
        group = self._group
        self._unsent = deque(sessions_pb2.StreamRequest(step=message) for message in self._roster.unanswered())
        self._turned = group._turn.number
        self._call = group._stub().Stream(metadata=group._metadata)
        self._sending = asyncio.create_task(self._send(self._call))

    async def _hear(self) -> None:
        """One reply, or the end of a wait, and what follows from it."""
        group = self._group
        try:
            broken = await self._heard()
            if broken is None:
                broken = await group._carry_out(sent_again(self._roster, self._patience, group._timeout_s))
            if broken is not None:
                await self._heal(broken)
        except NtmServeError as error:
            self._break_off(error)

    async def _heard(self) -> NtmServeError | None:
        """Wait for a reply; or where none is to come, until something is sent again. What broke, if it did."""
        wait_s = None if self._roster.messages_in_flight else self._roster.wait_s
        if wait_s is not None:
            await pause(self._group._closing, wait_s)
            return None
        try:
            response = await self._call.read()
        except grpc.RpcError as failed:
            return error_of_call(failed)
        if response is not grpc.aio.EOF:
            return self._take(response)
        if self._read_all and not self._pending:
            self._all_heard = True
            return None
        return ServerUnreachable("the stream ended before its messages were answered")

    async def _heal(self, broken: NtmServeError) -> None:
        """Have another call take the place of one that broke. Raises what does not pass."""
        self._sending.cancel()
        self._call.cancel()
        await asyncio.gather(self._sending, return_exceptions=True)
        group = self._group
        if group._closing.is_set():
            raise broken
        await pause(group._closing, self._patience.wait_s(broken, again=True))
        group._turn_from(self._turned)
        self._begin_call()

    def _break_off(self, error: NtmServeError) -> None:
        self._call.cancel()
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
        error = self._roster.take(response.step)
        if error is None:
            self._patience.progress()
        return error

    async def _read(self) -> None:
        """One round after another, each once there is room."""
        group = self._group
        try:
            while await self._room.acquire() and not self._is_over():
                form = await anext(self._forms, None)
                if form is None or self._is_over():
                    break
                patience = group._patience(group._timeout_s)
                errors = await group._carry_out(opened(self._roster, group._opening, form.keys, patience))
                if self._is_over():
                    break
                made = form.round(self._roster.inputs, self._roster.outputs, errors)
                made.number = self._rounds
                self._rounds += 1
                messages = [message for wave in self._roster.send(made) for message in wave]
                self._pending.append((form, made))
                self._unsent.extend(sessions_pb2.StreamRequest(step=message) for message in messages)
                if not messages:
                    # Nothing of it goes to the server, and still its reader must hear that it is done.
                    self._unsent.append(sessions_pb2.StreamRequest(heartbeat=sessions_pb2.Heartbeat()))
                self._read_more.set()
        except asyncio.CancelledError:
            raise
        except BaseException as fault:  # The fault of the rounds: the caller's task shall see it.
            self._fault = fault
        self._read_all = True
        self._read_more.set()

    async def _send(self, call: Any) -> None:
        """What was read, over that call."""
        try:
            while True:
                while self._unsent:
                    await call.write(self._unsent.popleft())
                if self._read_all:
                    await call.done_writing()
                    return
                self._read_more.clear()
                await self._read_more.wait()
        except (grpc.RpcError, asyncio.InvalidStateError):  # The call is over; its reader learns why.
            return


async def pause(closing: asyncio.Event, wait_s: float) -> None:
    """Raises StepCancelled once the client is closed."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await closing.wait()
    if closing.is_set():
        raise StepCancelled("client: was closed while it waited to try again")


async def _made(method: Any, requests: Sequence[Any], *, timeout_s: float | None, metadata: Metadata) -> list[Any]:
    """The reply of each call, or the domain's error."""
    room = asyncio.Semaphore(CALLS_IN_FLIGHT_MAX)

    async def outcome(request: Any) -> Any:
        async with room:
            try:
                return await method(request, timeout=timeout_s, metadata=metadata)
            except grpc.RpcError as failed:
                return error_of_call(failed)

    if len(requests) == 1:
        return [await outcome(requests[0])]
    return await asyncio.gather(*(outcome(request) for request in requests))


X = TypeVar("X")


async def each(xs: Iterable[X] | AsyncIterable[X]) -> AsyncIterator[X]:
    """What an iterable gives, of either kind."""
    if isinstance(xs, AsyncIterable):
        async for x in xs:
            yield x
    else:
        for x in xs:
            yield x
