"""Servers and the client as processes: started on a free port, stopped with all that they started."""

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.peers.environment import python_of
from benchmarks.peers.lineup import Peer
from benchmarks.peers.speech import name_of
from benchmarks.peers.workloads import MODEL, WORKLOADS
from ntm_serve.client import Client
from ntm_serve.errors import NtmServeError

SERVERS = Path(__file__).parent / "servers"
WORK = Path("build/peers-work")
OURS = "ntm-serve"
START_S = 120.0  # Ray takes 20 s on two cores that have nothing else to do.
STOP_S = 20.0
GLANCE_S = 0.3
Figures = dict[str, float]


class Fault(Exception):
    """A server failed under load; the message says how."""


class WrongAnswers(Fault):
    """It answered, and not what the model says."""


class LoadClient:
    """The process that loads every server."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.peers.client"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self._first = itertools.count(1, 1000)

    def __enter__(self) -> "LoadClient":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def load(self, server: str, target: str, workload: str, seconds: float) -> Figures:
        """One load with sessions of its own. Fault where the server fails."""
        order = {
            "server": server,
            "target": target,
            "workload": workload,
            "seconds": seconds,
            "first": next(self._first),
        }
        if server == OURS:
            with opened(target, order["first"], WORKLOADS[workload].sessions):
                answer = self._ask(order)
        else:
            answer = self._ask(order)
        if "fault" in answer:
            raise (WrongAnswers if answer["wrong"] else Fault)(f"{server}: {answer['fault']}")
        return answer

    def _ask(self, order: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@contextlib.contextmanager
def opened(target: str, first: int, count: int) -> Iterator[None]:
    """Sessions of ours, numbered from `first`; closed in the end."""
    with Client(target) as client:
        try:
            sessions = [client.session(MODEL.parent.name, session_id=name_of(first + place)) for place in range(count)]
            yield
            for session in sessions:
                session.close()
        except NtmServeError as error:
            raise Fault(f"{OURS}: {error}") from error


@contextlib.contextmanager
def ours() -> Iterator[str]:
    """A server of ours; where it listens."""
    quiet = ("--port", "0", "--http-port", "0", "--log-level", "warning")
    command = [sys.executable, "-m", "ntm_serve.cli", "serve", "--models", str(MODEL.parents[1]), *quiet]
    with stopped(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)) as process:
        assert process.stdout is not None
        found = re.search(r"grpc=(\S+)", process.stdout.readline())
        if not found:
            raise RuntimeError(f"{command}: ended early")
        yield found[1]


@contextlib.contextmanager
def peer_server(peer: Peer, client: LoadClient) -> Iterator[str]:
    """A peer that has answered a first load rightly; where it listens. Fault where it never does."""
    work = (WORK / peer.name).absolute()
    work.mkdir(parents=True, exist_ok=True)
    target = f"127.0.0.1:{free_port()}"
    script = SERVERS / f"{peer.name}_server.py"
    command = [str(python_of(peer)), str(script), target.rpartition(":")[2], str(MODEL.absolute()), str(work)]
    # What a peer keeps in its user's home, it shall keep in its own folder.
    environment = os.environ | {"HOME": str(work)}
    environment.pop("PYTHONPATH", None)
    with (work / "log").open("w") as log, stopped(
        subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=work, start_new_session=True)
    ) as process:  # fmt: skip
        deadline_s = time.monotonic() + START_S
        while True:
            try:
                client.load(peer.name, target, "32x1", GLANCE_S)
                break
            except WrongAnswers:
                raise
            except Fault as fault:
                if process.poll() is not None:
                    raise Fault(f"ended with status {process.returncode}, see {WORK / peer.name}/log") from fault
                if time.monotonic() > deadline_s:
                    raise Fault(f"not ready within {START_S:.0f} s: {fault}") from fault
            time.sleep(0.5)
        yield target


@contextlib.contextmanager
def stopped(process: subprocess.Popen[Any]) -> Iterator[subprocess.Popen[Any]]:
    """Stop its group in the end: asked first, killed then."""
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return int(it.getsockname()[1])
