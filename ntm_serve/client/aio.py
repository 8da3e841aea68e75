"""The asyncio client. See ntm_serve.client.conversion for what x and y are."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Any, Self

import grpc

from ntm_serve.client.conversion import (
    CHANNEL_OPTIONS,
    IN_FLIGHT_MAX_DEFAULT,
    Inputs,
    Outputs,
    SessionFacts,
    Steps,
    error_of_call,
    grouped,
    outputs_of,
    parted,
    step_message,
    steps_of,
)
from ntm_serve.client.views import ModelInfo, SessionInfo, model_info, session_info
from ntm_serve.errors import NtmServeError
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

    async def session(
        self, model: str, *, version: str = "", session_id: str = "", resume: bool = False
    ) -> "AsyncSession":
        """Open a session: `async with await client.session("copy-ff") as session:` closes it at the end.

        resume: take up an open session of that id where it stands, if there is one.
        """
        request = sessions_pb2.OpenRequest(model=model, version=version, session_id=session_id, resume=resume)
        opened = await _answer(self._sessions.Open(request, timeout=self.timeout_s))
        return AsyncSession(self, self._sessions, opened)


class AsyncSession(SessionFacts):
    """One session, stepped by this client, one call at a time."""

    def __init__(self, client: AsyncClient, stub: Any, opened: sessions_pb2.OpenResponse) -> None:
        super().__init__(opened)
        self._client = client
        self._stub = stub

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self.close()
        except NtmServeError:
            if kind is None:  # A block that failed has its own error to tell.
                raise

    async def step(self, x: Inputs, *, timeout_s: float | None = None) -> Outputs:
        """Run one step, or T steps at once; y has the form of x."""
        steps = steps_of(x, self.inputs)
        call = self._stub.Step(self.message_of(steps), timeout=timeout_s or self._client.timeout_s)
        return outputs_of(self.advance(await _answer(call)), single=steps.single)

    async def stream(
        self, xs: Iterable[Inputs], *, steps_per_message: int = 1, in_flight_max: int = IN_FLIGHT_MAX_DEFAULT
    ) -> AsyncIterator[Outputs]:
        """One y for each x, in order, over one stream. xs is read ahead as far as `in_flight_max` messages:
        for an x that depends on the y before it use `step`.
        """
        sent: deque[Steps] = deque()
        room = asyncio.Semaphore(in_flight_max)
        call = self._stub.Stream()

        async def send() -> None:
            first_step = self.next_step
            for steps in grouped(xs, self.inputs, steps_per_message):
                await room.acquire()
                message = step_message(self.id, steps, first_step=first_step)
                first_step += steps.count
                sent.append(steps)
                await call.write(sessions_pb2.StreamRequest(step=message))
            await call.done_writing()

        sending = asyncio.create_task(send())
        # A fault of xs must end the wait for a reply that will not come.
        sending.add_done_callback(lambda task: task.cancelled() or task.exception() is None or call.cancel())
        try:
            async for response in call:
                outputs = self.advance(response.step)
                room.release()
                for y in parted(outputs, sent.popleft()):
                    yield y
            await sending
        except (grpc.RpcError, asyncio.CancelledError) as failed:
            if sending.done() and not sending.cancelled():
                fault = sending.exception()
                if fault is not None and not isinstance(fault, grpc.RpcError | asyncio.InvalidStateError):
                    raise fault from None
            if isinstance(failed, grpc.RpcError):
                raise error_of_call(failed) from None
            raise
        finally:
            sending.cancel()
            call.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def info(self) -> SessionInfo:
        """Where the session stands on the server."""
        return await self._client.session_info(self.id)

    async def state(self, *names: str) -> dict[str, Array]:
        """What is in the session's memory: state tensors by name; without names all of them."""
        return await self._client.session_state(self.id, *names)

    async def close(self) -> SessionInfo:
        """End the session on the server."""
        return await self._client.close_session(self.id)


async def _answer(call: Any) -> Any:
    """The reply of a call, or the domain's error."""
    try:
        return await call
    except grpc.RpcError as failed:
        raise error_of_call(failed) from None
