"""The asyncio client. See ntm_serve.client.conversion for what x and y are."""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from ntm_serve.client.aio_exchange import Exchange
from ntm_serve.client.aio_group import AsyncGroup, pause
from ntm_serve.client.asking import (
    Asking,
    Backoff,
    Call,
    Method,
    asked,
    closed,
    forked,
    opened,
    restored,
    settled,
    stepped,
)
from ntm_serve.client.conversion import (
    IN_FLIGHT_MAX_DEFAULT,
    InitialState,
    Inputs,
    Outputs,
    SessionFacts,
    channel_options,
    durability_word,
    error_of_call,
    open_request,
    outputs_of,
    steps_of,
)
from ntm_serve.client.dialogues import GroupState, Opening
from ntm_serve.client.frames import Frame, frame_of, watch_request
from ntm_serve.client.healing import RETRY_DEFAULT, Healing, Patience, RetryPolicy, expect_timeout
from ntm_serve.client.lines import Lines, Turn, affinity
from ntm_serve.client.views import ModelInfo, SessionInfo, SessionSnapshot, model_info, session_info
from ntm_serve.durability import Durability
from ntm_serve.errors import NtmServeError, ServerUnreachable, StreamAged
from ntm_serve.identity import Identity, Tls, Token
from ntm_serve.picture import Reduction
from ntm_serve.spec import Array
from ntm_serve.v1 import admin_pb2, admin_pb2_grpc, models_pb2, models_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from ntm_serve.wire import arrays_of

A = TypeVar("A")


class AsyncClient:
    """A connection to a server, or to one of several: target is "host:port", or a list with commas between; a session
    begins with the address that its id says, and turns to the next when that one fails.

    timeout_s: the longest that a call may take, but for streams; None is no limit. retry: how it goes on when the
    connection breaks or the server is away; None raises every error at once. tls: None is a connection that whoever is
    between can read. token: what the server knows its caller by, or a function that is asked for it at every call.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float | None = 60.0,
        retry: RetryPolicy | None = RETRY_DEFAULT,
        tls: Tls | None = None,
        token: Token | None = None,
    ) -> None:
        """Raises InvalidInput for a time that is none, a file of TLS that cannot be read."""
        expect_timeout(timeout_s)
        options = channel_options(retry)
        identity = Identity(tls, token)
        self._lines = Lines(target)
        # The number keeps gRPC from having one connection for all lines to an address.
        self._channels = [
            identity.channel(grpc.aio, address, (*options, ("ntm_serve.line", number)))
            for number, address in enumerate(self._lines.addresses)
        ]
        lines = [identity.calls(channel) for channel in self._channels]
        self._sessions: tuple[Any, ...] = tuple(sessions_pb2_grpc.SessionsStub(line) for line in lines)
        self._models: tuple[Any, ...] = tuple(models_pb2_grpc.ModelsStub(line) for line in lines)
        self._admin: tuple[Any, ...] = tuple(admin_pb2_grpc.AdminStub(line) for line in lines)
        # Of calls that belong to no session that is open.
        self._turn = Turn()
        self._healing = Healing(retry, clock=time.monotonic)
        self._closing = asyncio.Event()
        self.timeout_s = timeout_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection. Sessions stay open on the server."""
        self._closing.set()
        for channel in self._channels:
            await channel.close()

    async def models(self) -> list[ModelInfo]:
        """Every model of the server, by name and version."""
        response = await self._asked("Models.List", models_pb2.ListModelsRequest())
        return [model_info(model) for model in response.models]

    async def model(self, name: str, version: str = "") -> ModelInfo:
        """One model; without a version the highest that is served. Raises ModelUnknown."""
        request = models_pb2.GetModelRequest(name=name, version=version)
        return model_info((await self._asked("Models.Get", request)).model)

    async def sessions(self, model: str = "") -> AsyncIterator[SessionInfo]:
        """Open sessions, in the order of their ids, page by page."""
        token = ""
        while True:
            request = sessions_pb2.ListRequest(model=model, page_size=1000, page_token=token)
            page = await self._asked("Sessions.List", request)
            for session in page.sessions:
                yield session_info(session)
            token = page.next_page_token
            if not token:
                return

    async def all_sessions(self, model: str = "") -> AsyncIterator[SessionInfo]:
        """As `sessions`, those of every tenant. Raises PermissionDenied where the caller has not the role admin."""
        token = ""
        while True:
            request = admin_pb2.ListSessionsRequest(model=model, page_size=1000, page_token=token)
            page = await self._asked("Admin.ListSessions", request)
            for session in page.sessions:
                yield session_info(session)
            token = page.next_page_token
            if not token:
                return

    async def drain(self) -> None:
        """Have the server finish what it has admitted, and end. Raises PermissionDenied as `all_sessions`."""
        await self._asked("Admin.Drain", admin_pb2.DrainRequest())

    async def session_info(self, session_id: str) -> SessionInfo:
        """Where a session stands. Raises SessionUnknown, SessionClosed, SessionExpired."""
        return session_info((await self._asked("Sessions.Get", sessions_pb2.GetRequest(session_id=session_id))).session)

    async def session_state(self, session_id: str, *names: str) -> dict[str, Array]:
        """State tensors of a session as it stands, by name; without names all of them. Raises as `session_info`."""
        request = sessions_pb2.GetRequest(session_id=session_id, state_names=names or ("*",))
        return arrays_of((await self._asked("Sessions.Get", request)).state)

    async def close_session(self, session_id: str) -> SessionInfo:
        """End a session; returns it as it stood. Raises as `session_info`.

        Where the answer is lost and a second try finds it ended, it is only named.
        """
        return await self._closed(sessions_pb2.Session(session_id=session_id))

    async def snapshot(self, session_id: str, *, step: int | None = None) -> SessionSnapshot:
        """A session's state before that step, or as it stands, for `restore`, here or at another server of the same
        model. Raises as `session_info`, StepForgotten, InvalidInput.
        """
        request = sessions_pb2.SnapshotRequest(session_id=session_id, step=step)
        response = await self._asked("Sessions.Snapshot", request)
        return SessionSnapshot(response.step, response.snapshot)

    async def restore(
        self, snapshot: bytes, *, session_id: str = "", durability: Durability | str | None = None
    ) -> "AsyncSession":
        """Open a session where a snapshot was taken; durability None is what the server is set to. Raises
        SnapshotRejected, and as `session`.
        """
        request = sessions_pb2.RestoreRequest(
            snapshot=snapshot, session_id=session_id, durability=durability_word(durability)
        )
        return AsyncSession(self, await self._carry_out(restored(self._healing, request, self.timeout_s)))

    async def fork(
        self,
        session_id: str,
        fork_id: str = "",
        *,
        step: int | None = None,
        durability: Durability | str | None = None,
    ) -> "AsyncSession":
        """Open a session where another stands, or stood before that step; durability None is the other's. The other
        goes on, unchanged. Raises as `snapshot` and `session`.
        """
        request = sessions_pb2.ForkRequest(
            session_id=session_id, fork_session_id=fork_id, step=step, durability=durability_word(durability)
        )
        return AsyncSession(self, await self._carry_out(forked(self._healing, request, self.timeout_s)))

    async def rewind(self, session_id: str, step: int) -> SessionInfo:
        """Take a session back to where it stood before that step. Raises as `snapshot`."""
        request = sessions_pb2.RewindRequest(session_id=session_id, step=step)
        return session_info((await self._asked("Sessions.Rewind", request)).session)

    def session(
        self,
        model: str,
        *,
        version: str = "",
        session_id: str = "",
        resume: bool = False,
        durability: Durability | str | None = None,
        initial_state: InitialState | None = None,
        sizes: Mapping[str, int] | None = None,
        outputs: Sequence[str] = (),
    ) -> "_Opening":
        """Open a session: `async with client.session("copy-ff") as session:` closes it at the end of the block;
        `session = await client.session("copy-ff")` leaves it open.

        resume: take up an open session of that id where it stands, if there is one. durability: what a new one
        outlives; None is what the server is set to. initial_state: state tensors by name that a new one begins with in
        place of the model's own, each of the dtype and shape that `model(name).state` says; what is not given is the
        model's. sizes: of axes of a new one's state, by name, as `model(name).axes` allows. Raises SessionDiffers where
        one that is resumed was opened otherwise. outputs: the outputs that replies carry, by name; empty is all.
        """
        request = open_request(
            model,
            version,
            session_id,
            resume=resume,
            durability=durability,
            initial_state=initial_state,
            sizes=sizes,
        )
        return _Opening(self, request, outputs)

    async def watch(
        self,
        session_id: str,
        *tensors: str,
        frames_per_s: float = 0.0,
        rows_max: int = 0,
        columns_max: int = 0,
        reduction: Reduction | str = Reduction.PEAK,
        state_only: bool = False,
    ) -> AsyncIterator[Frame]:
        """Frames of a session while it lives, whoever steps it: the first at once, the next when it has made steps.
        tensors: names or roles of state tensors; none is all. frames_per_s, rows_max, columns_max: at most; 0 is the
        server's default, 10, 128 and 128. What is larger is reduced: `Picture.blocks` says how. state_only: without
        inputs and outputs.

        When the connection breaks, or another server takes the session, it goes on; the steps are never waited for, and
        a loop that is slow loses frames: `Frame.lost`. Raises SessionClosed, SessionExpired, SessionEvicted when the
        session ends, SessionUnknown, and the last error where patience is at its end.
        """
        request = watch_request(
            session_id,
            tensors,
            frames_per_s=frames_per_s,
            rows_max=rows_max,
            columns_max=columns_max,
            reduction=reduction,
            state_only=state_only,
        )
        patience, turn = Patience(self._healing), Turn()
        shown_step = again_step = -1
        while True:
            line = self._sessions[self._lines.place(session_id, turn)]
            call = line.Watch(request, metadata=affinity(session_id))
            try:
                async for response in call:
                    patience.heard(response)
                    if not response.HasField("frame"):
                        continue
                    patience.progress()
                    # What was shown before the connection broke is not shown again.
                    if response.frame.next_step != again_step:
                        yield frame_of(response.frame)
                    shown_step, again_step = response.frame.next_step, -1
                error: NtmServeError = ServerUnreachable("watch: the stream ended without a word")
            except grpc.RpcError as failed:
                error = error_of_call(failed)
            finally:
                call.cancel()
            if self._closing.is_set():
                raise error
            await pause(self._closing, patience.wait_s(error))
            if not isinstance(error, StreamAged):  # The session is where it was.
                turn.next()
            again_step = shown_step

    def group(
        self,
        model: str,
        *,
        version: str = "",
        prefix: str = "",
        next_steps: Mapping[str, int] | None = None,
        initial_state: GroupState | None = None,
        sizes: Mapping[str, int] | None = None,
        outputs: Sequence[str] = (),
    ) -> AsyncGroup:
        """Sessions of this model, by key, to be stepped many at once. A session's id is `prefix` and its key.

        next_steps: where sessions stand that an earlier run stepped, by key: steps that the server made and whose
        outputs were lost are then answered again. A session that is not named is taken where it stands. initial_state:
        as of `session`, of every session that is opened, or a function of the key that gives it. sizes and outputs: as
        there.
        """
        return AsyncGroup(
            self._sessions,
            Opening(model, version, prefix, initial_state, sizes, tuple(outputs)),
            lines=self._lines,
            healing=self._healing,
            closing=self._closing,
            next_steps=next_steps or {},
            timeout_s=self.timeout_s,
        )

    async def _asked(self, method: Method, request: Any) -> Any:
        return await self._carry_out(asked(self._healing, method, request, self.timeout_s))

    async def _closed(self, known: sessions_pb2.Session, turn: Turn | None = None) -> SessionInfo:
        return session_info(await self._carry_out(closed(self._healing, known, self.timeout_s), turn))

    async def _carry_out(self, asking: Asking[A], turn: Turn | None = None) -> A:
        """Make the calls that are asked for, until there is a result. turn: of the session that asks."""
        turn = turn or self._turn
        outcome: Any = None
        try:
            while True:
                wanted = asking.send(outcome)
                if isinstance(wanted, Call):
                    outcome = await self._outcome(wanted, turn)
                else:
                    await pause(self._closing, wanted.wait_s)
                    outcome = None
                    if isinstance(wanted, Backoff):
                        turn.next()
        except StopIteration as end:
            result: A = end.value
            return result
        finally:
            asking.close()

    async def _outcome(self, call: Call, turn: Turn) -> Any:
        """The reply of a call, or the domain's error."""
        service, _, name = call.method.partition(".")
        stubs: Any = {"Sessions": self._sessions, "Models": self._models, "Admin": self._admin}[service]
        stub = stubs[self._lines.place(call.session_id, turn)]
        try:
            return await getattr(stub, name)(call.request, timeout=call.timeout_s, metadata=call.affinity)
        except grpc.RpcError as failed:
            error = error_of_call(failed)
        if self._closing.is_set():
            raise error
        return error

    def _stream_of(self, session_id: str, turn: Turn) -> Any:
        """The method Stream over the line that a session's calls take."""
        return partial(self._sessions[self._lines.place(session_id, turn)].Stream, metadata=affinity(session_id))


class _Opening:
    """A session that is being opened: to be awaited, or entered."""

    def __init__(self, client: AsyncClient, request: sessions_pb2.OpenRequest, asked: Sequence[str]) -> None:
        self._client = client
        self._request = request
        self._asked = asked
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
        client = self._client
        made = await client._carry_out(opened(client._healing, self._request, client.timeout_s))
        return AsyncSession(client, made, self._asked)


class AsyncSession(SessionFacts):
    """One session, stepped by this client, one call at a time."""

    def __init__(self, client: AsyncClient, opened: sessions_pb2.OpenResponse, asked: Sequence[str] = ()) -> None:
        super().__init__(opened, asked)
        self._client = client
        self._turn = Turn()
        self._exchange: Exchange | None = None
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

    async def step(self, x: Inputs, *, timeout_s: float | None = None, outputs: Sequence[str] | None = None) -> Outputs:
        """Run one step, or T steps at once; y has the form of x. timeout_s: the longest that it may take, all tries
        together; None is the client's. outputs: those of this call, by name, empty is all; None are the session's.

        After DeadlinePassed or ServerUnreachable the same x may be passed again: it is run once. Raises SessionLost
        where the server lost the session's memory.
        """
        steps = steps_of(x, self.inputs)
        await self._end_exchange()
        client = self._client
        limit_s = client.timeout_s if timeout_s is None else timeout_s
        made = await client._carry_out(stepped(client._healing, self, steps, limit_s, outputs), self._turn)
        return outputs_of(made, single=steps.single)

    async def stream(
        self,
        xs: Iterable[Inputs] | AsyncIterable[Inputs],
        *,
        steps_per_message: int = 1,
        in_flight_max: int = IN_FLIGHT_MAX_DEFAULT,
    ) -> AsyncIterator[Outputs]:
        """One y for each x, in order, over one stream. xs is read ahead, by another task, as far as
        `in_flight_max` messages: for an x that depends on the y before it use `step`.

        When the connection breaks, what was not answered is sent again over another, and the loop notices nothing but
        the time; see RetryPolicy. Raises the last error where patience is at its end, and SessionLost where the server
        lost the session's memory.

        A loop that is left early leaves the session after the last x that was sent, which may be further
        than the last y that was taken; after the session's next call `next_step` says where that is.
        """
        await self._end_exchange()
        client = self._client
        exchange = self._exchange = Exchange(
            self,
            xs,
            steps_per_message=steps_per_message,
            in_flight_max=in_flight_max,
            patience=Patience(client._healing),
            begin=lambda: client._stream_of(self.id, self._turn)(),
            carry_out=partial(client._carry_out, turn=self._turn),
            is_closing=client._closing.is_set,
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

    async def snapshot(self, *, step: int | None = None) -> SessionSnapshot:
        """The session's state before that step, or as it stands: see Client.snapshot."""
        await self._end_exchange()
        return await self._client.snapshot(self.id, step=step)

    async def fork(
        self, session_id: str = "", *, step: int | None = None, durability: Durability | str | None = None
    ) -> "AsyncSession":
        """A session that begins where this one stands, or stood before that step. This one goes on."""
        await self._end_exchange()
        return await self._client.fork(self.id, session_id, step=step, durability=durability)

    async def rewind(self, step: int) -> SessionInfo:
        """Go back to where the session stood before that step."""
        await self._end_exchange()
        info = await self._client.rewind(self.id, step)
        self.stand_at(info.next_step)
        return info

    async def close(self) -> SessionInfo:
        """End the session on the server."""
        known = sessions_pb2.Session(
            session_id=self.id, model=self.model, version=self.version, next_step=self.next_step
        )
        info = await self._client._closed(known, self._turn)
        self._closed = True
        return info

    async def _end_exchange(self) -> None:
        """What follows a stream follows all that the stream sent."""
        if self._exchange is not None:
            await self._exchange.end(self._client.timeout_s)
            if not self._exchange.whole:
                # A reply was not waited for, and with it where the session stands.
                asking = settled(self._client._healing, self, self._client.timeout_s)
                self.next_step = await self._client._carry_out(asking, self._turn)
            self._exchange = None
