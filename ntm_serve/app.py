"""The composition root: puts the parts together, owns every long-lived task, and drains.

Rules of this file: whatever is started here is stopped here, in the reverse order; a task that dies takes
the server down with it, rather than leaving it half alive.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import structlog

import ntm_serve
from ntm_serve.config import Settings
from ntm_serve.engine import ORT_VERSION, OrtEngine, find_execution_provider
from ntm_serve.errors import NtmServeError, OperatorFault, SettingsFault
from ntm_serve.frontends.completion_queue import CompletionQueueLoop
from ntm_serve.frontends.server import GrpcServer
from ntm_serve.http import HttpServer
from ntm_serve.metrics import CONTENT_TYPE, Metrics
from ntm_serve.model_directory import read_model_directory
from ntm_serve.repository import find_models
from ntm_serve.room import TotalRoom
from ntm_serve.scheduler import Scheduler
from ntm_serve.service import Service
from ntm_serve.sessions import Limits, Sessions
from ntm_serve.step_model import ModelKey, StepModel

# How often idle sessions are looked for. Their life is hours or days; a minute's delay is nothing.
EXPIRY_INTERVAL_S = 60.0

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
            directory = read_model_directory(found.path)
            model = OrtEngine(
                directory,
                name=found.key.name,
                version=found.key.version,
                batch_max=batch_max or None,
                execution_provider=execution_provider,
            )
        except NtmServeError as fault:
            error = fault if isinstance(fault, OperatorFault) else OperatorFault(f"{found.path}: {fault.message}")
            faults[found.key] = error
            log.error("model is not served", model=str(found.key), reason=error.reason, fault=error.message)
            continue
        models.append(model)
        load_s[found.key] = time.perf_counter() - started_s
        independence = model.batch_independence
        log.info(
            "model is served",
            model=str(found.key),
            state_bytes=model.spec.state_bytes,
            load_s=round(load_s[found.key], 3),
            batch_max=model.batch_max,
            batch_padding=independence.padding,
            engine=model.card.engine,
        )
        if not independence.holds:
            log.warning("bits depend on the batch's company on this machine", model=str(found.key))
    return LoadedModels(models, faults, load_s)


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
            await stop.wait()
            log.info("draining")
    except BaseException as fault:
        if not started.done():
            started.set_exception(_single(fault))
            return
        raise _single(fault) from None


@contextlib.asynccontextmanager
async def running(settings: Settings, loaded: LoadedModels) -> AsyncIterator[Running]:
    """A running server; leaving the block drains and stops it. Raises SettingsFault inside a group."""
    if not loaded.models:
        reasons = "; ".join(fault.message for fault in loaded.faults.values())
        raise SettingsFault(f"models: expected at least one that can be served; {reasons}")
    loop = asyncio.get_running_loop()
    if not isinstance(loop, CompletionQueueLoop):
        raise TypeError(f"expected a CompletionQueueLoop (see run), got {type(loop).__name__}")
    metrics = Metrics(version=ntm_serve.__version__, onnxruntime=ORT_VERSION, grpcio=grpc.__version__)
    limits = Limits(
        sessions_max=settings.sessions_max,
        session_steps_waiting_max=settings.session_steps_waiting_max,
        idle_life_s=settings.idle_life_s or None,
        window_messages=settings.window_messages,
        window_bytes_max=settings.window_bytes_max,
    )
    total_room = TotalRoom(settings.steps_waiting_total_max)
    with ThreadPoolExecutor(settings.compute_threads, thread_name_prefix="compute") as executor:
        schedulers = [
            Scheduler(
                model,
                executor=executor,
                lanes=settings.compute_threads,
                limits=limits,
                steps_waiting_max=settings.steps_waiting_max,
                total_room=total_room,
                observer=metrics,
                clock=time.monotonic,
                post=loop.post,
                look_up=loop.take_arrivals,
            )
            for model in loaded.models
        ]
        service = Service(
            sessions=Sessions(limits),
            schedulers=schedulers,
            faults=loaded.faults,
            sessions_per_message_max=settings.sessions_per_message_max,
            steps_per_message_max=settings.steps_per_message_max,
            observer=metrics,
            clock=time.monotonic,
            arrival_s=loop.arrival_s,
        )
        metrics.watch(service.statistics, service.models)
        for key, load_s in loaded.load_s.items():
            metrics.model_loaded(key, load_s)
        async with asyncio.TaskGroup() as tasks:
            owned = [tasks.create_task(scheduler.run()) for scheduler in schedulers]
            owned.append(tasks.create_task(_expire(service)))
            try:
                async with _listening(settings, loop, service, metrics, tasks) as server:
                    yield server
            finally:
                for task in owned:
                    task.cancel()


@contextlib.asynccontextmanager
async def _listening(
    settings: Settings, loop: CompletionQueueLoop, service: Service, metrics: Metrics, tasks: asyncio.TaskGroup
) -> AsyncIterator[Running]:
    """Both ports open; leaving the block drains, then closes them."""
    http = HttpServer(exposition=metrics.exposition, content_type=CONTENT_TYPE, is_ready=lambda: not service.draining)
    frontend = GrpcServer(
        service,
        loop,
        message_bytes_max=settings.message_bytes_max,
        messages_in_flight_max=settings.messages_in_flight_max,
        stream_bytes_max=settings.stream_bytes_max,
        observer=metrics,
    )
    names = [name for view in service.models() if view.model for name in (view.key.name, str(view.key))]
    frontend.set_serving(names, serving=True)
    http_port = await http.start(settings.host, settings.http_port)
    tasks.create_task(http.until_stopped())
    try:
        port = await frontend.start(settings.host, settings.port)
        try:
            yield Running(settings.host, port, http_port, service, metrics, loop)
        finally:
            service.drain()
            frontend.set_serving(names, serving=False)
            frontend.drain()
            # Where a task died, the group is cancelled: what that task was to answer will not be.
            own = asyncio.current_task()
            patience_s = 0.0 if own is not None and own.cancelling() else settings.drain_s
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(service.until_idle(), patience_s)
            await frontend.stop(1.0)
    finally:
        await http.stop()


async def _expire(service: Service) -> None:
    while True:
        await asyncio.sleep(EXPIRY_INTERVAL_S)
        expired = service.expire_sessions()
        if expired:
            log.info("sessions expired", sessions=expired)


def _single(fault: BaseException) -> BaseException:
    """The fault inside a group of one."""
    while isinstance(fault, BaseExceptionGroup) and len(fault.exceptions) == 1:
        fault = fault.exceptions[0]
    return fault
