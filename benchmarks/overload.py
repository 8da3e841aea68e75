"""Ten times what a server takes: `python -m benchmarks.overload [SECONDS]`.

As many clients as there may be sessions step them for a while; then the same, while nine times as many more, in another
process, ask for sessions again and again, as they are told to. Those that were let in are to be served as before, the
others are to be told so at once, and the server's memory is to stay what its limits let it have. Every output is
compared with that of the steps alone. Times are told and not judged: clients have the same cores as the server here.
"""

import asyncio
import re
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

import numpy as np

from benchmarks.fuzz import resident_bytes
from benchmarks.processes import line, process
from ntm_serve.client import AsyncClient, AsyncSession
from ntm_serve.errors import LimitReached

MODEL, WIDTH = "copy-ff", 9
STEPS_PER_MESSAGE = 16
CONNECTIONS = 4


@dataclass
class Phase:
    """What so many clients saw. wrong: messages with other outputs than the steps alone give. lost: sessions that did
    not stand where their replies said. peak_bytes: of the server's resident memory.
    """

    clients: int
    admitted: int = 0
    refused: int = 0
    messages: int = 0
    wrong: int = 0
    lost: int = 0
    peak_bytes: int = 0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def p99_ms(self) -> float:
        return float(np.percentile(self.latencies_s, 99)) * 1000


def message(number: int) -> np.ndarray:
    """A session's inputs `[T, 9]` of its message of that number."""
    return np.random.default_rng(number).integers(0, 2, (STEPS_PER_MESSAGE, WIDTH)).astype(np.float32)


class Sampler(threading.Thread):
    """Keeps the largest resident memory of a process."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._over = threading.Event()
        self.peak = 0

    def run(self) -> None:
        while not self._over.wait(0.02):
            self.peak = max(self.peak, resident_bytes(self._pid))

    def stop(self) -> int:
        self._over.set()
        self.join()
        return self.peak


async def phase(target: str, *, clients: int, seconds: float, expected: list[bytes]) -> Phase:
    """So many clients for so long: each opens a session and steps it, or tries to."""
    seen, end_s = Phase(clients), time.monotonic() + seconds
    lines = [AsyncClient(target, retry=None, timeout_s=60.0) for _ in range(CONNECTIONS)]
    try:
        async with asyncio.TaskGroup() as tasks:
            for number in range(clients):
                tasks.create_task(_one(lines[number % CONNECTIONS], seen, end_s, expected))
    finally:
        for one in lines:
            await one.close()
    return seen


async def _one(client: AsyncClient, seen: Phase, end_s: float, expected: list[bytes]) -> None:
    while time.monotonic() < end_s:
        try:
            session = await client.session(MODEL)
        except LimitReached as refused:
            seen.refused += 1
            await asyncio.sleep(refused.retry_after_s)
            continue
        seen.admitted += 1
        await _stepped(session, seen, end_s, expected)
        return


async def _stepped(session: AsyncSession, seen: Phase, end_s: float, expected: list[bytes]) -> None:
    number = 0
    while time.monotonic() < end_s and number < len(expected):
        started_s = time.monotonic()
        try:
            y = await session.step(message(number))
        except LimitReached as refused:
            seen.refused += 1
            await asyncio.sleep(refused.retry_after_s)
            continue
        seen.latencies_s.append(time.monotonic() - started_s)
        seen.messages += 1
        seen.wrong += np.asarray(y).tobytes() != expected[number]
        number += 1
    seen.lost += (await session.info()).next_step != number * STEPS_PER_MESSAGE
    await session.close()


async def undisturbed(target: str, messages: int) -> list[bytes]:
    """The outputs of a session's messages, when it is alone."""
    async with AsyncClient(target) as client, client.session(MODEL) as session:
        return [np.asarray(await session.step(message(number))).tobytes() for number in range(messages)]


def measured(*, sessions: int, seconds: float, models: str = "models/zoo") -> tuple[Phase, Phase]:
    """As many clients as there may be sessions, and ten times as many."""
    limits = {
        "sessions-max": sessions,
        "steps-waiting-total-max": sessions * STEPS_PER_MESSAGE,
        "stream-bytes-max": 1 << 20,
        "message-bytes-max": 1 << 20,
    }
    serve = ["serve", "--models", models, "--port", "0", "--http-port", "0", "--batch-max", "16"]
    for name, value in limits.items():
        serve += [f"--{name}", str(value)]
    with process("ntm_serve.cli", *serve, stderr=subprocess.DEVNULL) as server:
        found = re.search(r"grpc=(\S+)", line(server))
        assert found, "the server says where it listens"
        expected = asyncio.run(undisturbed(found[1], 2_000))
        phases = []
        for others in (0, 9 * sessions):
            crowd = ("crowd", found[1], str(others), str(seconds))
            sampler = Sampler(server.pid)
            sampler.start()
            with process("benchmarks.overload", *crowd) as more:
                line(more)  # It is there.
                seen = asyncio.run(phase(found[1], clients=sessions, seconds=seconds, expected=expected))
                seen.clients += others
                seen.refused += int(line(more))
            seen.peak_bytes = sampler.stop()
            phases.append(seen)
        return phases[0], phases[1]


def crowd(target: str, clients: str, seconds: str) -> None:
    """The process of those who come too late. Says when it is there, and in the end how many were refused."""
    print("here", flush=True)
    time.sleep(0.2)  # The others open theirs.
    seen = asyncio.run(phase(target, clients=int(clients), seconds=float(seconds), expected=[]))
    print(seen.refused, flush=True)


def main() -> None:
    """Print what both phases saw."""
    once, tenfold = measured(sessions=64, seconds=float(sys.argv[1]) if len(sys.argv) > 1 else 20.0)
    for one in (once, tenfold):
        print(
            f"overload: clients={one.clients} admitted={one.admitted} refused={one.refused} messages={one.messages} "
            f"wrong={one.wrong} lost={one.lost} p99_ms={one.p99_ms:.1f} peak_mb={one.peak_bytes / 2**20:.1f}"
        )
    print(
        f"overload: memory {tenfold.peak_bytes / once.peak_bytes:.3f} times, "
        f"p99 of those let in {tenfold.p99_ms / once.p99_ms:.2f} times"
    )


if __name__ == "__main__":
    crowd(*sys.argv[2:]) if sys.argv[1:2] == ["crowd"] else main()
