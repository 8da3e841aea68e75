"""A TCP proxy that breaks connections: between a client and a server, to see what becomes of them.

Rules of this file: what happens to a connection is drawn from a seed when it comes, and again after a fault that it
outlived; what was done is counted when it is done, not when it is drawn.

    with ChaosProxy("127.0.0.1:8001", Chaos(cut=0.2), seed=1) as proxy:
        client = Client(proxy.target)

    python -m benchmarks.chaos.proxy 127.0.0.1:8001 --port 9001 --cut 0.2
"""

import argparse
import asyncio
import contextlib
import dataclasses
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

# Small, so that a fault may fall between the parts of a message.
CHUNK_BYTES = 4096

# What a client's or a server's connection may take to be made.
CONNECT_S = 5.0

# With a linger of zero seconds a closed connection is a reset one.
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Chaos:
    """What is done to connections. The first fields are faults, each with its probability per connection; one of them
    or none is drawn, so all together are at most 1. Bytes are those of replies, from server to client.

    cut_at_once: reset when it comes. cut: reset after some bytes, also in the midst of a message. half_close: after
    some bytes the server seems to have ended, and does not hear it. black_hole: from some byte on nothing comes
    through, either way, and nobody learns of it. duplicate: after some bytes a chunk comes twice, which no TCP does: it
    breaks the framing, or brings a reply twice. stall: after some bytes nothing comes for stall_s, and then all of it.
    refuse: reset when it comes, and whoever comes within refuse_s finds no listener.
    after_bytes: the least and the most of "some bytes". latency_s: the least and the most that each chunk is late.
    """

    cut_at_once: float = 0.0
    cut: float = 0.0
    half_close: float = 0.0
    black_hole: float = 0.0
    duplicate: float = 0.0
    stall: float = 0.0
    refuse: float = 0.0
    stall_s: float = 1.0
    refuse_s: float = 0.5
    after_bytes: tuple[int, int] = (0, 20_000)
    latency_s: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        chances = [getattr(self, fault) for fault in FAULTS]
        if min(chances) < 0 or sum(chances) > 1 + 1e-9:
            raise ValueError(f"chaos: expected probabilities of at most 1 together, got {chances}")

    def drawn(self, chance: random.Random) -> str:
        """One of the faults, or "" for none."""
        drawn = chance.random()
        for fault in FAULTS:
            drawn -= getattr(self, fault)
            if drawn < 0:
                return fault
        return ""


FAULTS = ("cut_at_once", "cut", "half_close", "black_hole", "duplicate", "stall", "refuse")


class ChaosProxy:
    """The proxy, on a thread and an event loop of its own while its block lasts. May be changed meanwhile: upstream, an
    address "host:port", and chaos, for the connections that come then; counts: what was done so far, and "connections".
    """

    def __init__(self, upstream: str, chaos: Chaos | None = None, *, seed: int = 0, port: int = 0) -> None:
        """port: to listen on, of this machine alone; 0 is any."""
        self.upstream = upstream
        self.chaos = chaos or Chaos()
        self.counts: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._port = port
        self._listener: socket.socket | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chaos-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(CONNECT_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(CONNECT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def target(self) -> str:
        """What a client connects to."""
        return f"127.0.0.1:{self._port}"

    def refuse(self, for_s: float) -> None:
        """Cut all connections, and have no listener for so long, from now on."""
        asyncio.run_coroutine_threadsafe(self._refuse(for_s), self._loop).result(CONNECT_S)

    def cut_all(self) -> int:
        """Reset every connection there is now. How many."""

        async def cut() -> int:
            return self._cut_all()

        return asyncio.run_coroutine_threadsafe(cut(), self._loop).result(CONNECT_S)

    async def _listen(self) -> None:
        # Not asyncio's server: one that is closed just when somebody comes leaves the connection open for ever.
        listener = socket.create_server(("127.0.0.1", self._port), backlog=1024)
        listener.setblocking(False)
        self._listener, self._port = listener, listener.getsockname()[1]
        self._loop.add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionError):
            guest, _ = listener.accept()
            guest.setblocking(False)
            self._own(self._loop.create_task(self._take(guest)))

    def _own(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _stop_listening(self) -> bool:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._loop.remove_reader(listener)
            listener.close()
        return listener is not None

    async def _end(self) -> None:
        self._stop_listening()
        self._cut_all()
        await asyncio.sleep(0)  # A task that is cancelled before it began would leave its socket open.
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _cut_all(self) -> int:
        connections, self._connections = self._connections, set()
        for connection in connections:
            connection.reset()
        return len(connections)

    async def _refuse(self, for_s: float) -> None:
        if self._stop_listening():
            self._cut_all()
            self._own(self._loop.create_task(self._listen_again(for_s)))

    async def _listen_again(self, after_s: float) -> None:
        await asyncio.sleep(after_s)
        await self._listen()

    async def _take(self, guest: socket.socket) -> None:
        try:
            reader, writer = await asyncio.open_connection(sock=guest)
        except BaseException:
            guest.close()
            raise
        self.counts["connections"] += 1
        chaos, chance = self.chaos, random.Random(self._chance.getrandbits(64))
        fault = chaos.drawn(chance)
        if fault in ("cut_at_once", "refuse"):
            self.counts[fault] += 1
            _reset(writer)
            if fault == "refuse":
                await self._refuse(chaos.refuse_s)
            return
        host, _, port = self.upstream.rpartition(":")
        try:
            async with asyncio.timeout(CONNECT_S):
                up_reader, up_writer = await asyncio.open_connection(host, int(port))
            connection = _Connection(writer, up_writer, fault, chaos, chance, self.counts)
            self._connections.add(connection)
            try:
                await connection.carry(reader, up_reader)
            finally:
                self._connections.discard(connection)
        except (OSError, TimeoutError):
            self.counts["no_upstream"] += 1
        except asyncio.CancelledError:
            return  # The proxy ends; asyncio would log it as a fault.
        finally:
            _reset(writer)


class _Connection:
    """One connection, and the fault that it has."""

    def __init__(
        self,
        client: asyncio.StreamWriter,
        server: asyncio.StreamWriter,
        fault: str,
        chaos: Chaos,
        chance: random.Random,
        counts: Counter[str],
    ) -> None:
        self._client = client
        self._server = server
        self._fault = fault
        self._chaos = chaos
        self._chance = chance
        self._counts = counts
        # Bytes of replies until the fault.
        self._left = chance.randint(*chaos.after_bytes)
        # To whom nothing comes through any more.
        self._swallowing: set[asyncio.StreamWriter] = set()

    async def carry(self, from_client: asyncio.StreamReader, from_server: asyncio.StreamReader) -> None:
        """Until either side ends."""
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(from_client, self._server))
                both.create_task(self._pump(from_server, self._client))
        except* OSError:
            pass
        finally:
            self.reset()

    def reset(self) -> None:
        """End both sides, without a farewell."""
        _reset(self._client)
        _reset(self._server)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            least_s, most_s = self._chaos.latency_s
            if most_s > 0:
                await asyncio.sleep(self._chance.uniform(least_s, most_s))
            if self._fault:
                chunk = await self._spoilt(chunk, writer)
            if chunk and writer not in self._swallowing:
                writer.write(chunk)
                await writer.drain()
        # Whoever has said all it had still hears the other out; a connection of gRPC's is over then anyway.
        raise ConnectionResetError

    async def _spoilt(self, chunk: bytes, writer: asyncio.StreamWriter) -> bytes:
        """What comes through of a chunk, once the fault is due."""
        if writer is not self._client:
            return chunk
        if self._left >= len(chunk):
            self._left -= len(chunk)
            return chunk
        before, after = chunk[: self._left], chunk[self._left :]
        fault = self._happens()
        if fault == "duplicate":
            return chunk * 2
        if before:
            writer.write(before)
            await writer.drain()
        if fault == "cut":
            raise ConnectionResetError
        if fault == "stall":
            await asyncio.sleep(self._chaos.stall_s)
            return after
        if fault == "half_close":
            self._swallowing = {self._client}
            writer.write_eof()
        else:
            self._swallowing = {self._client, self._server}
        return b""

    def _happens(self) -> str:
        """It is done; what comes next, should the connection outlive it, is drawn."""
        fault, self._fault = self._fault, self._chaos.drawn(self._chance)
        self._counts[fault] += 1
        self._left = self._chance.randint(*self._chaos.after_bytes)
        if self._fault in ("cut_at_once", "refuse") or fault in ("half_close", "black_hole"):
            self._fault = ""
        return fault


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


def main() -> None:
    """The proxy from a command line, until it is interrupted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos.proxy", description=__doc__.splitlines()[0])
    parser.add_argument("upstream", help="host:port of the server")
    parser.add_argument("--port", type=int, default=0, help="to listen on; 0 is any")
    parser.add_argument("--seed", type=int, default=0)
    for field in dataclasses.fields(Chaos):
        flag = f"--{field.name.replace('_', '-')}"
        if isinstance(field.default, tuple):
            kind: Callable[[str], float] = type(field.default[0])
            parser.add_argument(flag, type=kind, nargs=2, default=field.default, metavar=("LEAST", "MOST"))
        else:
            parser.add_argument(flag, type=float, default=field.default)
    options = vars(parser.parse_args())
    upstream, port, seed = options.pop("upstream"), options.pop("port"), options.pop("seed")
    chaos = Chaos(**{name: tuple(value) if isinstance(value, list) else value for name, value in options.items()})
    with ChaosProxy(upstream, chaos, seed=seed, port=port) as proxy:
        print(f"{proxy.target} -> {upstream}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)
        print(" ".join(f"{name}={count}" for name, count in sorted(proxy.counts.items())))


if __name__ == "__main__":
    main()
