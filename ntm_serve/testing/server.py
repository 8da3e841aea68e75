"""A real server on free ports, inside the process, on a thread and an event loop of its own."""

import asyncio
import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ntm_serve.app import LoadedModels, Running, run, serve
from ntm_serve.config import read_settings
from ntm_serve.step_model import StepModel

# Starting loads nothing but two sockets; a machine under load may need a while all the same.
START_WAIT_S = 30.0


@dataclass(frozen=True)
class TestServer:
    """Where the server listens, and the server itself; its parts belong to its own thread."""

    __test__ = False  # Not a test, for all its name.

    running: Running

    @property
    def target(self) -> str:
        """What a client connects to."""
        return self.running.address(self.running.port)

    @property
    def http(self) -> str:
        return f"http://{self.running.address(self.running.http_port)}"


@contextlib.contextmanager
def test_server(models: Sequence[StepModel] | LoadedModels, /, **settings: Any) -> Iterator[TestServer]:
    """Serve these models until the block is left. settings: those of ntm_serve.config.Settings.

    Raises at the end of the block what took the server down, if anything did.
    """
    loaded = models if isinstance(models, LoadedModels) else LoadedModels(models, {}, {m.card.key: 0.0 for m in models})
    chosen = read_settings({"port": 0, "http_port": 0, **settings})
    ready = threading.Event()
    outcome: list[Running | BaseException] = []
    stops: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    async def main() -> None:
        stop = asyncio.Event()
        stops.append((asyncio.get_running_loop(), stop))
        started: asyncio.Future[Running] = asyncio.get_running_loop().create_future()

        def tell(future: asyncio.Future[Running]) -> None:
            outcome.append(future.exception() or future.result())
            ready.set()

        started.add_done_callback(tell)
        await serve(chosen, loaded, started=started, stop=stop)

    failed: list[BaseException] = []

    def run_server() -> None:
        try:
            run(main())
        except BaseException as fault:  # It belongs to whoever started the server, not to its thread.
            failed.append(fault)
        finally:
            ready.set()

    thread = threading.Thread(target=run_server, name="test-server")
    thread.start()
    try:
        if not ready.wait(START_WAIT_S):
            raise TimeoutError(f"the server did not start within {START_WAIT_S} s")
        if not outcome:
            raise failed[0]
        if isinstance(outcome[0], BaseException):
            raise outcome[0]
        yield TestServer(outcome[0])
    finally:
        for loop, stop in stops:
            with contextlib.suppress(RuntimeError):  # The loop is closed where starting failed.
                loop.call_soon_threadsafe(stop.set)
        thread.join()
    if failed:
        raise failed[0]


test_server.__test__ = False  # type: ignore[attr-defined]
