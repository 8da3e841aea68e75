"""The sync client. See ntm_serve.client.conversion for what x and y are."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator
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


class Session(SessionFacts):
    """One session, stepped by this client. Not for use from several threads at once."""

    def __init__(self, client: Client, stub: sessions_pb2_grpc.SessionsStub, opened: sessions_pb2.OpenResponse) -> None:
        super().__init__(opened)
        self._client = client
        self._stub = stub

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except NtmServeError:
            if kind is None:  # A block that failed has its own error to tell.
                raise

    def step(self, x: Inputs, *, timeout_s: float | None = None) -> Outputs:
        """Run one step, or T steps at once; y has the form of x."""
        steps = steps_of(x, self.inputs)
        response = _answer(self._stub.Step, self.message_of(steps), timeout_s or self._client.timeout_s)
        return outputs_of(self.advance(response), single=steps.single)

    def stream(
        self, xs: Iterable[Inputs], *, steps_per_message: int = 1, in_flight_max: int = IN_FLIGHT_MAX_DEFAULT
    ) -> Iterator[Outputs]:
        """One y for each x, in order, over one stream. xs is read ahead, by another thread, as far as
        `in_flight_max` messages: for an x that depends on the y before it use `step`.
        """
        outgoing = _Outgoing(self, xs, steps_per_message, in_flight_max)
        call = self._stub.Stream(outgoing.messages())
        try:
            for response in call:
                outputs = self.advance(response.step)
                yield from parted(outputs, outgoing.answered())
        except grpc.RpcError as failed:
            raise outgoing.fault or error_of_call(failed) from None
        finally:
            outgoing.stop()
            call.cancel()
        if outgoing.fault is not None:
            raise outgoing.fault

    def info(self) -> SessionInfo:
        """Where the session stands on the server."""
        return self._client.session_info(self.id)

    def state(self, *names: str) -> dict[str, Array]:
        """What is in the session's memory: state tensors by name; without names all of them."""
        return self._client.session_state(self.id, *names)

    def close(self) -> SessionInfo:
        """End the session on the server."""
        return self._client.close_session(self.id)


def _answer(method: Any, request: Any, timeout_s: float | None) -> Any:
    """The reply of a call, or the domain's error."""
    try:
        return method(request, timeout=timeout_s)
    except grpc.RpcError as failed:
        raise error_of_call(failed) from None


class _Outgoing:
    """The messages of one stream, made by gRPC's own thread while the caller's takes the replies."""

    def __init__(self, session: Session, xs: Iterable[Inputs], steps_per_message: int, in_flight_max: int) -> None:
        self._session = session
        self._groups = grouped(xs, session.inputs, steps_per_message)
        self._room = threading.Semaphore(in_flight_max)
        self._sent: deque[Steps] = deque()
        self._first_step = session.next_step
        self._stopped = False
        self.fault: BaseException | None = None

    def messages(self) -> Iterator[sessions_pb2.StreamRequest]:
        """One after another, each once there is room."""
        try:
            while self._room.acquire() and not self._stopped:
                steps = next(self._groups, None)
                if steps is None:
                    return
                message = step_message(self._session.id, steps, first_step=self._first_step)
                self._first_step += steps.count
                self._sent.append(steps)
                yield sessions_pb2.StreamRequest(step=message)
        except Exception as fault:  # The caller's iterable failed: its thread shall see it, not gRPC's.
            self.fault = fault

    def answered(self) -> Steps:
        """The oldest message is answered: there is room for another."""
        self._room.release()
        return self._sent.popleft()

    def stop(self) -> None:
        """Make no more."""
        self._stopped = True
        self._room.release()
