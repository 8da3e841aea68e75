"""What `serve` and `check` do."""

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from types import FrameType
from typing import Any

import structlog

from ntm_serve.app import LoadedModels, Running, load_models, run, serve
from ntm_serve.caller import parted
from ntm_serve.config import Settings, read_settings
from ntm_serve.engine import OrtEngine
from ntm_serve.errors import NtmServeError, SettingsFault
from ntm_serve.manifest import MANIFEST_FILE
from ntm_serve.model_directory import read_model_directory
from ntm_serve.preflight import expect_usable

# How long a compute thread that has finished a run waits for a busy event loop to make room. Python's own
# 5 ms are the time of ten batches.
SWITCH_INTERVAL_S = 0.0005

# Objects more than before, then young collections, then middle ones, until the garbage collector looks. With
# Python's own 700 it looks at all sessions' objects several times a second: pauses of milliseconds.
GARBAGE_THRESHOLDS = (50_000, 20, 100)

log = structlog.get_logger()

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def serve_until_stopped(given: dict[str, Any]) -> None:
    """Load, serve, drain at the first signal. Raises SettingsFault."""
    settings = read_settings(given)
    configure_log(settings)
    # As the first process of a container it would else not notice, while models are loaded, that it is told to stop.
    signal.signal(signal.SIGTERM, _leave)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    expect_usable(settings)
    loaded = load_models(settings.models, batch_max=settings.batch_max, execution_provider=settings.execution_provider)
    settle_garbage()
    try:
        run(_serve(settings, loaded))
    except NtmServeError:
        raise
    except Exception as fault:  # The boundary: whoever collects log lines must find why it ended among them.
        log.critical("the server ends by a fault of its own", exc_info=fault)
        raise SystemExit(1) from None


def _leave(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def settle_garbage() -> None:
    """What is loaded by now stays: keep the garbage collector from going through it again and again. What a step
    makes is freed without it, as nothing of it refers back to itself.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)


def check_directory(directory: Path, given: dict[str, Any]) -> dict[str, str]:
    """What was checked, as a server with these settings would run it, and what was found. Raises the OperatorFault
    of the first fault.
    """
    settings = read_settings(given)
    _expect_version(directory)
    content = read_model_directory(directory)
    engine = OrtEngine(
        content,
        name=directory.resolve().parent.name,
        version=directory.name,
        batch_max=settings.batch_max or None,
        execution_provider=settings.execution_provider,
    )
    independence, manifest = engine.batch_independence, content.manifest
    return {
        "files": f"{len(manifest.files)} with the sha256 that the manifest promises",
        "state": f"{content.spec.state_bytes:,} B a session in {len(content.spec.state)} tensors",
        "golden run": f"{content.golden.steps} steps, largest error {engine.golden_error:.2g}",
        "same bits in any company": (
            f"seen up to {independence.rows_tested} rows, padded to a multiple of {independence.padding}"
            if independence.holds
            else "no: bits depend on the batch"
        ),
        "batch": f"at most {engine.batch_max} rows, as {'measured' if engine.run_s else 'set'}",
        **({"steps a second": _rates(engine.run_s)} if engine.run_s else {}),
        "engine": engine.card.engine,
        "digest": content.digest,
    }


def _expect_version(directory: Path) -> None:
    """Refuse the folder of a model, which has one for each version. Raises SettingsFault."""
    found = [path.parent for path in directory.glob(f"[!.]*/{MANIFEST_FILE}")]
    versions = sorted(found, key=lambda one: (len(one.name), one.name))
    if versions and not (directory / MANIFEST_FILE).exists():
        raise SettingsFault(
            f"expected a model's version, got {directory}, which has {', '.join(one.name for one in versions)}: "
            f"ntm-serve check {versions[-1]}"
        )


def _rates(run_s: Mapping[int, float]) -> str:
    return ", ".join(f"{rows / seconds:,.0f} by {rows}" for rows, seconds in run_s.items())


def configure_log(settings: Settings) -> None:
    """Log lines go to stderr: stdout says where the server listens. Those of libraries, from warnings on, are written
    as ours are.
    """
    rendered: Any = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _name_tenant,
        structlog.processors.format_exc_info,
    ]
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    structlog.configure(
        processors=[*processors, rendered],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, rendered],
        foreign_pre_chain=[structlog.stdlib.add_logger_name, *processors],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)
    logging.captureWarnings(True)


def _name_tenant(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:  # noqa: ARG001
    """A session is called by its name, and its tenant is named beside it."""
    key = event.get("session")
    if isinstance(key, str):
        tenant, event["session"] = parted(key)
        if tenant:
            event["tenant"] = tenant
    return event


async def _serve(settings: Settings, loaded: LoadedModels) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def stop_once() -> None:
        stop.set()
        # The next signal has its ordinary effect: whoever is in a hurry need not wait for the drain.
        for number in STOP_SIGNALS:
            loop.remove_signal_handler(number)

    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop_once)
    started: asyncio.Future[Running] = loop.create_future()
    serving = asyncio.create_task(serve(settings, loaded, started=started, stop=stop))
    server = await started
    print(f"listening grpc={server.address(server.port)} http={server.address(server.http_port)}", flush=True)
    await serving
