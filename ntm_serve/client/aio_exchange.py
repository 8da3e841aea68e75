"""A stream of one session with asyncio: see `ntm_serve.client.in_flight` for what is sent again."""

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import Any

import grpc

from ntm_serve.client.aio_group import each
from ntm_serve.client.asking import Asking, back
from ntm_serve.client.conversion import Grouping, Inputs, Outputs, SessionFacts, Steps, error_of_call, expect_positive
from ntm_serve.client.healing import Patience
from ntm_serve.client.in_flight import InFlight
from ntm_serve.errors import NtmServeError, ServerUnreachable, StepCancelled


class Exchange:
    """One stream of one session: one task reads xs, another sends what was read, and the caller's takes the replies.
    When the call breaks, another takes its place with a task of its own that sends.
    """

    def __init__(
        self,
        session: SessionFacts,
        xs: Iterable[Inputs] | AsyncIterable[Inputs],
        *,
        steps_per_message: int,
        in_flight_max: int,
        patience: Patience,
        begin: Callable[[], Any],
        carry_out: Callable[[Asking[None]], Awaitable[None]],
        is_closing: Callable[[], bool],
    ) -> None:
        """begin: gives a call of its own. carry_out: does what an asking yields. is_closing: whether the client is
        being closed; then nothing is healed any more.
        """
        expect_positive("in_flight_max", in_flight_max)
        self._session = session
        self._begin, self._carry_out, self._is_closing = begin, carry_out, is_closing
        self._groups = _grouped(xs, Grouping(session.inputs, steps_per_message))
        self._room = asyncio.Semaphore(in_flight_max)
        self._in_flight = InFlight(session)
        self._patience = patience
        self._stopped = self._read_all = False
        # There is something to send, or nothing more will be.
        self._read_more = asyncio.Event()
        self._fault: BaseException | None = None
        # Whether every reply that was waited for came: if not, only the server knows where the session stands.
        self.whole = True
        # Held to end: a loop that was left early ends its exchange later, in a task of the event loop.
        self._ending = asyncio.Lock()
        self._reading = asyncio.create_task(self._read())
        self._begin_call()

    async def receive(self) -> Iterator[Outputs] | None:
        """What the next message gave; None after the last. Raises the error of the message, of the call or of xs."""
        if self._stopped:
            raise StepCancelled(f"session {self._session.id}: a later call ended this stream")
        self.whole = False
        while (broken := await self._hear()) is not None:
            await self._heal(broken)
        self.whole = True
        if self._in_flight.answered:
            self._room.release()
            outputs = self._in_flight.take()
            self._patience.progress()
            return outputs
        if self._fault is not None:
            raise self._fault
        return None

    async def end(self, timeout_s: float | None) -> None:
        """Send no more, and hear what became of that which was sent: a message still on its way could else
        be run after the session's next one.
        """
        async with self._ending:
            if self._stopped:
                return
            self._stopped = True
            self._in_flight.stop()
            self._room.release()
            try:
                if self.whole and self._in_flight:
                    await self._hear_rest(timeout_s)
            finally:
                self._reading.cancel()
                self._sending.cancel()
                self._call.cancel()
                await asyncio.gather(self._reading, self._sending, return_exceptions=True)

    def _begin_call(self) -> None:
        self._in_flight.begin_again()
        self._call = self._begin()
        self._sending = asyncio.create_task(self._send(self._call))

    async def _hear(self) -> NtmServeError | None:
        """Wait for the oldest message's reply, or for the end. What broke, if it did."""
        in_flight = self._in_flight
        try:
            while not in_flight.answered:
                response = await self._call.read()
                if response is grpc.aio.EOF:
                    if self._read_all and not in_flight:
                        return None
                    return ServerUnreachable("the stream ended before its messages were answered")
                in_flight.keep(response)
        except grpc.RpcError as failed:
            return error_of_call(failed)
        return in_flight.passing

    async def _heal(self, broken: NtmServeError) -> None:
        """Have another call take the place of one that broke. Raises what does not pass."""
        self._sending.cancel()
        self._call.cancel()
        await asyncio.gather(self._sending, return_exceptions=True)
        in_flight = self._in_flight
        if self._is_closing():
            raise self._fault or broken
        try:
            await self._carry_out(
                back(self._patience, self._session, broken, sent_step=in_flight.sent_step, again=in_flight.again)
            )
        except NtmServeError as error:
            raise self._fault or error from None
        self._begin_call()

    async def _hear_rest(self, timeout_s: float | None) -> None:
        self.whole = False
        with contextlib.suppress(grpc.RpcError, TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._in_flight:
                    if self._in_flight.answered:
                        with contextlib.suppress(NtmServeError):
                            self._in_flight.take()
                    elif (response := await self._call.read()) is not grpc.aio.EOF:
                        self._in_flight.keep(response)
                    else:
                        return
            self.whole = True

    async def _read(self) -> None:
        """One message after another, each once there is room."""
        try:
            while await self._room.acquire() and not self._stopped:
                steps = await anext(self._groups, None)
                if steps is None or self._stopped:
                    break
                self._in_flight.add(steps)
                self._read_more.set()
        except asyncio.CancelledError:
            raise
        except BaseException as fault:  # The fault of xs: the caller's task shall see it.
            self._fault = fault
        self._read_all = True
        self._read_more.set()

    async def _send(self, call: Any) -> None:
        """What was read, over that call."""
        try:
            while True:
                while not self._in_flight.all_sent:
                    await call.write(self._in_flight.next())
                if self._read_all:
                    await call.done_writing()
                    return
                self._read_more.clear()
                await self._read_more.wait()
        except (grpc.RpcError, asyncio.InvalidStateError):  # The call is over; its reader learns why.
            return


async def _grouped(xs: Iterable[Inputs] | AsyncIterable[Inputs], grouping: Grouping) -> AsyncIterator[Steps]:
    async for x in each(xs):
        for steps in grouping.add(x):
            yield steps
    for steps in grouping.rest():
        yield steps
