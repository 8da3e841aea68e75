"""The sync client. See ntm_serve.client.conversion for what x and y are."""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

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
from ntm_serve.client.exchange import Exchange
from ntm_serve.client.frames import Frame, frame_of, watch_request
from ntm_serve.client.group import Group, pause
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


class Client:
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
            identity.channel(grpc, address, (*options, ("ntm_serve.line", number)))
            for number, address in enumerate(self._lines.addresses)
        ]
        lines = [identity.calls(channel) for channel in self._channels]
        self._sessions = tuple(sessions_pb2_grpc.SessionsStub(line) for line in lines)
        self._models = tuple(models_pb2_grpc.ModelsStub(line) for line in lines)
        self._admin = tuple(admin_pb2_grpc.AdminStub(line) for line in lines)
        # Of calls that belong to no session that is open.
        self._turn = Turn()
        self._healing = Healing(retry, clock=time.monotonic)
        self._closing = threading.Event()
        self.timeout_s = timeout_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection. Sessions stay open on the server."""
        self._closing.set()
        for channel in self._channels:
            channel.close()

    def models(self) -> list[ModelInfo]:
        """Every model of the server, by name and version."""
        response = self._asked("Models.List", models_pb2.ListModelsRequest())
        return [model_info(model) for model in response.models]

    def model(self, name: str, version: str = "") -> ModelInfo:
        """One model; without a version the highest that is served. Raises ModelUnknown."""
        return model_info(self._asked("Models.Get", models_pb2.GetModelRequest(name=name, version=version)).model)

    def sessions(self, model: str = "") -> Iterator[SessionInfo]:
        """Open sessions, in the order of their ids, page by page."""
        token = ""
        while True:
            page = self._asked("Sessions.List", sessions_pb2.ListRequest(model=model, page_size=1000, page_token=token))
            yield from (session_info(session) for session in page.sessions)
            token = page.next_page_token
            if not token:
                return

    def all_sessions(self, model: str = "") -> Iterator[SessionInfo]:
        """As `sessions`, those of every tenant. Raises PermissionDenied where the caller has not the role admin."""
        token = ""
        while True:
            request = admin_pb2.ListSessionsRequest(model=model, page_size=1000, page_token=token)
            page = self._asked("Admin.ListSessions", request)
            for session in page.sessions:
                yield session_info(session)
            token = page.next_page_token
            if not token:
                return

    def drain(self) -> None:
        """Have the server finish what it has admitted, and end. Raises PermissionDenied as `all_sessions`."""
        self._asked("Admin.Drain", admin_pb2.DrainRequest())

    def session_info(self, session_id: str) -> SessionInfo:
        """Where a session stands. Raises SessionUnknown, SessionClosed, SessionExpired."""
        return session_info(self._asked("Sessions.Get", sessions_pb2.GetRequest(session_id=session_id)).session)

    def session_state(self, session_id: str, *names: str) -> dict[str, Array]:
        """State tensors of a session as it stands, by name; without names all of them. Raises as `session_info`."""
        request = sessions_pb2.GetRequest(session_id=session_id, state_names=names or ("*",))
        return arrays_of(self._asked("Sessions.Get", request).state)

    def close_session(self, session_id: str) -> SessionInfo:
        """End a session; returns it as it stood. Raises as `session_info`.

        Where the answer is lost and a second try finds it ended, it is only named.
        """
        return self._closed(sessions_pb2.Session(session_id=session_id))

    def snapshot(self, session_id: str, *, step: int | None = None) -> SessionSnapshot:
        """A session's state before that step, or as it stands, for `restore`, here or at another server of the same
        model. Raises as `session_info`, StepForgotten, InvalidInput.
        """
        request = sessions_pb2.SnapshotRequest(session_id=session_id, step=step)
        response = self._asked("Sessions.Snapshot", request)
        return SessionSnapshot(response.step, response.snapshot)

    def restore(
        self, snapshot: bytes, *, session_id: str = "", durability: Durability | str | None = None
    ) -> "Session":
        """Open a session where a snapshot was taken; durability None is what the server is set to. Raises
        SnapshotRejected, and as `session`.
        """
        request = sessions_pb2.RestoreRequest(
            snapshot=snapshot, session_id=session_id, durability=durability_word(durability)
        )
        return Session(self, self._carry_out(restored(self._healing, request, self.timeout_s)))

    def fork(
        self,
        session_id: str,
        fork_id: str = "",
        *,
        step: int | None = None,
        durability: Durability | str | None = None,
    ) -> "Session":
        """Open a session where another stands, or stood before that step; durability None is the other's. The other
        goes on, unchanged. Raises as `snapshot` and `session`.
        """
        request = sessions_pb2.ForkRequest(
            session_id=session_id, fork_session_id=fork_id, step=step, durability=durability_word(durability)
        )
        return Session(self, self._carry_out(forked(self._healing, request, self.timeout_s)))

    def rewind(self, session_id: str, step: int) -> SessionInfo:
        """Take a session back to where it stood before that step. Raises as `snapshot`."""
        request = sessions_pb2.RewindRequest(session_id=session_id, step=step)
        return session_info((self._asked("Sessions.Rewind", request)).session)

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
    ) -> "Session":
        """Open a session; as a context manager it is closed at the end of the block.

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
        return Session(self, self._carry_out(opened(self._healing, request, self.timeout_s)), outputs)

    def watch(
        self,
        session_id: str,
        *tensors: str,
        frames_per_s: float = 0.0,
        rows_max: int = 0,
        columns_max: int = 0,
        reduction: Reduction | str = Reduction.PEAK,
        state_only: bool = False,
    ) -> Iterator[Frame]:
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
                for response in call:
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
            pause(self._closing, patience.wait_s(error))
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
    ) -> Group:
        """Sessions of this model, by key, to be stepped many at once. A session's id is `prefix` and its key.

        next_steps: where sessions stand that an earlier run stepped, by key: steps that the server made and whose
        outputs were lost are then answered again. A session that is not named is taken where it stands. initial_state:
        as of `session`, of every session that is opened, or a function of the key that gives it. sizes and outputs: as
        there.
        """
        return Group(
            self._sessions,
            Opening(model, version, prefix, initial_state, sizes, tuple(outputs)),
            lines=self._lines,
            healing=self._healing,
            closing=self._closing,
            next_steps=next_steps or {},
            timeout_s=self.timeout_s,
        )

    def _asked(self, method: Method, request: Any) -> Any:
        return self._carry_out(asked(self._healing, method, request, self.timeout_s))

    def _closed(self, known: sessions_pb2.Session, turn: Turn | None = None) -> SessionInfo:
        return session_info(self._carry_out(closed(self._healing, known, self.timeout_s), turn))

    def _carry_out(self, asking: Asking[A], turn: Turn | None = None) -> A:
        """Make the calls that are asked for, until there is a result. turn: of the session that asks."""
        turn = turn or self._turn
        outcome: Any = None
        try:
            while True:
                wanted = asking.send(outcome)
                if isinstance(wanted, Call):
                    outcome = self._outcome(wanted, turn)
                else:
                    pause(self._closing, wanted.wait_s)
                    outcome = None
                    if isinstance(wanted, Backoff):
                        turn.next()
        except StopIteration as end:
            result: A = end.value
            return result
        finally:
            asking.close()

    def _outcome(self, call: Call, turn: Turn) -> Any:
        """The reply of a call, or the domain's error."""
        service, _, name = call.method.partition(".")
        stubs: Any = {"Sessions": self._sessions, "Models": self._models, "Admin": self._admin}[service]
        stub = stubs[self._lines.place(call.session_id, turn)]
        try:
            return getattr(stub, name)(call.request, timeout=call.timeout_s, metadata=call.affinity)
        except grpc.RpcError as failed:
            error = error_of_call(failed)
        if self._closing.is_set():
            raise error
        return error

    def _stream_of(self, session_id: str, turn: Turn) -> Any:
        """The method Stream over the line that a session's calls take."""
        return partial(self._sessions[self._lines.place(session_id, turn)].Stream, metadata=affinity(session_id))


class Session(SessionFacts):
    """One session, stepped by this client. Not for use from several threads at once."""

    def __init__(self, client: Client, opened: sessions_pb2.OpenResponse, asked: Sequence[str] = ()) -> None:
        super().__init__(opened, asked)
        self._client = client
        self._turn = Turn()
        self._exchange: Exchange | None = None
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._closed:
            return
        try:
            self.close()
        except NtmServeError:
            if kind is None:  # A block that failed has its own error to tell.
                raise

    def step(self, x: Inputs, *, timeout_s: float | None = None, outputs: Sequence[str] | None = None) -> Outputs:
        """Run one step, or T steps at once; y has the form of x. timeout_s: the longest that it may take, all tries
        together; None is the client's. outputs: those of this call, by name, empty is all; None are the session's.

        After DeadlinePassed or ServerUnreachable the same x may be passed again: it is run once. Raises SessionLost
        where the server lost the session's memory.
        """
        steps = steps_of(x, self.inputs)
        self._end_exchange()
        client = self._client
        limit_s = client.timeout_s if timeout_s is None else timeout_s
        return outputs_of(
            client._carry_out(stepped(client._healing, self, steps, limit_s, outputs), self._turn), single=steps.single
        )

    def stream(
        self, xs: Iterable[Inputs], *, steps_per_message: int = 1, in_flight_max: int = IN_FLIGHT_MAX_DEFAULT
    ) -> Iterator[Outputs]:
        """One y for each x, in order, over one stream. xs is read ahead, by another thread, as far as
        `in_flight_max` messages: for an x that depends on the y before it use `step`.

        When the connection breaks, what was not answered is sent again over another, and the loop notices nothing but
        the time; see RetryPolicy. Raises the last error where patience is at its end, and SessionLost where the server
        lost the session's memory.

        A loop that is left early leaves the session after the last x that was sent, which may be further
        than the last y that was taken; `next_step` says where that is.
        """
        self._end_exchange()
        client = self._client
        exchange = self._exchange = Exchange(
            self,
            xs,
            steps_per_message=steps_per_message,
            in_flight_max=in_flight_max,
            patience=Patience(client._healing),
            begin=lambda messages: client._stream_of(self.id, self._turn)(messages),
            carry_out=partial(client._carry_out, turn=self._turn),
            is_closing=client._closing.is_set,
        )
        try:
            while (outputs := exchange.receive()) is not None:
                yield from outputs
        finally:
            exchange.end(self._client.timeout_s)

    def info(self) -> SessionInfo:
        """Where the session stands on the server."""
        return self._client.session_info(self.id)

    def state(self, *names: str) -> dict[str, Array]:
        """What is in the session's memory: state tensors by name; without names all of them."""
        return self._client.session_state(self.id, *names)

    def snapshot(self, *, step: int | None = None) -> SessionSnapshot:
        """The session's state before that step, or as it stands: see Client.snapshot."""
        self._end_exchange()
        return self._client.snapshot(self.id, step=step)

    def fork(
        self, session_id: str = "", *, step: int | None = None, durability: Durability | str | None = None
    ) -> "Session":
        """A session that begins where this one stands, or stood before that step. This one goes on."""
        self._end_exchange()
        return self._client.fork(self.id, session_id, step=step, durability=durability)

    def rewind(self, step: int) -> SessionInfo:
        """Go back to where the session stood before that step."""
        self._end_exchange()
        info = self._client.rewind(self.id, step)
        self.stand_at(info.next_step)
        return info

    def close(self) -> SessionInfo:
        """End the session on the server."""
        known = sessions_pb2.Session(
            session_id=self.id, model=self.model, version=self.version, next_step=self.next_step
        )
        info = self._client._closed(known, self._turn)
        self._closed = True
        return info

    def _end_exchange(self) -> None:
        """What follows a stream follows all that the stream sent."""
        if self._exchange is not None:
            self._exchange.end(self._client.timeout_s)
            if not self._exchange.whole:
                # A reply was not waited for, and with it where the session stands.
                asking = settled(self._client._healing, self, self._client.timeout_s)
                self.next_step = self._client._carry_out(asking, self._turn)
            self._exchange = None
