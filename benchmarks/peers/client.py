"""The client that loads every server alike: `python -m benchmarks.peers.client`, a process of its own.

Driven by lines of JSON on stdin, answering with one line each: {"server", "target", "workload", "seconds", "first"}.
Messages are bytes made beforehand and replies stay bytes until the load is over; then all of them are read and
checked. It tells its own share of the CPU, and {"fault": ...} where the load failed, "wrong" if by its answers.
"""

import asyncio
import itertools
import json
import sys
import time
from collections import deque
from typing import Any, Protocol

import grpc
import numpy as np
import uvloop

from benchmarks.peers.speech import SPEECH, Speech
from benchmarks.peers.workloads import WORKLOADS, Line, WrongAnswer, check, lines

WARM_UP = 0.1  # Of the seconds of a load.
STALL_S = 10.0  # Beyond its seconds, for the last replies and the ends of its sessions.
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class Carrier(Protocol):
    """Carries bytes; replies come in the order of what was sent."""

    async def send(self, message: bytes) -> None:
        """Begin to send."""

    async def receive(self) -> bytes:
        """The next reply."""

    async def close(self) -> None:
        """Leave as a client should."""


class Stream:
    """A bidirectional call."""

    def __init__(self, channel: grpc.aio.Channel, method: str) -> None:
        self._call = channel.stream_stream(method)()

    async def send(self, message: bytes) -> None:
        """Write it."""
        await self._call.write(message)

    async def receive(self) -> bytes:
        """Read one."""
        reply = await self._call.read()
        if reply is grpc.aio.EOF:
            raise ConnectionError(f"the stream ended: {await self._call.code()} {await self._call.details()}")
        return reply

    async def close(self) -> None:
        """End it, and wait until the server has: a stream that is cut off would be a cancellation to it."""
        await self._call.done_writing()
        await self._call.read()


class Unary:
    """A call per message."""

    def __init__(self, channel: grpc.aio.Channel, method: str) -> None:
        self._method = channel.unary_unary(method)
        self._calls: deque[Any] = deque()

    async def send(self, message: bytes) -> None:
        """Begin a call."""
        self._calls.append(self._method(message))

    async def receive(self) -> bytes:
        """The reply of the oldest."""
        reply: bytes = await self._calls.popleft()
        return reply

    async def close(self) -> None:
        """Nothing is left open."""


class Http:
    """A connection that is kept; no more of HTTP than these servers answer with."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, message: bytes) -> None:
        """Write a request."""
        self._writer.write(message)

    async def receive(self) -> bytes:
        """The body of the next response."""
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        body = await self._reader.readexactly(size)
        if not head.startswith(b"http/1.1 200"):
            raise ConnectionError(f"{head[:40]!r} {body[:200]!r}")
        return body

    async def close(self) -> None:
        """Close the connection."""
        self._writer.close()


class Tally:
    """What one line saw."""

    def __init__(self) -> None:
        self.replies: list[bytes] = []
        self.latencies: list[float] = []


async def run(carrier: Carrier, line: Line, tally: Tally, begin_s: float, end_s: float) -> None:
    """Send and receive until the end; latencies are of the replies that came within."""
    messages = itertools.chain(line.opening, itertools.cycle(line.cycle))
    sent: deque[float] = deque()
    for message in itertools.islice(messages, line.in_flight):
        sent.append(time.perf_counter())
        await carrier.send(message)
    while sent:
        tally.replies.append(await carrier.receive())
        now_s = time.perf_counter()
        started_s = sent.popleft()
        if begin_s <= now_s < end_s:
            tally.latencies.append(now_s - started_s)
        if now_s < end_s:
            sent.append(now_s)
            await carrier.send(next(messages))


async def close(carrier: Carrier, line: Line) -> None:
    """Tell the server that its sessions are over."""
    for message in line.closing:
        await carrier.send(message)
        await carrier.receive()
    await carrier.close()


async def load(order: dict[str, Any]) -> dict[str, float]:
    """One load."""
    speech, workload = SPEECH[order["server"]], WORKLOADS[order["workload"]]
    planned = list(lines(workload, speech, order["first"]))
    tallies = [Tally() for _ in planned]
    limit_s = order["seconds"] * (1 + WARM_UP) + STALL_S
    async with grpc.aio.insecure_channel(order["target"], options=UNLIMITED) as channel, asyncio.timeout(limit_s):
        carriers = [await connect(speech, channel, order["target"]) for _ in planned]
        before_s, started_s = time.process_time(), time.perf_counter()
        begin_s = started_s + order["seconds"] * WARM_UP
        end_s = begin_s + order["seconds"]
        every = zip(carriers, planned, tallies, strict=True)
        await asyncio.gather(*(run(carrier, line, tally, begin_s, end_s) for carrier, line, tally in every))
        cpu = (time.process_time() - before_s) / (time.perf_counter() - started_s)
        await asyncio.gather(*(close(carrier, line) for carrier, line in zip(carriers, planned, strict=True)))
    for line, tally in zip(planned, tallies, strict=True):
        check(workload, speech, line, tally.replies)
    latencies = [one for tally in tallies for one in tally.latencies]
    return {
        "steps_per_s": len(latencies) * planned[0].together * workload.steps / order["seconds"],
        "p50_ms": float(np.percentile(latencies, 50)) * 1000,
        "p99_ms": float(np.percentile(latencies, 99)) * 1000,
        "client_cpu": cpu,
    }


async def connect(speech: Speech, channel: grpc.aio.Channel, target: str) -> Carrier:
    """A line to a server."""
    if speech.carrier == "stream":
        return Stream(channel, speech.method)
    if speech.carrier == "unary":
        return Unary(channel, speech.method)
    host, _, port = target.rpartition(":")
    return Http(*await asyncio.open_connection(host, int(port)))


def main() -> None:
    """Serve orders until stdin ends."""
    for order in sys.stdin:
        try:
            answer: dict[str, Any] = uvloop.run(load(json.loads(order)))
        except WrongAnswer as error:
            answer = {"fault": str(error), "wrong": True}
        except TimeoutError:
            answer = {"fault": f"a reply did not come for {STALL_S:.0f} s", "wrong": False}
        except Exception as error:  # Whatever a server does to its client is the server's result.
            answer = {"fault": f"{type(error).__name__}: {str(error)[:300]}", "wrong": False}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
