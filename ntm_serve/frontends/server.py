"""The gRPC server: our services and the standard ones, on one port, on the event loop that waits for gRPC.

Rules of this file: every call that comes in is counted and belongs to a method or is refused; who calls is known before
anything that was sent is read, and reaches the service as that caller's tenant sees it; when the server has stopped,
gRPC holds nothing of it any more.
"""

import asyncio
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from ntm_serve.caller import ANYBODY, Caller, Credentials
from ntm_serve.errors import LIMIT, LimitReached, NtmServeError, SettingsFault, StreamAged
from ntm_serve.frontends.access import RULES, Gate, Rule, expect_rules
from ntm_serve.frontends.call import Call, CallObserver
from ntm_serve.frontends.completion_queue import CompletionQueueLoop
from ntm_serve.frontends.infer import Inference
from ntm_serve.frontends.inference import INFERENCE, InferenceBehaviours, InferenceSettings
from ntm_serve.frontends.methods import Method, fail, methods_of
from ntm_serve.frontends.sessions import AdminBehaviours, ModelsBehaviours, SessionsBehaviours
from ntm_serve.frontends.standard import Health, Reflection
from ntm_serve.frontends.transport import ConnectionLimits, credentials_of, options_of
from ntm_serve.observer import ModelTotals, Tracer
from ntm_serve.renewal import Renewed
from ntm_serve.sequences import Sequences
from ntm_serve.step_model import ModelKey
from ntm_serve.tenancy import Tenancy
from ntm_serve.tenants import Accounts
from ntm_serve.tls import TlsContent
from ntm_serve.v1 import admin_pb2, models_pb2, sessions_pb2

ADMIN = admin_pb2.DESCRIPTOR.services_by_name["Admin"]
MODELS = models_pb2.DESCRIPTOR.services_by_name["Models"]
SESSIONS = sessions_pb2.DESCRIPTOR.services_by_name["Sessions"]

SERVICES = (SESSIONS.full_name, MODELS.full_name, ADMIN.full_name, INFERENCE.full_name)

# The name under which calls of methods are counted that the server does not have: a caller cannot make series.
UNKNOWN_METHOD = "other"

# Calls at once of whoever was not asked who it is, where others are: probes, and balancers that watch. The oldest makes
# room: were the newest refused, whoever holds so many without an end could have the server taken for dead.
UNASKED_CALLS_MAX = 1_000

# Tenants whose methods are kept while none of their calls is there: about 25 kB each.
DOORS_MAX = 4_096

# How long a stream that is to end may take to give its answers to a client that does not read them.
LEAVING_MAX_S = 30.0

# What stopping waits for calls that were cancelled to end. gRPC ends them; this is for its faults.
CANCEL_WAIT_S = 5.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class CallLimits:
    """What calls may use. messages_in_flight_max, stream_bytes_max: of one stream's messages without their answer.
    calls_max: at once. stream_age_max_s: then a stream ends, and may be opened again; None is never.
    """

    messages_in_flight_max: int
    stream_bytes_max: int
    calls_max: int = 100_000
    stream_age_max_s: float | None = None


@dataclass(slots=True)
class _Door:
    """The methods as one tenant reaches them. calls: of it that are there."""

    methods: dict[str, Method]
    sessions: SessionsBehaviours
    inference: Inference
    sequences: Sequences
    calls: int = 0

    @property
    def is_idle(self) -> bool:
        """Whether nothing would be lost with it."""
        return not self.calls and self.sequences.is_idle

    def drain(self) -> None:
        """Have its streams end."""
        self.sessions.drain()
        self.inference.drain()


@dataclass(frozen=True, slots=True)
class _Open:
    """A stream that is open: who opened it, with what, and when."""

    caller: Caller
    credentials: Credentials
    rule: Rule
    began_s: float


class GrpcServer:
    """Listens once started. Health knows the server (""), its services and every served model."""

    def __init__(
        self,
        tenancy: Tenancy,
        loop: CompletionQueueLoop,
        *,
        gate: Gate,
        connections: ConnectionLimits,
        calls: CallLimits,
        accounts: Accounts,
        tls: Renewed[TlsContent] | None = None,
        observer: CallObserver,
        drain: Callable[[], None],
        inference: InferenceSettings,
        totals: Callable[[ModelKey], ModelTotals],
        tracer: Tracer | None = None,
    ) -> None:
        """accounts: where calls are counted. tls: None takes connections as they are, readable to whoever is between.
        drain: has the whole server stop. totals: what was counted of a model.
        """
        self._options = options_of(connections)
        self._tls = tls
        self._tenancy = tenancy
        self._gate = gate
        self._limits = calls
        self._accounts = accounts
        self._inference = inference
        self._totals = totals
        self._loop = loop
        self._observer = observer
        self._server: Any = None
        self._health = Health()
        self._tracer = tracer
        self._calls = 0
        # Calls of whoever was not asked who it is.
        self._unasked: dict[Call, None] = {}
        # Of the calls of whoever was asked.
        self._inside: dict[Call, _Door] = {}
        self._streams: dict[Call, _Open] = {}
        # Since when those are to end that were told so.
        self._leaving: dict[Call, float] = {}
        reflection = Reflection(SERVICES)
        self._common: dict[str, Method] = {
            method.path: method
            for methods in (
                methods_of(ADMIN, AdminBehaviours(tenancy, drain=drain), tracer),
                self._health.methods(),
                reflection.methods(),
            )
            for method in methods
        }
        self._doors = {"": self._made("")}
        self._kinds = {path: method.kind for path, method in self._methods("")}
        expect_rules(self._kinds)

    def _made(self, tenant: str) -> _Door:
        service = self._tenancy.of(tenant)
        messages_max, bytes_max = self._limits.messages_in_flight_max, self._limits.stream_bytes_max
        sessions = SessionsBehaviours(
            service, messages_in_flight_max=messages_max, stream_bytes_max=bytes_max, tracer=self._tracer
        )
        sequences = Sequences(service)
        inference = Inference(
            service, sequences, messages_in_flight_max=messages_max, stream_bytes_max=bytes_max, tracer=self._tracer
        )
        triton = InferenceBehaviours(
            service, inference, settings=self._inference, totals=self._totals, tracer=self._tracer
        )
        methods = (
            *methods_of(SESSIONS, sessions, self._tracer),
            *methods_of(MODELS, ModelsBehaviours(service), self._tracer),
            *triton.methods(),
        )
        return _Door({method.path: method for method in methods}, sessions, inference, sequences)

    def _methods(self, tenant: str) -> Iterator[tuple[str, Method]]:
        yield from self._common.items()
        yield from self._doors[tenant].methods.items()

    async def start(self, host: str, port: int) -> int:
        """Listen; port 0 is any free one. Returns the port. Raises SettingsFault where it is taken."""
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        expect_free(host, port, name="port")
        server = cygrpc.Server(self._options, False)
        server.register_completion_queue(self._loop.queue)
        try:
            secured = () if self._tls is None else (credentials_of(self._tls),)
            bound: int = server.add_http2_port(address.encode(), *secured)
            if bound == 0:
                raise RuntimeError("it cannot be listened on")
        except RuntimeError as fault:
            server.destroy()
            raise SettingsFault(f"port: expected {address} to be free, got: {fault}") from fault
        server.start()
        self._server = server
        self._await_call()
        return bound

    def set_serving(self, models: Iterable[str], *, serving: bool) -> None:
        """What health answers for the server, its services and these models."""
        self._health.set_serving((*SERVICES, *models), serving=serving)

    def forget(self, models: Iterable[str]) -> None:
        """These models are no more: health does not know them."""
        self._health.forget(models)

    def drain(self) -> None:
        """Have every stream answer what it has in flight and end."""
        for door in list(self._doors.values()):
            door.drain()

    def look(self, *, renewed: bool) -> None:
        """End the streams that are open for long enough, and those whose caller may not have them any more. renewed:
        whether who may has changed since the last look.
        """
        now_s, unix_s = time.monotonic(), time.time()
        for call, stream in list(self._streams.items()):
            if now_s - self._leaving.get(call, now_s) > LEAVING_MAX_S:
                call.cut(StreamAged("stream: its client did not take what was left of it"))
                continue
            if stream.caller.ends_s <= unix_s:  # Whoever has another token by now goes on with that.
                self._retire(call, StreamAged("stream: the token of its caller has ended; open another"), now_s)
                continue
            if renewed:
                try:
                    if self._gate.caller_of(stream.credentials, stream.rule) != stream.caller:
                        changed = StreamAged("stream: what its caller may has changed; open another")
                        self._retire(call, changed, now_s)
                        continue
                except NtmServeError as refused:
                    self._leaving.setdefault(call, now_s)
                    call.fail(refused)
                    continue
            limits = [self._limits.stream_age_max_s, self._tenancy.limits_of(stream.caller.tenant).stream_age_max_s]
            age_max_s = min((one for one in limits if one is not None), default=float("inf"))
            if now_s - stream.began_s > age_max_s:
                self._retire(call, StreamAged(f"stream: was open for more than {age_max_s:g} s; open another"), now_s)

    def _retire(self, call: Call, error: NtmServeError, now_s: float) -> None:
        """Have it end after its answers."""
        self._leaving.setdefault(call, now_s)
        call.retire(error)

    async def until_idle(self) -> None:
        """Until no request is left that is more than steps; steps are the service's."""
        for door in list(self._doors.values()):
            await door.sequences.until_idle()

    async def stop(self, grace_s: float) -> None:
        """Take no more calls; end those that are still there after grace_s seconds."""
        server, self._server = self._server, None
        stopped: asyncio.Future[None] = self._loop.create_future()
        server.shutdown(self._loop.queue, lambda _: stopped.set_result(None))
        await asyncio.wait([stopped], timeout=grace_s)
        if not stopped.done():
            server.cancel_all_calls()
            await asyncio.wait([stopped], timeout=CANCEL_WAIT_S)
        if stopped.done():
            server.destroy()
        else:  # Destroying it would wait, without an end, on the thread that would see it stop.
            log.error("gRPC did not end all calls", waited_s=grace_s + CANCEL_WAIT_S)

    def _await_call(self) -> None:
        self._server.request_call(self._loop.queue, self._loop.queue, self._accept)

    def _accept(self, event: Any) -> None:
        if not event.success:  # The server stops.
            return
        self._loop.ring_with(event.call)
        if self._server is not None:
            self._await_call()
        path = event.call_details.method.decode(errors="replace")
        kind = self._kinds.get(path)
        if kind is None:
            call = Call(event, method=UNKNOWN_METHOD, kind="unary", observer=self._observer, gone=_nobody_counts)
            call.refuse(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
            return
        self._calls += 1
        call = Call(event, method=path, kind=kind, observer=self._observer, gone=self._gone)
        try:
            self._serve(event, call, path)
        except Exception as fault:
            fail(call, fault)

    def _serve(self, event: Any, call: Call, path: str) -> None:
        """Have the method take the call over. Raises Unauthenticated, PermissionDenied, LimitReached."""
        if self._calls > self._limits.calls_max:
            wrong = f"server: expected at most {self._limits.calls_max} calls at once"
            raise LimitReached(wrong, fields={LIMIT: "calls_max"})
        method, gate = self._common.get(path), self._gate
        rule = RULES[path]
        if not gate.asks:
            self._enter(call, method or self._doors[""].methods[path], None, counts=rule is not Rule.ANYBODY)
            return
        if rule is Rule.ANYBODY:
            self._enter_unasked(call, method or self._doors[""].methods[path])
            return
        credentials = gate.credentials_of(event)
        caller = gate.caller_of(credentials, rule)
        door = self._doors.get(caller.tenant) or self._new_door(caller.tenant)
        self._inside[call] = door
        door.calls += 1
        opened = _Open(caller, credentials, rule, time.monotonic())
        self._enter(call, method or door.methods[path], opened)

    def _enter(self, call: Call, method: Method, opened: _Open | None, *, counts: bool = True) -> None:
        account = self._accounts.of("" if opened is None else opened.caller.tenant)
        # What is for anybody is nobody's: a probe is answered whatever a tenant is at.
        if counts:
            call.count_in(account)
        call.bytes_max = account.limits.message_bytes_max
        if method.kind != "unary":
            self._streams[call] = opened or _Open(ANYBODY, Credentials(None), Rule.ANYBODY, time.monotonic())
        method.serve(call)

    def _enter_unasked(self, call: Call, method: Method) -> None:
        if len(self._unasked) >= UNASKED_CALLS_MAX:
            oldest = next(iter(self._unasked))
            del self._unasked[oldest]
            wrong = f"server: expected at most {UNASKED_CALLS_MAX} such calls at once"
            oldest.fail(LimitReached(wrong, fields={LIMIT: "unasked_calls_max"}))
        self._unasked[call] = None
        self._enter(call, method, None, counts=False)

    def _new_door(self, tenant: str) -> _Door:
        if len(self._doors) >= DOORS_MAX:
            for one in [one for one, door in self._doors.items() if one and door.is_idle]:
                del self._doors[one]
        door = self._doors[tenant] = self._made(tenant)
        return door

    def _gone(self, call: Call) -> None:
        self._calls -= 1
        self._unasked.pop(call, None)
        self._streams.pop(call, None)
        door = self._inside.pop(call, None)
        if door is not None:
            door.calls -= 1
        self._leaving.pop(call, None)


def expect_free(host: str, port: int, *, name: str) -> None:
    """Refuse a taken port in our words; gRPC's core would log its own first. name: of the setting. Raises
    SettingsFault.
    """
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        family, kind, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as fault:
        raise SettingsFault(f"{name}: expected {address} to be free, got: {fault.strerror}") from fault


def _nobody_counts(call: Call) -> None: ...
