"""Frames that no client would send: `python -m benchmarks.fuzz [FRAMES]`, a million if not said.

Connections speak HTTP/2 as it should be, and some more and more otherwise: calls of real methods with messages that
were cut, stretched and flipped, frames in places where they do not belong, and frames whose heads lie. Meanwhile a
bystander steps a session, and every output of it is compared with those of an undisturbed run. It prints how many
frames the server took, and what its resident memory did. A seed gives the same frames again.
"""

import contextlib
import random
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.processes import line, process
from ntm_serve.client import Client
from ntm_serve.v1 import models_pb2, sessions_pb2
from ntm_serve.wire import tensor_of

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM, END_HEADERS = 1, 4

# What a connection sends at most, and in one go: most connections are closed on sooner.
FRAMES_PER_CONNECTION, FRAMES_PER_SEND = 96, 6
# A server that neither takes nor closes for so long hangs.
PATIENCE_S = 20.0

LINGER_S = 0.02

SERVICES = ("ntm_serve.v1.Sessions", "ntm_serve.v1.Models", "grpc.health.v1.Health")
METHODS = {
    "ntm_serve.v1.Sessions": (
        "Open", "Step", "Stream", "Get", "List", "Close", "Snapshot", "Restore", "Fork", "Rewind", "None",
    ),
    "ntm_serve.v1.Models": ("List", "Get"),
    "grpc.health.v1.Health": ("Check", "Watch", "List"),
}  # fmt: skip


@dataclass
class Report:
    """frames: that were sent on connections that were open. closed: connections that the server closed on."""

    frames: int = 0
    connections: int = 0
    closed: int = 0


def corpus(model: str, width: int) -> list[bytes]:
    """Messages that are right, and of which others are made."""
    x = tensor_of("x", np.ones((1, 2, width), np.float32))
    step = sessions_pb2.StepRequest(session_ids=["fuzz"], first_steps=[-1], inputs=[x])
    messages = [
        step,
        sessions_pb2.StreamRequest(step=step),
        sessions_pb2.StreamRequest(heartbeat=sessions_pb2.Heartbeat(tag=1)),
        sessions_pb2.OpenRequest(model=model, session_id="fuzz", resume=True),
        sessions_pb2.GetRequest(session_id="fuzz", state_names=["*"]),
        sessions_pb2.ListRequest(page_size=3),
        sessions_pb2.SnapshotRequest(session_id="fuzz"),
        sessions_pb2.RestoreRequest(snapshot=b"NTMSTATE\x01\x00\x10\x00\x00\x00{}", session_id="fuzz"),
        sessions_pb2.RewindRequest(session_id="fuzz", step=1),
        models_pb2.GetModelRequest(name=model),
    ]
    return [message.SerializeToString() for message in messages]


class Frames:
    """Frames of one connection."""

    def __init__(self, chance: random.Random, messages: Sequence[bytes]) -> None:
        self._chance = chance
        self._messages = messages
        self._stream = 1
        # How much of what follows is wrong: some connections stay nearly right, and get further in.
        self._wildness = chance.choice((0.0, 0.02, 0.1, 0.5))

    def next(self) -> bytes:
        """The next one or few."""
        chance = self._chance
        kind = chance.random()
        frame = self._call() if kind < 0.6 else self._more_of_a_call() if kind < 0.75 else self._odd()
        if chance.random() < self._wildness:
            frame = self._bent(frame)
        return frame

    def _call(self) -> bytes:
        chance = self._chance
        service = chance.choices(SERVICES, (8, 1, 1))[0]
        path = f"/{service}/{chance.choice(METHODS[service])}"
        self._stream += 2
        flags = END_HEADERS | (END_STREAM if chance.random() < 0.05 else 0)
        head = framed(HEADERS, flags, self._stream, headers(path, chance))
        return head + framed(DATA, END_STREAM * (chance.random() < 0.7), self._stream, self._message())

    def _more_of_a_call(self) -> bytes:
        stream = max(1, self._stream - 2 * self._chance.randrange(3))
        return framed(DATA, END_STREAM * (self._chance.random() < 0.3), stream, self._message())

    def _message(self) -> bytes:
        chance = self._chance
        data = chance.choice(self._messages)
        if chance.random() < 0.8:
            data = self._bent(data)
        size = len(data) if chance.random() < 0.95 else chance.choice((0, 1, len(data) + 1, 1 << 31, (1 << 32) - 1))
        return struct.pack(">BI", chance.random() < 0.03, size) + data

    def _odd(self) -> bytes:
        chance = self._chance
        stream = chance.choice((0, 0, 1, self._stream, self._stream + 2, 2, (1 << 31) - 1))
        kind = chance.choice((PRIORITY, RST_STREAM, SETTINGS, PUSH, PING, WINDOW_UPDATE, CONTINUATION, 0x20, 0xFF))
        sizes = {PRIORITY: 5, RST_STREAM: 4, SETTINGS: 6 * chance.randrange(4), PING: 8, WINDOW_UPDATE: 4}
        if kind in sizes and chance.random() < 0.8:
            stream = 0 if kind in (SETTINGS, PING) else stream
            return framed(kind, chance.choice((0, 0, 1)), stream, chance.randbytes(sizes[kind]))
        return framed(kind, chance.randrange(256), stream, chance.randbytes(chance.randrange(40)))

    def _bent(self, data: bytes) -> bytes:
        chance, bent = self._chance, bytearray(data)
        for _ in range(chance.choice((1, 1, 2, 5))):
            at = chance.randrange(len(bent) + 1)
            how = chance.randrange(5)
            if how == 0 and at < len(bent):
                bent[at] ^= 1 << chance.randrange(8)
            elif how == 1:
                del bent[at : at + chance.randrange(1, 9)]
            elif how == 2:
                bent[at:at] = chance.randbytes(chance.randrange(1, 9))
            elif how == 3:
                bent[at:at] = bent[at : at + chance.randrange(1, 17)]
            elif at < len(bent):
                bent[at] = chance.choice((0, 0x7F, 0x80, 0xFF))
        return bytes(bent)


def framed(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame (RFC 9113, 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream & 0x7FFFFFFF) + payload


def headers(path: str, chance: random.Random) -> bytes:
    """The header block of a call, every field a literal (RFC 7541, 6.2.2)."""
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x"), ("te", "trailers")]
    fields.append(("content-type", "application/grpc"))
    if chance.random() < 0.2:
        fields.append(("grpc-timeout", chance.choice(("1m", "10S", "0n", "99999999H", "x", "-1S"))))
    if chance.random() < 0.1:
        fields.append(("grpc-encoding", chance.choice(("gzip", "identity", "deflate", "none-such"))))
    if chance.random() < 0.1:
        fields.append(("authorization", chance.choice(("Bearer x", "Bearer", "Basic eA==", ""))))
    if chance.random() < 0.05:
        fields.append((chance.choice(("x-bin", "grpc-status", ":status", "Upper", "x")), chance.choice(("@", "", "é"))))
    block = b""
    for name, value in fields:
        texts = [name.encode(), value.encode()]
        block += b"\0" + b"".join(bytes([len(text)]) + text for text in texts)
    return block


def attack(target: str, frames: int, *, seed: int, messages: Sequence[bytes]) -> Report:
    """Send so many. Raises TimeoutError where the server neither takes them nor closes."""
    host, _, port = target.rpartition(":")
    report, chance = Report(), random.Random(seed)
    while report.frames < frames:
        report.connections += 1
        with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
            try:
                for count, data in _sends(Frames(chance, messages)):
                    connection.sendall(data)
                    report.frames += count
                    _hear(connection)
                _linger(connection)
            except ConnectionError:
                report.closed += 1
    return report


def _sends(frames: Frames) -> Iterator[tuple[int, bytes]]:
    opening = PREFACE + framed(SETTINGS, 0, 0, b"")
    for start in range(0, FRAMES_PER_CONNECTION, FRAMES_PER_SEND):
        parts = [frames.next() for _ in range(FRAMES_PER_SEND)]
        yield FRAMES_PER_SEND, (b"" if start else opening) + b"".join(parts)


def _linger(connection: socket.socket) -> None:
    """Leave a server a moment for what it has: what follows on the heels of the end is not looked at."""
    connection.settimeout(LINGER_S)
    with contextlib.suppress(TimeoutError):
        while connection.recv(1 << 16):
            pass


def _hear(connection: socket.socket) -> None:
    """Take what has come, so that nobody waits for us. Raises ConnectionError where the server closed."""
    connection.setblocking(False)
    try:
        while True:
            if not connection.recv(1 << 16):
                raise ConnectionResetError
    except BlockingIOError:
        pass
    finally:
        connection.settimeout(PATIENCE_S)


class Bystander:
    """Steps a session of its own all the while, and compares. `expected` gives the outputs of its steps, in order."""

    def __init__(
        self, client: Client, model: str, step: Callable[[int], np.ndarray], expected: Sequence[bytes]
    ) -> None:
        self._session = client.session(model)
        self._step, self._expected = step, expected
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.steps = self.wrong = 0
        self.fault: Exception | None = None

    def __enter__(self) -> "Bystander":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self.fault is not None:
            raise self.fault

    def _run(self) -> None:
        try:
            while not self._over.is_set() and self.steps < len(self._expected):
                y = np.asarray(self._session.step(self._step(self.steps)))
                self.wrong += y.tobytes() != self._expected[self.steps]
                self.steps += 1
                self._over.wait(0.01)
        except Exception as fault:
            self.fault = fault


def resident_bytes(pid: int) -> int:
    """Of a process, as the kernel has it."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found, "a process has its resident bytes there"
    return int(found[1]) * 1024


BYSTANDER_STEPS = 20_000


def _x(step: int) -> np.ndarray:
    return np.random.default_rng(step).integers(0, 2, 9).astype(np.float32)


def main() -> None:
    """Attack a server of the zoo, and print what became of it."""
    frames, seed = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000, 1
    serve = ("serve", "--models", "models/zoo", "--port", "0", "--http-port", "0", "--batch-max", "8")
    with process("ntm_serve.cli", *serve, stderr=subprocess.DEVNULL) as server:
        found = re.search(r"grpc=(\S+)", line(server))
        assert found, "the server says where it listens"
        with Client(found[1]) as client:
            with client.session("copy-ff") as session:
                outputs = [np.asarray(y).tobytes() for y in session.stream(map(_x, range(BYSTANDER_STEPS)))]
            messages = corpus("copy-ff", 9)
            with Bystander(client, "copy-ff", _x, outputs) as bystander:
                attack(found[1], frames // 10, seed=seed, messages=messages)
                before, started_s = resident_bytes(server.pid), time.monotonic()
                report = attack(found[1], frames - frames // 10, seed=seed + 1, messages=messages)
                seconds, after = time.monotonic() - started_s, resident_bytes(server.pid)
            assert server.poll() is None, "the server lives"
        print(
            f"fuzz: frames={frames} connections={report.connections} closed_on={report.closed} "
            f"frames_per_s={report.frames / seconds:.0f} resident_mb={before >> 20}->{after >> 20} "
            f"bystander_steps={bystander.steps} wrong={bystander.wrong}"
        )
        if bystander.wrong:
            raise SystemExit(1)


if __name__ == "__main__":
    main()
