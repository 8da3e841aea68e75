"""A server as it would stand somewhere, for a while: `python -m benchmarks.soak [SECONDS]`, ten minutes if not said.

With TLS, tokens, tenants and a store, while callers of several tenants stream, open and close sessions and
connections, leave in the middle, show wrong tokens and reach limits, and tokens and the certificate are renewed under
them. Every output is compared with that of the steps alone. It prints what the server's resident memory, descriptors
and threads were after a fifth of the time and at its end: what is filled once is full by then.
"""

import contextlib
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import trustme

from benchmarks.fuzz import resident_bytes
from benchmarks.overload import MODEL, STEPS_PER_MESSAGE, message
from benchmarks.processes import line, process
from ntm_serve.auth.tokens import hash_of, new_token
from ntm_serve.client import Client, Tls
from ntm_serve.errors import LimitReached, NtmServeError, Unauthenticated

TENANTS = ("acme", "other", "third")
MESSAGES = 400
RENEW_EVERY_S = 5.0
WARM_UP = 0.2


class Place:
    """The server's files, and its callers' tokens."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._authority = trustme.CA()
        self.ca = self._authority.cert_pem.bytes()
        self.tokens = {tenant: new_token() for tenant in TENANTS}
        self._renewals = 0
        (folder / "tenants.toml").write_text("[tenants.third]\nsessions_max = 4\nsteps_per_s_max = 400\n")
        self.renew()

    @property
    def flags(self) -> list[str]:
        """Of the server."""
        files = {
            "tls-cert": "cert.pem",
            "tls-key": "key.pem",
            "auth-file": "callers.toml",
            "tenants-file": "tenants.toml",
        }
        flags = [part for flag, name in files.items() for part in (f"--{flag}", str(self._folder / name))]
        return [*flags, "--store", f"sqlite:{self._folder / 'sessions.db'}"]

    def renew(self) -> None:
        """Another certificate, and a caller more or less."""
        self._renewals += 1
        made = self._authority.issue_cert("localhost", "127.0.0.1")
        self._write("key.pem", made.private_key_pem.bytes())
        self._write("cert.pem", made.cert_chain_pems[0].bytes())
        passing = {f"passing-{self._renewals}": new_token()}
        callers = {**self.tokens, **passing}
        self._write(
            "callers.toml",
            "".join(
                f'[[tokens]]\nname = "{name}"\ntenant = "{name}"\nsha256 = "{hash_of(token).hex()}"\n'
                for name, token in callers.items()
            ).encode(),
        )

    def _write(self, name: str, data: bytes) -> None:
        beside = self._folder / f"{name}.new"
        beside.write_bytes(data)
        beside.replace(self._folder / name)


class Callers:
    """What callers do, again and again; each line of it is a thread's."""

    def __init__(self, target: str, place: Place) -> None:
        self._target, self._place = target, place
        self.counts: Counter[str] = Counter()
        self._expected = self._undisturbed()

    def client(self, tenant: str) -> Client:
        return Client(self._target, tls=Tls(ca=self._place.ca), token=self._place.tokens[tenant])

    def _undisturbed(self) -> list[bytes]:
        with self.client("acme") as client, client.session(MODEL) as session:
            return [np.asarray(session.step(message(number))).tobytes() for number in range(MESSAGES)]

    def stream(self, tenant: str) -> None:
        """A session over a stream, from a connection of its own."""
        with self.client(tenant) as client, client.session(MODEL) as session:
            for number, y in enumerate(session.stream(map(message, range(MESSAGES)))):
                self.counts["steps"] += STEPS_PER_MESSAGE
                self.counts["wrong"] += np.asarray(y).tobytes() != self._expected[number]

    def leave(self, tenant: str) -> None:
        """Somebody who leaves in the middle, and comes back to a session that stands where it was answered or after."""
        with self.client(tenant) as client:
            session = client.session(MODEL)
            for number, _ in enumerate(session.stream(map(message, range(MESSAGES)))):
                if number == 3:
                    break
            self.counts["left"] += 1
            self.counts["wrong"] += session.info().next_step < 4 * STEPS_PER_MESSAGE
            session.close()

    def knock(self, _: str) -> None:
        """Somebody without a right to be there."""
        with Client(self._target, retry=None, tls=Tls(ca=self._place.ca), token=new_token()) as client:
            try:
                client.models()
            except Unauthenticated:
                self.counts["refused"] += 1
        time.sleep(0.05)

    def reach(self, tenant: str) -> None:
        """Somebody at a limit."""
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(self.client(tenant))
            try:
                for _ in range(8):
                    stack.enter_context(client.session(MODEL))
            except LimitReached as error:
                self.counts["limited"] += 1
                time.sleep(min(error.retry_after_s, 0.2))


def main() -> None:
    """Print what became of the server."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 600.0
    with tempfile.TemporaryDirectory() as folder:
        place = Place(Path(folder))
        serve = (
            "serve",
            "--models",
            "models/zoo",
            "--port",
            "0",
            "--http-port",
            "0",
            "--batch-max",
            "16",
            *place.flags,
        )
        with process("ntm_serve.cli", *serve, stderr=subprocess.DEVNULL) as server:
            found = re.search(r"grpc=\S+:(\d+)", line(server))
            assert found, "the server says where it listens"
            callers = Callers(f"localhost:{found[1]}", place)
            before, after = _soaked(callers, place, server.pid, seconds)
            assert server.poll() is None, "the server lives"
    counts = " ".join(f"{name}={count}" for name, count in sorted(callers.counts.items()))
    print(f"soak: seconds={seconds:g} {counts}")
    print("soak: " + " ".join(f"{name}={before[name]}->{after[name]}" for name in before))
    if callers.counts["wrong"] or callers.counts["faults"]:
        raise SystemExit(1)


def _soaked(callers: Callers, place: Place, pid: int, seconds: float) -> tuple[dict[str, int], dict[str, int]]:
    over = threading.Event()
    deeds: list[tuple[Callable[[str], None], str]] = [
        (callers.stream, "acme"), (callers.stream, "other"), (callers.leave, "other"), (callers.leave, "acme"),
        (callers.knock, ""), (callers.reach, "third"),
    ]  # fmt: skip
    threads = [threading.Thread(target=_again, args=(over, callers.counts, *deed)) for deed in deeds]
    for one in threads:
        one.start()
    started_s, before = time.monotonic(), {}
    try:
        while (passed_s := time.monotonic() - started_s) < seconds:
            if not before and passed_s > WARM_UP * seconds:
                before = _held(pid)
            time.sleep(min(RENEW_EVERY_S, seconds / 10))
            place.renew()
        after = _held(pid)
    finally:
        over.set()
        for one in threads:
            one.join()
    return before, after


def _again(over: threading.Event, counts: Counter[str], deed: Callable[[str], None], tenant: str) -> None:
    while not over.is_set():
        try:
            deed(tenant)
        except NtmServeError as fault:
            counts["faults"] += 1
            print(f"soak: {deed.__name__}: {fault!r}", file=sys.stderr)


def _held(pid: int) -> dict[str, int]:
    """What a process has of the machine."""
    of = Path(f"/proc/{pid}")
    return {
        "resident_mb": resident_bytes(pid) >> 20,
        "descriptors": len(list((of / "fd").iterdir())),
        "threads": len(list((of / "task").iterdir())),
    }


if __name__ == "__main__":
    main()
