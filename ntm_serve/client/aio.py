"""The asyncio client. See ntm_serve.client.conversion for what x and y are."""

import asyncio
import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import grpc

from ntm_serve.client.aio_group import AsyncGroup, each
from ntm_serve.client.conversion import (
    CHANNEL_OPTIONS,
    IN_FLIGHT_MAX_DEFAULT,
    Grouping,
    InFlight,
    Inputs,
    Outputs,
    SessionFacts,
    Steps,
    error_of_call,
    expect_positive,
    outputs_of,
    steps_of,
)
from ntm_serve.client.dialogues import Opening
from ntm_serve.client.views import ModelInfo, SessionInfo, model_info, session_info
from ntm_serve.errors import NtmServeError, StepCancelled
from ntm_serve.spec import Array
from ntm_serve.v1 import models_pb2, models_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from ntm_serve.wire import arrays_of


class AsyncClient:
    """A connection to a server. timeout_s: the longest that a call may take, but for streams; None is no limit."""

    def __init__(self, target: str, *, timeout_s: float | None = 60.0) -> None:
        self._channel = grpc.aio.insecure_channel(target, options=CHANNEL_OPTIONS)
        self._sessions: Any = sessions_pb2_grpc.SessionsStub(self._channel)
        self._models: Any = models_pb2_grpc.ModelsStub(self._channel)
        self.timeout_s = timeout_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection. Sessions stay open on the server."""
        await self._channel.close()

    async def models(self) -> list[ModelInfo]:
        """Every model of the server, by name and version."""
        response = await _answer(self._models.List(models_pb2.ListModelsRequest(), timeout=self.timeout_s))
        return [model_info(model) for model in response.models]

    async def model(self, name: str, version: str = "") -> ModelInfo:
        """One model; without a version the highest that is served. Raises ModelUnknown."""
        request = models_pb2.GetModelRequest(name=name, version=version)
        return model_info((await _answer(self._models.Get(request, timeout=self.timeout_s))).model)

    async def sessions(self, model: str = "") -> AsyncIterator[SessionInfo]:
        """Open sessions, in the order of their ids, page by page."""
        token = ""
        while True:
            request = sessions_pb2.ListRequest(model=model, page_size=1000, page_token=token)
            page = await _answer(self._sessions.List(request, timeout=self.timeout_s))
            for session in page.sessions:
                yield session_info(session)
            token = page.next_page_token
            if not token:
                return

    async def session_info(self, session_id: str) -> SessionInfo:
        """Where a session stands. Raises SessionUnknown, SessionClosed, SessionExpired."""
        request = sessions_pb2.GetRequest(session_id=session_id)
        return session_info((await _answer(self._sessions.Get(request, timeout=self.timeout_s))).session)

    async def session_state(self, session_id: str, *names: str) -> dict[str, Array]:
        """State tensors of a session as it stands, by name; without names all of them. Raises as `session_info`."""
        request = sessions_pb2.GetRequest(session_id=session_id, state_names=names or ("*",))
        return arrays_of((await _answer(self._sessions.Get(request, timeout=self.timeout_s))).state)

    async def close_session(self, session_id: str) -> SessionInfo:
        """End a session; returns it as it stood. Raises as `session_info`."""
        request = sessions_pb2.CloseRequest(session_id=session_id)
        return session_info((await _answer(self._sessions.Close(request, timeout=self.timeout_s))).session)

    def session(self, model: str, *, version: str = "", session_id: str = "", resume: bool = False) -> "_Opening":
        """Open a session: `async with client.session("copy-ff") as session:` closes it at the end of the block;
        `session = await client.session("copy-ff")` leaves it open.

        resume: take up an open session of that id where it stands, if there is one.
        """
        request = sessions_pb2.OpenRequest(model=model, version=version, session_id=session_id, resume=resume)
        return _Opening(self, self._sessions, request)

    def group(
        self, model: str, *, version: str = "", prefix: str = "", next_steps: Mapping[str, int] | None = None
    ) -> AsyncGroup:
        """Sessions of this model, by key, to be stepped many at once. A session's id is `prefix` and its key.

        next_steps: where sessions stand that an earlier run stepped, by key: steps that the server made and whose
        outputs were lost are then answered again. A session that is not named is taken where it stands.
        """
        return AsyncGroup(
            self._sessions,
            Opening(model, version, prefix),
            next_steps=next_steps or {},
            timeout_s=self.timeout_s,
        )


class _Opening:
    """A session that is being opened: to be awaited, or entered."""

    def __init__(self, client: AsyncClient, stub: Any, request: sessions_pb2.OpenRequest) -> None:
        self._client = client
        self._stub = stub
        self._request = request
        self._session: AsyncSession | None = None

    def __await__(self) -> Generator[Any, None, "AsyncSession"]:
        return self._open().__await__()

    async def __aenter__(self) -> "AsyncSession":
        self._session = await self._open()
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.__aexit__(kind, value, traceback)

    async def _open(self) -> "AsyncSession":
        opened = await _answer(self._stub.Open(self._request, timeout=self._client.timeout_s))
        return AsyncSession(self._client, self._stub, opened)


class AsyncSession(SessionFacts):
    """One session, stepped by this client, one call at a time."""

    def __init__(self, client: AsyncClient, stub: Any, opened: sessions_pb2.OpenResponse) -> None:
        super().__init__(opened)
        self._client = client
        self._stub = stub
        self._exchange: _Exchange | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._closed:
            return
        try:
            await self.close()
        except NtmServeError:
            if kind is None:  # A block that failed has its own error to tell.
                raise

    async def step(self, x: Inputs, *, timeout_s: float | None = None) -> Outputs:
        """Run one step, or T steps at once; y has the form of x.

        After DeadlinePassed or ServerUnreachable the same x may be passed again: it is run once.
        """
        steps = steps_of(x, self.inputs)
        await self._end_exchange()
        limit_s = self._client.timeout_s if timeout_s is None else timeout_s
        response = await _answer(self._stub.Step(self.message_of(steps), timeout=limit_s))
        return outputs_of(self.advance(response), single=steps.single)

    async def stream(
        self,
        xs: Iterable[Inputs] | AsyncIterable[Inputs],
        *,
        steps_per_message: int = 1,
        in_flight_max: int = IN_FLIGHT_MAX_DEFAULT,
    ) -> AsyncIterator[Outputs]:
        """One y for each x, in order, over one stream. xs is read ahead, by another task, as far as
        `in_flight_max` messages: for an x that depends on the y before it use `step`.

        A loop that is left early leaves the session after the last x that was sent, which may be further
        than the last y that was taken; after the session's next call `next_step` says where that is.
        """
        await self._end_exchange()
        exchange = self._exchange = _Exchange(
            self, self._stub, xs, steps_per_message=steps_per_message, in_flight_max=in_flight_max
        )
        try:
            while (outputs := await exchange.receive()) is not None:
                for y in outputs:
                    yield y
        finally:
            await exchange.end(self._client.timeout_s)

    async def info(self) -> SessionInfo:
        """Where the session stands on the server."""
        return await self._client.session_info(self.id)

    async def state(self, *names: str) -> dict[str, Array]:
        """What is in the session's memory: state tensors by name; without names all of them."""
        return await self._client.session_state(self.id, *names)

    async def close(self) -> SessionInfo:
        """End the session on the server."""
        info = await self._client.close_session(self.id)
        self._closed = True
        return info

    async def _end_exchange(self) -> None:
        """What follows a stream follows all that the stream sent."""
        if self._exchange is not None:
            await self._exchange.end(self._client.timeout_s)
            if not self._exchange.whole:
                # A reply was not waited for, and with it where the session stands.
                self.next_step = (await self.info()).next_step
            self._exchange = None


async def _answer(call: Any) -> Any:
    """The reply of a call, or the domain's error."""
    try:
        return await call
    except grpc.RpcError as failed:
        raise error_of_call(failed) from None


class _Exchange:
    """One stream of one session: messages made by a task of its own while the caller's takes the replies."""

    def __init__(
        self,
        session: AsyncSession,
        stub: Any,
        xs: Iterable[Inputs] | AsyncIterable[Inputs],
        *,
        steps_per_message: int,
        in_flight_max: int,
    ) -> None:
        expect_positive("in_flight_max", in_flight_max)
        self._session = session
        self._groups = _grouped(xs, Grouping(session.inputs, steps_per_message))
        self._room = asyncio.Semaphore(in_flight_max)
        self._in_flight = InFlight(session)
        self._stopped = False
        self._fault: BaseException | None = None
        # Whether every reply that was waited for came: if not, only the server knows where the session stands.
        self.whole = True
        # Held to end: a loop that was left early ends its exchange later, in a task of the event loop.
        self._ending = asyncio.Lock()
        self._call = stub.Stream()
        self._sending = asyncio.create_task(self._send())

    async def receive(self) -> Iterator[Outputs] | None:
        """What the next message gave; None after the last. Raises the error of the message, of the call or of xs."""
        if self._stopped:
            raise StepCancelled(f"session {self._session.id}: a later call ended this stream")
        self.whole = False
        try:
            while not self._in_flight.answered and (response := await self._call.read()) is not grpc.aio.EOF:
                self._in_flight.keep(response)
        except grpc.RpcError as failed:
            raise self._fault or error_of_call(failed) from None
        self.whole = True
        if self._in_flight.answered:
            self._room.release()
            return self._in_flight.take()
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
            self._room.release()
            try:
                if self.whole:
                    await self._hear_rest(timeout_s)
            finally:
                self._sending.cancel()
                self._call.cancel()
                await asyncio.gather(self._sending, return_exceptions=True)

    async def _hear_rest(self, timeout_s: float | None) -> None:
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

    async def _send(self) -> None:
        """One message after another, each once there is room."""
        try:
            while await self._room.acquire() and not self._stopped:
                steps = await anext(self._groups, None)
                if steps is None or self._stopped:
                    break
                try:
                    await self._call.write(self._in_flight.send(steps))
                except (grpc.RpcError, asyncio.InvalidStateError):  # The call is over; its reader learns why.
                    return
        except asyncio.CancelledError:
            raise
        except BaseException as fault:  # The fault of xs: the caller's task shall see it.
            self._fault = fault
        await self._call.done_writing()


async def _grouped(xs: Iterable[Inputs] | AsyncIterable[Inputs], grouping: Grouping) -> AsyncIterator[Steps]:
    async for x in each(xs):
        for steps in grouping.add(x):
            yield steps
    for steps in grouping.rest():
        yield steps
