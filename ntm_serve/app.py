"""The composition root: puts the parts together, owns every long-lived task, and drains.

Rules of this file: whatever is started here is stopped here, in the reverse order; a task that dies takes
the server down with it, rather than leaving it half alive.
"""

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import structlog
from starlette.routing import BaseRoute

import ntm_serve
from ntm_serve.claims import Claims
from ntm_serve.config import Settings
from ntm_serve.durability import Durability
from ntm_serve.engine import ORT_VERSION, OrtEngine, find_execution_provider
from ntm_serve.errors import ModelRejected, NtmServeError, OperatorFault, SettingsFault
from ntm_serve.exposure import Access, Tls, call_limits, connection_limits, look_now_and_then, warn_of_exposure
from ntm_serve.frontends.access import Gate
from ntm_serve.frontends.completion_queue import CompletionQueueLoop
from ntm_serve.frontends.inference import InferenceSettings
from ntm_serve.frontends.server import GrpcServer
from ntm_serve.history import INTERVAL_S, History
from ntm_serve.http import Api, ApiFacts, HttpGate, HttpServer, page_routes
from ntm_serve.keeper import Keeper
from ntm_serve.keeping import Retention
from ntm_serve.lineage import Lineage
from ntm_serve.metrics import CONTENT_TYPE, Metrics
from ntm_serve.metrics_compat import TritonCollector
from ntm_serve.model_directory import read_model_directory
from ntm_serve.observer import Tracer
from ntm_serve.preflight import expect_store, find_tracing
from ntm_serve.readiness import Readiness
from ntm_serve.replay import Replay
from ntm_serve.repository import Found, find_models
from ntm_serve.residency import Residency, ResidencySettings
from ntm_serve.rollout import Rollout
from ntm_serve.room import TotalRoom
from ntm_serve.scheduler import Scheduler
from ntm_serve.search import Search
from ntm_serve.service import Service
from ntm_serve.sessions import Limits, Sessions
from ntm_serve.step_model import ModelKey, StepModel
from ntm_serve.stores.opening import is_shared, open_store
from ntm_serve.tenancy import Tenancy
from ntm_serve.tls import is_loopback
from ntm_serve.watching import Watching

# How often idle sessions are looked for. Their life is hours or days; a minute's delay is nothing.
EXPIRY_INTERVAL_S = 60.0

# How often a server that shares its store gives word that it lives, and looks which of its sessions others want.
POLL_S = 0.05

# A store that one process has alone: nobody else asks for its sessions.
ALONE_LEASE_S, ALONE_POLL_S = 24 * 3600.0, 0.5

log = structlog.get_logger()


@dataclass(frozen=True)
class LoadedModels:
    """Models that are served, models that are not and why, and how long each took to load, in seconds."""

    models: Sequence[StepModel]
    faults: Mapping[ModelKey, OperatorFault]
    load_s: Mapping[ModelKey, float]


@dataclass(frozen=True)
class Running:
    """A server that takes sessions."""

    host: str
    port: int
    http_port: int
    service: Service
    metrics: Metrics
    loop: CompletionQueueLoop
    # Set where a caller who may has asked the server to stop.
    drain_asked: asyncio.Event

    def address(self, port: int) -> str:
        """What a client connects to."""
        return f"[{self.host}]:{port}" if ":" in self.host else f"{self.host}:{port}"


def load_models(repository: Path, *, batch_max: int, execution_provider: str = "cpu") -> LoadedModels:
    """Load every model of a repository; one that cannot be served does not keep the others from it. The words are
    those of the settings: a batch_max of 0 is measured.

    Raises SettingsFault where the repository has none, or the execution provider is not installed.
    """
    find_execution_provider(execution_provider)
    models: list[StepModel] = []
    faults: dict[ModelKey, OperatorFault] = {}
    load_s: dict[ModelKey, float] = {}
    for found in find_models(repository):
        started_s = time.perf_counter()
        try:
            models.append(load_model(found, batch_max=batch_max, execution_provider=execution_provider))
        except OperatorFault as fault:
            faults[found.key] = fault
        else:
            load_s[found.key] = time.perf_counter() - started_s
    return LoadedModels(models, faults, load_s)


def load_model(found: Found, *, batch_max: int, execution_provider: str = "cpu") -> StepModel:
    """Load and check a model, and log what came of it. Raises OperatorFault."""
    started_s = time.perf_counter()
    try:
        model = OrtEngine(
            read_model_directory(found.path),
            name=found.key.name,
            version=found.key.version,
            batch_max=batch_max or None,
            execution_provider=execution_provider,
        )
    except Exception as fault:  # The boundary: whatever is in a directory, its neighbours are served.
        error = _as_known(found, fault)
        log.error("model is not served", model=str(found.key), reason=error.reason, fault=error.detail)
        raise error from fault
    log.info(
        "model is served",
        model=str(found.key),
        state_bytes=model.spec.state_bytes,
        load_s=round(time.perf_counter() - started_s, 3),
        batch_max=model.batch_max,
        batch_padding=model.batch_independence.padding,
        engine=model.card.engine,
    )
    if not model.batch_independence.holds:
        log.warning("bits depend on the batch's company on this machine", model=str(found.key))
    return model


def _as_known(found: Found, fault: Exception) -> OperatorFault:
    """Why a model is not served, in words that callers know: the model and its files by their names. Its detail is
    for whoever runs the server.
    """
    if not isinstance(fault, NtmServeError):
        said, detail = "it could not be loaded; the server's log says why", f"{found.path}: {fault!r}"
    else:
        said, detail = fault.message, fault.detail
        for known in (f"{found.path}/", f"{found.path}: ", f"model {found.key}: "):
            said = said.replace(known, "")
    kind = type(fault) if isinstance(fault, OperatorFault) else ModelRejected
    return kind(f"model {found.key}: {said}", detail=detail)


def run(serving: Coroutine[Any, Any, None]) -> None:
    """Run a server's coroutine to its end, on the event loop that servers need."""
    with asyncio.Runner(loop_factory=CompletionQueueLoop) as runner:
        runner.run(serving)


async def serve(
    settings: Settings, loaded: LoadedModels, *, started: asyncio.Future[Running], stop: asyncio.Event
) -> None:
    """Serve until `stop` is set, then drain. `started` gets the addresses, or the fault of starting."""
    try:
        async with running(settings, loaded) as server:
            started.set_result(server)
            await _first_of(stop, server.drain_asked)
            log.info("draining")
    except BaseException as fault:
        if not started.done():
            started.set_exception(_single(fault))
            return
        raise _single(fault) from None


async def _first_of(*events: asyncio.Event) -> None:
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in waiting:
            one.cancel()


@contextlib.asynccontextmanager
async def running(settings: Settings, loaded: LoadedModels) -> AsyncIterator[Running]:
    """A running server; leaving the block drains and stops it. Raises SettingsFault inside a group."""
    if not loaded.models:
        reasons = "; ".join(fault.detail for fault in loaded.faults.values())
        raise SettingsFault(f"models: expected at least one that can be served; {reasons}")
    loop = asyncio.get_running_loop()
    if not isinstance(loop, CompletionQueueLoop):
        raise TypeError(f"expected a CompletionQueueLoop (see run), got {type(loop).__name__}")
    metrics = Metrics(version=ntm_serve.__version__, onnxruntime=ORT_VERSION, grpcio=grpc.__version__)
    with ThreadPoolExecutor(settings.compute_threads, thread_name_prefix="compute") as executor:
        async with _keeping(settings, metrics, loop) as keeper, asyncio.TaskGroup() as tasks:
            room = TotalRoom(settings.steps_waiting_total_max)
            parts = _Parts(settings, Access(settings), executor, keeper, metrics, loop, room, tasks)
            service = _service(parts, loaded)
            if keeper is not None:
                await keeper.give_word()
                parts.own(keeper.run())
            parts.own(_expire(service))
            try:
                async with _tracing(settings) as tracer, _listening(parts, service, tracer) as server:
                    yield server
            finally:
                for task in parts.owned:
                    task.cancel()


@dataclass(frozen=True)
class _Parts:
    """What the parts of a server share."""

    settings: Settings
    access: Access
    executor: Executor
    keeper: Keeper | None
    metrics: Metrics
    loop: CompletionQueueLoop
    total_room: TotalRoom
    tasks: asyncio.TaskGroup
    owned: set[asyncio.Task[None]] = field(default_factory=set)
    # Of the schedulers, until their models are unloaded.
    lives: dict[ModelKey, asyncio.Task[None]] = field(default_factory=dict)

    def own(self, life: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task that lives as long as the server, or until it is cancelled."""
        task = self.tasks.create_task(life)
        self.owned.add(task)
        task.add_done_callback(self.owned.discard)
        return task

    def scheduler(self, model: StepModel, load_s: float) -> Scheduler:
        """A scheduler for a model, which lives until `unload`."""
        scheduler = Scheduler(
            model,
            executor=self.executor,
            lanes=self.settings.compute_threads,
            limits=_limits(self.settings),
            steps_waiting_max=self.settings.steps_waiting_max,
            total_room=self.total_room,
            observer=self.metrics,
            clock=time.monotonic,
            post=self.loop.post,
            look_up=self.loop.take_arrivals,
            keep=self.keeper.keep if self.keeper else None,
            sizes_max=self.settings.model_sizes_max,
        )
        self.metrics.model_loaded(model.card.key, load_s)
        self.lives[model.card.key] = self.own(scheduler.run())
        return scheduler


def _limits(settings: Settings) -> Limits:
    return Limits(
        sessions_max=settings.sessions_max,
        session_steps_waiting_max=settings.session_steps_waiting_max,
        idle_life_s=settings.idle_life_s or None,
        window_messages=settings.window_messages,
        window_bytes_max=settings.window_bytes_max,
        viewers_max=settings.watches_max,
    )


def _service(parts: _Parts, loaded: LoadedModels) -> Service:
    settings, sessions = parts.settings, Sessions(_limits(parts.settings), parts.access.accounts)
    # Models come and go; service and residency know the same.
    schedulers: dict[ModelKey, Scheduler] = {}
    for model in loaded.models:
        schedulers[model.card.key] = parts.scheduler(model, loaded.load_s.get(model.card.key, 0.0))
    replay = Replay(schedulers, observer=parts.metrics, clock=time.monotonic)
    claims = None if parts.keeper is None else Claims(parts.keeper, handover_s=parts.settings.handover_s)
    residency = Residency(
        sessions=sessions,
        schedulers=schedulers,
        replay=replay,
        claims=claims,
        settings=_residency_settings(settings),
        observer=parts.metrics,
        clock=time.monotonic,
    )
    service = Service(
        sessions=sessions,
        residency=residency,
        lineage=Lineage(residency, replay, schedulers=schedulers, claims=claims),
        watching=Watching(
            sessions=sessions,
            residency=residency,
            replay=replay,
            schedulers=schedulers,
            frames_per_s_max=settings.watch_frames_per_s_max,
            clock=time.monotonic,
        ),
        search=Search(sessions=sessions, residency=residency, schedulers=schedulers, clock=time.monotonic),
        schedulers=schedulers,
        faults=loaded.faults,
        sessions_per_message_max=settings.sessions_per_message_max,
        steps_per_message_max=settings.steps_per_message_max,
        observer=parts.metrics,
        clock=time.monotonic,
        arrival_s=parts.loop.arrival_s,
    )
    parts.metrics.watch(service.statistics, service.models)
    if parts.access.accounts is not None:
        parts.metrics.watch_tenants(parts.access.accounts.statistics)
    if settings.metrics_compat == "triton":
        parts.metrics.register(TritonCollector(lambda: parts.metrics.models, service.statistics))
    return service


@contextlib.asynccontextmanager
async def _tracing(settings: Settings) -> AsyncIterator[Tracer | None]:
    """Who is told of messages, if anybody is; leaving the block sends what there is. Raises SettingsFault."""
    if not settings.trace_endpoint:
        yield None
        return
    tracing = find_tracing()(settings.trace_endpoint, share=settings.trace_share, version=ntm_serve.__version__)
    try:
        yield tracing
    finally:
        await asyncio.to_thread(tracing.close)


@contextlib.asynccontextmanager
async def _listening(parts: _Parts, service: Service, tracer: Tracer | None) -> AsyncIterator[Running]:
    """Both ports open; leaving the block drains, then closes them."""
    settings, metrics = parts.settings, parts.metrics
    tls, access = Tls(settings, metrics), parts.access
    store_silent_s = None if parts.keeper is None else parts.keeper.silent_s
    readiness = Readiness(
        is_draining=lambda: service.draining, store_silent_s=store_silent_s, patience_s=settings.store_patience_s
    )
    metrics.watch_readiness(lambda: not readiness.faults(), store_silent_s)
    tenancy = Tenancy(service, access.accounts)
    http = HttpServer(
        exposition=metrics.exposition,
        content_type=CONTENT_TYPE,
        readiness=readiness.faults,
        may_read=None if settings.metrics_access == "open" else access.may_read_metrics,
        context=tls.https,
        more=_inspector(parts, tenancy, readiness),
    )
    rollout = _rollout(parts, service, lambda: frontend, readiness)
    drain_asked = asyncio.Event()
    frontend = GrpcServer(
        tenancy,
        parts.loop,
        gate=Gate(access.authenticator),
        connections=connection_limits(settings),
        calls=call_limits(settings),
        accounts=access.calls,
        tls=tls.content,
        observer=metrics,
        drain=drain_asked.set,
        inference=InferenceSettings(
            idle_life_s=settings.idle_life_s or None,
            sessions_max=settings.sessions_max,
            control=rollout if settings.model_control else None,
        ),
        totals=metrics.totals,
        tracer=tracer,
    )
    frontend.set_serving(_names(service), serving=True)
    warn_of_exposure(settings)
    http_port = await http.start(settings.host, settings.http_port)
    parts.tasks.create_task(http.until_stopped())
    parts.own(look_now_and_then(tls, access, frontend))
    try:
        port = await frontend.start(settings.host, settings.port)
        parts.own(readiness.follow(partial(_tell_health, service, frontend)))
        if settings.repository_poll_s:
            parts.own(rollout.run(settings.repository_poll_s))
        try:
            yield Running(settings.host, port, http_port, service, metrics, parts.loop, drain_asked)
        finally:
            service.drain()
            frontend.set_serving(_names(service), serving=False)
            frontend.drain()
            # Where a task died, the group is cancelled: what that task was to answer will not be.
            own = asyncio.current_task()
            patience_s = 0.0 if own is not None and own.cancelling() else settings.drain_s
            await _finish(service, frontend, patience_s=patience_s)
            await frontend.stop(1.0)
    finally:
        await http.stop()


def _inspector(parts: _Parts, tenancy: Tenancy, readiness: Readiness) -> Sequence[BaseRoute]:
    """What the HTTP port has for people: the page and its API."""
    settings = parts.settings
    if settings.inspector == "off":
        return ()
    history = History(parts.metrics.samples)
    parts.own(_look_back(history))
    facts = ApiFacts(
        version=ntm_serve.__version__,
        writes_allowed=settings.inspector == "write",
        durability=_residency_settings(settings).durability,
        started_at_s=time.time(),
        frames_per_s_max=settings.watch_frames_per_s_max,
        watches_max=settings.watches_max,
        steps_per_message_max=settings.steps_per_message_max,
    )
    names = [name for part in settings.http_names.split(",") if (name := part.strip())]
    gate = HttpGate(
        parts.access.authenticator,
        asks_for_certificates=settings.tls_client_ca is not None,
        names=names if names or is_loopback(settings.host) else None,
    )
    api = Api(tenancy, gate, facts, history, is_ready=lambda: not readiness.faults())
    return (*api.routes(), *page_routes())


async def _look_back(history: History) -> None:
    while True:
        history.look(time.time())
        await asyncio.sleep(INTERVAL_S)


def _tell_health(service: Service, frontend: GrpcServer, faults: Sequence[str]) -> None:
    """What gRPC's health answers from now on. faults: why the server is not ready."""
    frontend.set_serving(_names(service), serving=not faults)


async def _finish(service: Service, frontend: GrpcServer, *, patience_s: float) -> None:
    """What was admitted is answered, and sessions are given up."""
    try:
        async with asyncio.timeout(patience_s):
            await frontend.until_idle()
            await service.until_idle()
            await service.leave()
    except TimeoutError:
        log.warning("stopping before all was done", seconds=patience_s)
    except NtmServeError as error:  # Sessions stay claimed until the lease is over; nothing else is lost.
        log.warning("sessions were not given up", reason=error.reason, fault=error.detail)


def _names(service: Service) -> list[str]:
    """What health is asked for: models, with and without a version."""
    return [name for view in service.models() if view.model for name in (view.key.name, str(view.key))]


def _rollout(parts: _Parts, service: Service, frontend: Callable[[], GrpcServer], readiness: Readiness) -> Rollout:
    """frontend: asked for when a model came or went; it knows the rollout."""
    settings = parts.settings

    def begin(model: StepModel, load_s: float) -> None:
        service.add_model(parts.scheduler(model, load_s))
        _tell_health(service, frontend(), readiness.faults())

    def end(key: ModelKey) -> None:
        parts.lives.pop(key).cancel()
        gone = {key.name, str(key)} - set(_names(service))
        frontend().forget(gone)

    load = partial(load_model, batch_max=settings.batch_max, execution_provider=settings.execution_provider)
    return Rollout(settings.models, service, load=load, begin=begin, end=end)


@contextlib.asynccontextmanager
async def _keeping(settings: Settings, metrics: Metrics, loop: CompletionQueueLoop) -> AsyncIterator[Keeper | None]:
    """The keeper of the store that the settings name, if they do; leaving the block closes both."""
    if not settings.store:
        expect_store(settings)
        yield None
        return
    shared = is_shared(settings.store)
    keeper = Keeper(
        open_store(settings.store, prefix=settings.store_prefix),
        owner=f"{socket.gethostname()}:{settings.port}:{secrets.token_hex(4)}",
        retention=Retention(snapshot_steps=settings.snapshot_steps, retain_steps=settings.retain_steps),
        lease_s=settings.lease_s if shared else ALONE_LEASE_S,
        poll_s=min(POLL_S, settings.lease_s / 4) if shared else ALONE_POLL_S,
        patience_s=settings.store_patience_s,
        observer=metrics,
        post=loop.post,
    )
    try:
        yield keeper
    finally:
        await keeper.close()


def _residency_settings(settings: Settings) -> ResidencySettings:
    durability = Durability.PROCESS if settings.store else Durability.MEMORY
    return ResidencySettings(
        durability=durability if settings.durability == "auto" else Durability(settings.durability),
        resident_bytes_max=settings.resident_bytes_max or None,
        log_sessions=settings.log_sessions == "yes",
    )


async def _expire(service: Service) -> None:
    while True:
        await asyncio.sleep(EXPIRY_INTERVAL_S)
        try:
            expired = await service.expire_sessions()
        except NtmServeError as error:  # They expire the next time.
            log.warning("sessions did not expire", reason=error.reason, fault=error.detail)
            continue
        if expired:
            log.info("sessions expired", sessions=expired)


def _single(fault: BaseException) -> BaseException:
    """The fault inside a group of one."""
    while isinstance(fault, BaseExceptionGroup) and len(fault.exceptions) == 1:
        fault = fault.exceptions[0]
    return fault
