"""Real processes that are killed, stopped and started again: servers, and a redis."""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import ExitStack, closing
from pathlib import Path

# From the start of a program until it must answer, and from SIGTERM until it must be gone.
START_MAX_S, END_MAX_S = 60.0, 30.0


class Program(ABC):
    """A process with a log of its own. It may be started again once it is gone."""

    def __init__(self, name: str, command: Iterable[str], folder: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self._command = list(command)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Until it answers."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=log
            )
        try:
            async with asyncio.timeout(START_MAX_S):
                await self._until_ready()
        except BaseException:
            await self.remove()
            raise

    async def kill(self) -> None:
        """End it without a word, as kill -9 does."""
        self._signal(signal.SIGKILL)
        await self._running.wait()

    async def end(self) -> None:
        """Have it end by itself."""
        self.tell_to_end()
        async with asyncio.timeout(END_MAX_S):
            await self._running.wait()

    def tell_to_end(self) -> None:
        """Send SIGTERM, and do not wait."""
        self._signal(signal.SIGTERM)

    def pause(self) -> None:
        """It stands still from now on, and knows nothing of it."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """After a pause."""
        self._signal(signal.SIGCONT)

    async def remove(self) -> None:
        """Whatever it does, it is gone."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    @property
    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            raise RuntimeError(f"{self.name}: ended by itself; its log: {self.log.read_text()[-2000:]}")
        return self._process

    def _signal(self, number: signal.Signals) -> None:
        os.kill(self._running.pid, number)

    @abstractmethod
    async def _until_ready(self) -> None:
        """Come back when it answers."""


class Server(Program):
    """`ntm-serve serve` on a port that it keeps."""

    def __init__(self, name: str, folder: Path, *, models: Path, store: str, options: Iterable[str] = ()) -> None:
        [port] = free_ports(1)
        self.target = f"127.0.0.1:{port}"
        command = [sys.executable, "-m", "ntm_serve.cli", "serve", "--models", str(models), "--store", store]
        command += ["--port", str(port), "--http-port", "0", "--batch-max", "64", "--log-format", "json"]
        super().__init__(name, [*command, "--durability", "process", *options], folder)

    async def _until_ready(self) -> None:
        output = self._running.stdout
        assert output is not None
        if not (await output.readline()).startswith(b"listening"):
            await self._running.wait()
            assert self._running  # It raises, with the log.


class Redis(Program):
    """A redis that has on its disk what it has answered, and listens on a socket file. With fewer syncs than that it
    may lose two seconds when it is killed, as it does not write while it waits for the disk.
    """

    def __init__(self, folder: Path) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise FileNotFoundError("redis-server is missing (Debian package redis-server)")
        self._socket = folder / "redis.socket"
        self.url = f"unix://{self._socket}"
        command = [program, "--port", "0", "--unixsocket", str(self._socket), "--dir", str(folder)]
        super().__init__("redis", [*command, "--save", "", "--appendonly", "yes", "--appendfsync", "always"], folder)

    async def _until_ready(self) -> None:
        while not await self._answers():
            assert self._running
            await asyncio.sleep(0.01)

    async def _answers(self) -> bool:
        """Whether it has read its file, and takes commands."""
        try:
            reader, writer = await asyncio.open_unix_connection(self._socket)
        except OSError:
            return False
        with closing(writer):
            writer.write(b"PING\r\n")
            with contextlib.suppress(OSError):
                return await reader.readline() == b"+PONG\r\n"
        return False


def free_ports(count: int) -> list[int]:
    """Ports that nobody has at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
