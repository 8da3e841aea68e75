"""The services ntm_serve.v1.Sessions and ntm_serve.v1.Models over gRPC.

Rules of this file: a stream has a bounded number of messages without their answer, and bytes of them: a client
that does not read is held, not buffered and not refused; whatever way a stream ends, nothing of it is left.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

import structlog

from ntm_serve.errors import InvalidInput, NtmServeError, ServerDraining
from ntm_serve.frontends.call import Call, fault_of
from ntm_serve.frontends.messages import (
    ReplyWriter,
    step_of,
    step_request,
    step_response,
    wire_model,
    wire_session,
    wire_specs,
)
from ntm_serve.frontends.methods import LEFT, parsed, takes_trace
from ntm_serve.frontends.stream import HELD_BACK_MAX_S
from ntm_serve.frontends.watch import WatchCall
from ntm_serve.observer import CallTrace, MessageTrace, Tracer
from ntm_serve.service import Service
from ntm_serve.submission import Submission
from ntm_serve.tenancy import Tenancy, TenantService, place_of
from ntm_serve.v1 import admin_pb2, models_pb2, sessions_pb2
from ntm_serve.wire import arrays_of, durability_of, tensor_of, wire_error

PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX = 100, 1000

log = structlog.get_logger()


class ModelsBehaviours:
    """See proto/ntm_serve/v1/models.proto."""

    def __init__(self, service: Service | TenantService) -> None:
        self._service = service

    def List(self, request: models_pb2.ListModelsRequest) -> models_pb2.ListModelsResponse:
        return models_pb2.ListModelsResponse(models=[wire_model(view) for view in self._service.models()])

    def Get(self, request: models_pb2.GetModelRequest) -> models_pb2.GetModelResponse:
        return models_pb2.GetModelResponse(model=wire_model(self._service.model(request.name, request.version)))


class AdminBehaviours:
    """See proto/ntm_serve/v1/admin.proto."""

    def __init__(self, tenancy: Tenancy, *, drain: Callable[[], None]) -> None:
        """drain: has the server stop."""
        self._tenancy = tenancy
        self._drain = drain

    async def ListSessions(self, request: admin_pb2.ListSessionsRequest) -> admin_pb2.ListSessionsResponse:
        size = _page_size(request.page_size)
        views = await self._tenancy.list_all(model_name=request.model, after=request.page_token, page_size=size)
        more = place_of(views[-1].tenant, views[-1].session_id) if len(views) == size else ""
        return admin_pb2.ListSessionsResponse(sessions=[wire_session(view) for view in views], next_page_token=more)

    def Drain(self, request: admin_pb2.DrainRequest) -> admin_pb2.DrainResponse:
        log.info("asked to drain")
        self._drain()
        return admin_pb2.DrainResponse()


class SessionsBehaviours:
    """See proto/ntm_serve/v1/sessions.proto."""

    def __init__(
        self,
        service: Service | TenantService,
        *,
        messages_in_flight_max: int,
        stream_bytes_max: int,
        tracer: Tracer | None = None,
    ) -> None:
        """stream_bytes_max: of a stream's messages without their answer; beyond it no more is read."""
        self._service = service
        self._tracer = tracer
        self._messages_in_flight_max = messages_in_flight_max
        self._stream_bytes_max = stream_bytes_max
        self._streams: set[_Stream] = set()
        self._watches: set[WatchCall] = set()

    async def Open(self, request: sessions_pb2.OpenRequest) -> sessions_pb2.OpenResponse:
        view = await self._service.open_session(
            request.model,
            request.version,
            session_id=request.session_id or None,
            resume=request.resume,
            durability=durability_of(request.durability),
            initial_state=arrays_of(request.initial_state),
            sizes=request.sizes,
        )
        inputs, outputs = wire_specs(self._service.model(*view.model))
        return sessions_pb2.OpenResponse(session=wire_session(view), inputs=inputs, outputs=outputs)

    @takes_trace
    async def Step(self, request: sessions_pb2.StepRequest, trace: MessageTrace | None) -> sessions_pb2.StepResponse:
        if request.reply_mode == sessions_pb2.REPLY_MODE_AS_FINISHED:
            raise InvalidInput("reply_mode: expected TOGETHER for a call with one reply, got AS_FINISHED")
        submission = await self._service.step(step_request(request), tag=request.tag)
        if len(submission.session_ids) == 1 and submission.errors:
            raise submission.errors[0]
        response = step_response(submission, range(len(submission.session_ids)))
        if trace is not None:
            trace.answered(submission.timeline())
        return response

    def Stream(self, call: Call) -> None:
        stream = _Stream(
            self._service, call, self._messages_in_flight_max, self._stream_bytes_max, self._streams.discard,
            None if self._tracer is None else self._tracer.call(call.method, call.metadata),
        )  # fmt: skip
        self._streams.add(stream)
        stream.begin()

    async def Get(self, request: sessions_pb2.GetRequest) -> sessions_pb2.GetResponse:
        if not request.state_names:
            return sessions_pb2.GetResponse(session=wire_session(await self._service.get_session(request.session_id)))
        view, state = await self._service.get_state(request.session_id, request.state_names)
        tensors = [tensor_of(name, array) for name, array in state.items()]
        return sessions_pb2.GetResponse(session=wire_session(view), state=tensors)

    async def List(self, request: sessions_pb2.ListRequest) -> sessions_pb2.ListResponse:
        size = _page_size(request.page_size)
        views = await self._service.list_sessions(model_name=request.model, after=request.page_token, page_size=size)
        more = views[-1].session_id if len(views) == size else ""
        return sessions_pb2.ListResponse(sessions=[wire_session(view) for view in views], next_page_token=more)

    async def Close(self, request: sessions_pb2.CloseRequest) -> sessions_pb2.CloseResponse:
        return sessions_pb2.CloseResponse(session=wire_session(await self._service.close_session(request.session_id)))

    async def Snapshot(self, request: sessions_pb2.SnapshotRequest) -> sessions_pb2.SnapshotResponse:
        step, snapshot = await self._service.snapshot_session(request.session_id, step_of(request))
        return sessions_pb2.SnapshotResponse(snapshot=snapshot, step=step)

    async def Restore(self, request: sessions_pb2.RestoreRequest) -> sessions_pb2.RestoreResponse:
        view = await self._service.restore_session(
            request.snapshot, session_id=request.session_id or None, durability=durability_of(request.durability)
        )
        inputs, outputs = wire_specs(self._service.model(*view.model))
        return sessions_pb2.RestoreResponse(session=wire_session(view), inputs=inputs, outputs=outputs)

    async def Fork(self, request: sessions_pb2.ForkRequest) -> sessions_pb2.ForkResponse:
        view = await self._service.fork_session(
            request.session_id,
            fork_id=request.fork_session_id or None,
            step=step_of(request),
            durability=durability_of(request.durability),
        )
        return sessions_pb2.ForkResponse(session=wire_session(view))

    async def Rewind(self, request: sessions_pb2.RewindRequest) -> sessions_pb2.RewindResponse:
        view = await self._service.rewind_session(request.session_id, request.step)
        return sessions_pb2.RewindResponse(session=wire_session(view))

    def Watch(self, call: Call) -> None:
        watch = WatchCall(self._service, call, self._watches.discard)
        self._watches.add(watch)
        watch.begin()

    def drain(self) -> None:
        """Have every stream answer what it has in flight, and end with a status that says: connect again."""
        for stream in list(self._streams):
            stream.drain()


def _page_size(asked: int) -> int:
    """Raises InvalidInput."""
    if asked < 0:
        raise InvalidInput(f"page_size: expected at least 0, got {asked}")
    return min(asked or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)


class _Stream:
    """One stream: reads messages, has them run, writes what comes back."""

    def __init__(
        self,
        service: Service | TenantService,
        call: Call,
        messages_in_flight_max: int,
        bytes_max: int,
        gone: Callable[["_Stream"], None],
        trace: CallTrace | None,
    ) -> None:
        self._service = service
        self._trace = trace
        # Of those messages that are recorded.
        self._traces: dict[Submission, MessageTrace] = {}
        self._call = call
        self._messages_in_flight_max = messages_in_flight_max
        self._bytes_max = bytes_max
        self._gone = gone
        self._writer = ReplyWriter()
        # In the order of their arrival, each with its message's bytes.
        self._submissions: dict[Submission, int] = {}
        # Messages read, and not yet answered with the answer written; and their bytes.
        self._unanswered = self._bytes = 0
        # The bytes of the message that is being taken, and of those whose last answer is being written, in order.
        self._taken = 0
        self._answering: deque[int] = deque()
        self._reading = False
        self._read_all = False
        # While it is not read because of a limit of its tenant.
        self._held: asyncio.TimerHandle | None = None
        # What it ends with once what it has in flight is answered.
        self._retired: NtmServeError | None = None

    def begin(self) -> None:
        self._call.on_over = self._over
        self._call.on_retire = self.retire
        self._call.begin()
        if self._service.draining:
            self.drain()
        else:
            self._read_if_room()

    def drain(self) -> None:
        """The server stops."""
        self.retire(ServerDraining("server: is stopping; connect again"))

    def retire(self, error: NtmServeError) -> None:
        """Read no more. A client that has sent all it had gets its replies, and need not connect again."""
        if not self._read_all:
            self._retired = error
            self._end_if_answered()

    def _read_if_room(self) -> None:
        room = self._unanswered < self._messages_in_flight_max and self._bytes < self._bytes_max
        if room and not self._reading and self._held is None:
            self._reading = True
            self._call.read(self._take)

    def _take(self, data: bytes | None) -> None:
        self._reading = False
        if self._retired is not None:  # It is not run; whoever sent it learns that from the status.
            return None
        if data is None:
            self._read_all = True
            return self._end_if_answered()
        try:
            message = parsed(sessions_pb2.StreamRequest, data)
        except InvalidInput as error:
            self._give_up()
            return self._call.fail(error)
        self._unanswered += 1
        self._taken = len(data)
        self._bytes += self._taken
        if message.HasField("step"):
            self._submit(message.step)
        elif message.HasField("heartbeat"):
            self._write(sessions_pb2.StreamResponse(heartbeat=message.heartbeat))
        else:
            self._refuse(0, InvalidInput("stream: expected a step or a heartbeat, got an empty message"))
        self._read_if_room()
        return None

    def _submit(self, message: sessions_pb2.StepRequest) -> None:
        trace = None if self._trace is None else self._trace.message()
        tag, together = message.tag, message.reply_mode != sessions_pb2.REPLY_MODE_AS_FINISHED
        try:
            submission = self._service.submit(step_request(message), self._reply, tag=tag, together=together)
        except NtmServeError as error:
            self._refuse(tag, error, trace)
        except Exception as fault:
            self._refuse(tag, fault_of(self._call.method, fault), trace)
        else:
            if not submission.answered:
                self._submissions[submission] = self._taken
                if trace is not None:
                    self._traces[submission] = trace
            elif trace is not None:
                trace.answered(submission.timeline())
            if submission.held_s:
                self._hold_back(submission.held_s)

    def _reply(self, submission: Submission, places: Sequence[int]) -> None:
        last = submission.answered
        if last:
            self._answering.append(self._submissions.pop(submission, self._taken))
            if (trace := self._traces.pop(submission, None)) is not None:
                trace.answered(submission.timeline())
        try:
            reply = self._writer.write(submission, places)
        except Exception as fault:  # Its steps are committed, and those who rode along are still to be answered.
            self._give_up()
            return self._call.fault(fault)
        return self._call.write(reply, self._answered if last else _part)

    def _hold_back(self, wait_s: float) -> None:
        """Whoever is at a limit of its tenant and sends on as though it were not is read no faster than it may send: so
        refusing it costs the others nothing.
        """
        if self._held is None and not self._call.over:
            self._held = asyncio.get_running_loop().call_later(min(wait_s, HELD_BACK_MAX_S), self._go_on)

    def _go_on(self) -> None:
        self._held = None
        wait_s = self._service.held_s  # Another of its streams may have been refused meanwhile.
        if wait_s:
            self._hold_back(wait_s)
        else:
            self._read_if_room()

    def _refuse(self, tag: int, error: NtmServeError, trace: MessageTrace | None = None) -> None:
        if trace is not None:
            trace.failed(error)
        self._write(sessions_pb2.StreamResponse(step=sessions_pb2.StepResponse(tag=tag, error=wire_error(error))))

    def _write(self, response: sessions_pb2.StreamResponse) -> None:
        self._answering.append(self._taken)
        self._call.write(response.SerializeToString(), self._answered)

    def _answered(self) -> None:
        """The last answer to a message is written, so another message may be read."""
        self._unanswered -= 1
        self._bytes -= self._answering.popleft()
        if self._read_all or self._retired is not None:
            self._end_if_answered()
        else:
            self._read_if_room()

    def _end_if_answered(self) -> None:
        if self._unanswered == 0:
            if self._retired is not None:
                self._call.fail(self._retired)
            else:
                self._call.finish()

    def _over(self, cut_short: bool) -> None:
        if self._held is not None:
            self._held.cancel()
        self._give_up()
        self._gone(self)

    def _give_up(self) -> None:
        """Nobody waits for what is in flight. The last first: none is then aborted because of another."""
        submissions, self._submissions = self._submissions, {}
        traces, self._traces = self._traces, {}
        for trace in traces.values():
            trace.failed(LEFT)
        for submission in reversed(submissions):
            submission.cancel()


def _part() -> None: ...
