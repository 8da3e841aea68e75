"""The sync client. See ntm_serve.client.conversion for what x and y are."""

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import grpc

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
from ntm_serve.client.group import Group
from ntm_serve.client.views import ModelInfo, SessionInfo, model_info, session_info
from ntm_serve.errors import NtmServeError, StepCancelled
from ntm_serve.spec import Array
from ntm_serve.v1 import models_pb2, models_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from ntm_serve.wire import arrays_of


class Client:
    """A connection to a server. timeout_s: the longest that a call may take, but for streams; None is no limit."""

    def __init__(self, target: str, *, timeout_s: float | None = 60.0) -> None:
        self._channel = grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
        self._sessions = sessions_pb2_grpc.SessionsStub(self._channel)
        self._models = models_pb2_grpc.ModelsStub(self._channel)
        self.timeout_s = timeout_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Sessions stay open on the server."""
        self._channel.close()

    def models(self) -> list[ModelInfo]:
        """Every model of the server, by name and version."""
        response = _answer(self._models.List, models_pb2.ListModelsRequest(), self.timeout_s)
        return [model_info(model) for model in response.models]

    def model(self, name: str, version: str = "") -> ModelInfo:
        """One model; without a version the highest that is served. Raises ModelUnknown."""
        response = _answer(self._models.Get, models_pb2.GetModelRequest(name=name, version=version), self.timeout_s)
        return model_info(response.model)

    def sessions(self, model: str = "") -> Iterator[SessionInfo]:
        """Open sessions, in the order of their ids, page by page."""
        token = ""
        while True:
            request = sessions_pb2.ListRequest(model=model, page_size=1000, page_token=token)
            page = _answer(self._sessions.List, request, self.timeout_s)
            yield from (session_info(session) for session in page.sessions)
            token = page.next_page_token
            if not token:
                return

    def session_info(self, session_id: str) -> SessionInfo:
        """Where a session stands. Raises SessionUnknown, SessionClosed, SessionExpired."""
        request = sessions_pb2.GetRequest(session_id=session_id)
        return session_info(_answer(self._sessions.Get, request, self.timeout_s).session)

    def session_state(self, session_id: str, *names: str) -> dict[str, Array]:
        """State tensors of a session as it stands, by name; without names all of them. Raises as `session_info`."""
        request = sessions_pb2.GetRequest(session_id=session_id, state_names=names or ("*",))
        return arrays_of(_answer(self._sessions.Get, request, self.timeout_s).state)

    def close_session(self, session_id: str) -> SessionInfo:
        """End a session; returns it as it stood. Raises as `session_info`."""
        request = sessions_pb2.CloseRequest(session_id=session_id)
        return session_info(_answer(self._sessions.Close, request, self.timeout_s).session)

    def session(self, model: str, *, version: str = "", session_id: str = "", resume: bool = False) -> "Session":
        """Open a session; as a context manager it is closed at the end of the block.

        resume: take up an open session of that id where it stands, if there is one.
        """
        request = sessions_pb2.OpenRequest(model=model, version=version, session_id=session_id, resume=resume)
        return Session(self, self._sessions, _answer(self._sessions.Open, request, self.timeout_s))

    def group(
        self, model: str, *, version: str = "", prefix: str = "", next_steps: Mapping[str, int] | None = None
    ) -> Group:
        """Sessions of this model, by key, to be stepped many at once. A session's id is `prefix` and its key.

        next_steps: where sessions stand that an earlier run stepped, by key: steps that the server made and whose
        outputs were lost are then answered again. A session that is not named is taken where it stands.
        """
        return Group(
            self._sessions,
            Opening(model, version, prefix),
            next_steps=next_steps or {},
            timeout_s=self.timeout_s,
        )


class Session(SessionFacts):
    """One session, stepped by this client. Not for use from several threads at once."""

    def __init__(self, client: Client, stub: sessions_pb2_grpc.SessionsStub, opened: sessions_pb2.OpenResponse) -> None:
        super().__init__(opened)
        self._client = client
        self._stub = stub
        self._exchange: _Exchange | None = None
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

    def step(self, x: Inputs, *, timeout_s: float | None = None) -> Outputs:
        """Run one step, or T steps at once; y has the form of x.

        After DeadlinePassed or ServerUnreachable the same x may be passed again: it is run once.
        """
        steps = steps_of(x, self.inputs)
        self._end_exchange()
        limit_s = self._client.timeout_s if timeout_s is None else timeout_s
        response = _answer(self._stub.Step, self.message_of(steps), limit_s)
        return outputs_of(self.advance(response), single=steps.single)

    def stream(
        self, xs: Iterable[Inputs], *, steps_per_message: int = 1, in_flight_max: int = IN_FLIGHT_MAX_DEFAULT
    ) -> Iterator[Outputs]:
        """One y for each x, in order, over one stream. xs is read ahead, by another thread, as far as
        `in_flight_max` messages: for an x that depends on the y before it use `step`.

        A loop that is left early leaves the session after the last x that was sent, which may be further
        than the last y that was taken; `next_step` says where that is.
        """
        self._end_exchange()
        exchange = self._exchange = _Exchange(
            self, self._stub, xs, steps_per_message=steps_per_message, in_flight_max=in_flight_max
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

    def close(self) -> SessionInfo:
        """End the session on the server."""
        info = self._client.close_session(self.id)
        self._closed = True
        return info

    def _end_exchange(self) -> None:
        """What follows a stream follows all that the stream sent."""
        if self._exchange is not None:
            self._exchange.end(self._client.timeout_s)
            if not self._exchange.whole:
                # A reply was not waited for, and with it where the session stands.
                self.next_step = (self.info()).next_step
            self._exchange = None


def _answer(method: Any, request: Any, timeout_s: float | None) -> Any:
    """The reply of a call, or the domain's error."""
    try:
        return method(request, timeout=timeout_s)
    except grpc.RpcError as failed:
        raise error_of_call(failed) from None


class _Exchange:
    """One stream of one session: messages made by gRPC's own thread while the caller's takes the replies."""

    def __init__(
        self,
        session: Session,
        stub: sessions_pb2_grpc.SessionsStub,
        xs: Iterable[Inputs],
        *,
        steps_per_message: int,
        in_flight_max: int,
    ) -> None:
        expect_positive("in_flight_max", in_flight_max)
        self._session = session
        self._groups = _grouped(xs, Grouping(session.inputs, steps_per_message))
        self._room = threading.Semaphore(in_flight_max)
        self._in_flight = InFlight(session)
        # Held to send or to stop sending: after that the messages in flight only get fewer.
        self._sending = threading.Lock()
        self._stopped = False
        self._fault: BaseException | None = None
        # Whether every reply that was waited for came: if not, only the server knows where the session stands.
        self.whole = True
        self._call: Any = stub.Stream(self._messages())

    def receive(self) -> Iterator[Outputs] | None:
        """What the next message gave; None after the last. Raises the error of the message, of the call or of xs."""
        if self._stopped:
            raise StepCancelled(f"session {self._session.id}: a later call ended this stream")
        self.whole = False
        try:
            while not self._in_flight.answered and (response := next(self._call, None)) is not None:
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

    def end(self, timeout_s: float | None) -> None:
        """Send no more, and hear what became of that which was sent: a message still on its way could else
        be run after the session's next one.
        """
        with self._sending:
            if self._stopped:
                return
            self._stopped = True
        self._room.release()
        wait_s = threading.TIMEOUT_MAX if timeout_s is None else timeout_s
        patience = threading.Timer(wait_s, self._call.cancel)
        patience.daemon = True
        try:
            if self.whole and self._in_flight:
                patience.start()
                self._hear_rest()
        finally:
            patience.cancel()
            self._call.cancel()

    def _hear_rest(self) -> None:
        with contextlib.suppress(grpc.RpcError):
            while self._in_flight:
                if self._in_flight.answered:
                    with contextlib.suppress(NtmServeError):
                        self._in_flight.take()
                elif (response := next(self._call, None)) is not None:
                    self._in_flight.keep(response)
                else:
                    return

    def _messages(self) -> Iterator[sessions_pb2.StreamRequest]:
        """One after another, each once there is room."""
        try:
            while self._room.acquire() and not self._stopped:
                steps = next(self._groups, None)
                with self._sending:
                    if steps is None or self._stopped:
                        return
                    message = self._in_flight.send(steps)
                yield message
        except GeneratorExit:
            raise
        except BaseException as fault:  # The fault of xs: the caller's thread shall see it, not gRPC's.
            self._fault = fault


def _grouped(xs: Iterable[Inputs], grouping: Grouping) -> Iterator[Steps]:
    for x in xs:
        yield from grouping.add(x)
    yield from grouping.rest()
