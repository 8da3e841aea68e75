"""The services ntm_serve.v1.Sessions and ntm_serve.v1.Models over gRPC.

Rules of this file: a stream has one reader and one writer, and a bounded number of messages in between:
a client that does not read is held, not buffered; whatever way a stream ends, nothing of it is left.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import grpc

from ntm_serve.errors import InvalidInput, NtmServeError, ServerDraining
from ntm_serve.frontends.calls import CallObserver
from ntm_serve.frontends.messages import step_request, step_response, wire_model, wire_session, wire_specs
from ntm_serve.frontends.status import abort, fault_of
from ntm_serve.service import Service, SessionReply, Submission
from ntm_serve.v1 import models_pb2, models_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from ntm_serve.wire import tensor_of, wire_error

Context = grpc.aio.ServicerContext[Any, Any]

STREAM_METHOD = "/ntm_serve.v1.Sessions/Stream"
STREAM_KIND = "bidi_stream"

PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX = 100, 1000


class ModelsServicer(models_pb2_grpc.ModelsServicer):
    """See proto/ntm_serve/v1/models.proto."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def List(self, request: models_pb2.ListModelsRequest, context: Context) -> models_pb2.ListModelsResponse:
        return models_pb2.ListModelsResponse(models=[wire_model(view) for view in self._service.models()])

    async def Get(self, request: models_pb2.GetModelRequest, context: Context) -> models_pb2.GetModelResponse:
        try:
            return models_pb2.GetModelResponse(model=wire_model(self._service.model(request.name, request.version)))
        except NtmServeError as error:
            await abort(context, error)


class SessionsServicer(sessions_pb2_grpc.SessionsServicer):
    """See proto/ntm_serve/v1/sessions.proto."""

    def __init__(self, service: Service, *, messages_in_flight_max: int, observer: CallObserver) -> None:
        self._service = service
        self._messages_in_flight_max = messages_in_flight_max
        self._observer = observer
        self._streams: set[_Stream] = set()

    async def Open(self, request: sessions_pb2.OpenRequest, context: Context) -> sessions_pb2.OpenResponse:
        try:
            view = self._service.open_session(
                request.model, request.version, session_id=request.session_id or None, resume=request.resume
            )
            inputs, outputs = wire_specs(self._service.model(*view.model))
            return sessions_pb2.OpenResponse(session=wire_session(view), inputs=inputs, outputs=outputs)
        except NtmServeError as error:
            await abort(context, error)

    async def Step(self, request: sessions_pb2.StepRequest, context: Context) -> sessions_pb2.StepResponse:
        try:
            if request.reply_mode == sessions_pb2.REPLY_MODE_AS_FINISHED:
                raise InvalidInput("reply_mode: expected TOGETHER for a call with one reply, got AS_FINISHED")
            replies = await self._service.step(step_request(request))
            if len(replies) == 1 and replies[0].error is not None:
                raise replies[0].error
            return step_response(request.tag, replies)
        except NtmServeError as error:
            await abort(context, error)
        except Exception as fault:
            await abort(context, fault_of("Sessions.Step", fault))

    async def Stream(self, request_iterator: Any, context: Context) -> None:
        stream = _Stream(self._service, context, self._messages_in_flight_max, self._observer)
        self._streams.add(stream)
        try:
            await stream.run()
        except NtmServeError as error:
            await abort(context, error)
        finally:
            self._streams.discard(stream)

    async def Get(self, request: sessions_pb2.GetRequest, context: Context) -> sessions_pb2.GetResponse:
        try:
            view = self._service.get_session(request.session_id)
            state = self._service.get_state(request.session_id, request.state_names)
            tensors = [tensor_of(name, array) for name, array in state.items()]
            return sessions_pb2.GetResponse(session=wire_session(view), state=tensors)
        except NtmServeError as error:
            await abort(context, error)

    async def List(self, request: sessions_pb2.ListRequest, context: Context) -> sessions_pb2.ListResponse:
        size = min(request.page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)
        if size < 1:
            await abort(context, InvalidInput(f"page_size: expected at least 0, got {request.page_size}"))
        views = self._service.list_sessions(model_name=request.model, after=request.page_token, page_size=size)
        more = views[-1].session_id if len(views) == size else ""
        return sessions_pb2.ListResponse(sessions=[wire_session(view) for view in views], next_page_token=more)

    async def Close(self, request: sessions_pb2.CloseRequest, context: Context) -> sessions_pb2.CloseResponse:
        try:
            return sessions_pb2.CloseResponse(session=wire_session(self._service.close_session(request.session_id)))
        except NtmServeError as error:
            await abort(context, error)

    def drain(self) -> None:
        """Have every stream answer what it has in flight, and end with a status that says: connect again."""
        for stream in self._streams:
            stream.drain()


class _Stream:
    """One stream: reads messages, has them run, writes what comes back."""

    def __init__(self, service: Service, context: Context, messages_in_flight_max: int, observer: CallObserver) -> None:
        self._service = service
        self._context = context
        self._observer = observer
        self._room = asyncio.Semaphore(messages_in_flight_max)
        self._outbox: deque[tuple[sessions_pb2.StreamResponse, bool]] = deque()
        self._wake = asyncio.Event()
        self._submissions: dict[int, Submission] = {}
        self._reading: asyncio.Task[None] | None = None
        self._read_all = False
        self._draining = False
        self._unanswered = 0

    async def run(self) -> None:
        """Until the client has sent its last message and has every reply, or leaves, or the server drains.

        Raises ServerDraining.
        """
        self._reading = asyncio.create_task(self._read())
        try:
            await self._write()
        finally:
            self._reading.cancel()
            (fault,) = await asyncio.gather(self._reading, return_exceptions=True)
            # The last first: none is then aborted because of another, and a copy, as ends take themselves out.
            for submission in reversed(list(self._submissions.values())):
                submission.cancel()
        if isinstance(fault, Exception):
            raise InvalidInput("stream: expected a StreamRequest, got bytes that are none") from fault
        if self._draining:
            raise ServerDraining("server: is stopping; connect again")

    def drain(self) -> None:
        """Read no more. A client that has sent all it had gets its replies, and need not connect again."""
        if self._reading is not None and not self._read_all:
            self._draining = True
            self._reading.cancel()

    async def _read(self) -> None:
        number = 0
        try:
            while True:
                await self._room.acquire()
                message = await self._context.read()
                if message is grpc.aio.EOF:
                    return
                self._observer.message_received(STREAM_METHOD, STREAM_KIND)
                number += 1
                self._unanswered += 1
                if message.WhichOneof("message") == "heartbeat":
                    self._put(sessions_pb2.StreamResponse(heartbeat=message.heartbeat), last=True)
                else:
                    self._submit(number, message.step)
        finally:
            self._read_all = True
            self._wake.set()

    def _submit(self, number: int, message: sessions_pb2.StepRequest) -> None:
        as_finished = message.reply_mode == sessions_pb2.REPLY_MODE_AS_FINISHED
        count, tag = len(message.session_ids), message.tag
        replies: dict[int, SessionReply] = {}

        def take(place: int, reply: SessionReply) -> None:
            replies[place] = reply
            last = len(replies) == count
            if last:
                self._submissions.pop(number, None)
            if as_finished:
                self._put_replies(tag, [reply], last=last)
            elif last:
                self._put_replies(tag, [replies[i] for i in range(count)], last=True)

        try:
            submission = self._service.submit(step_request(message), take)
        except NtmServeError as error:
            self._refuse(tag, error)
        except Exception as fault:
            self._refuse(tag, fault_of("Sessions.Stream", fault))
        else:
            if len(replies) < count:
                self._submissions[number] = submission

    def _refuse(self, tag: int, error: NtmServeError) -> None:
        refused = sessions_pb2.StepResponse(tag=tag, error=wire_error(error))
        self._put(sessions_pb2.StreamResponse(step=refused), last=True)

    def _put_replies(self, tag: int, replies: Sequence[SessionReply], *, last: bool) -> None:
        self._put(sessions_pb2.StreamResponse(step=step_response(tag, replies)), last=last)

    def _put(self, response: sessions_pb2.StreamResponse, *, last: bool) -> None:
        """`last`: it is the last answer to its message, so another message may be read once it is written."""
        self._outbox.append((response, last))
        self._wake.set()

    async def _write(self) -> None:
        while not (self._read_all and self._unanswered == 0):
            while self._outbox:
                response, last = self._outbox.popleft()
                await self._context.write(response)
                self._observer.message_sent(STREAM_METHOD, STREAM_KIND)
                if last:
                    self._unanswered -= 1
                    self._room.release()
            if not (self._read_all and self._unanswered == 0):
                self._wake.clear()
                await self._wake.wait()
