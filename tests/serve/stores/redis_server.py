"""Real redis-servers of a test's own, with a password, in folders of their own, and a cluster of three."""

import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
import redis

PASSWORD = "pass word/1"
QUOTED = "pass%20word%2F1"
WAIT_MAX_S = 60.0
# What durability disk needs.
DURABLE = ("--appendonly", "yes", "--appendfsync", "always")
SLOTS = 16384


def redis_program():
    """The path of redis-server. Where it is missing the test is skipped at home, and fails in CI."""
    program = shutil.which("redis-server")
    if program is None:
        assert os.environ.get("CI") != "true", "redis-server is missing (Debian package redis-server)"
        pytest.skip("redis-server is missing (Debian package redis-server)")
    return program


def wait_until(is_so, what):
    """Ask again and again, for a bounded time."""
    give_up_s = time.monotonic() + WAIT_MAX_S
    while not is_so():
        assert time.monotonic() < give_up_s, f"waited {WAIT_MAX_S:g} s in vain for {what}"
        time.sleep(0.01)


def free_ports(count):
    """Ports that nobody has at this moment."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


class RedisServer:
    """It listens on a socket file. The folder, and so its address and what it wrote, outlives `kill`."""

    def __init__(self, *options):
        program = redis_program()
        # Not pytest's folder: the path of a socket has no more than 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self.socket = self.folder / "socket"
        self.url = f"unix://{self.socket}?password={QUOTED}"
        self._command = [program, "--port", "0", "--bind", "127.0.0.1", "--unixsocket", str(self.socket)]
        self._command += ["--dir", str(self.folder), "--save", "", "--requirepass", PASSWORD, *options]
        self.start()

    def start(self):
        log = self.folder / "log"
        with log.open("wb") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=subprocess.STDOUT)

        def answers():
            assert self._process.poll() is None, log.read_text()
            try:
                return client.ping()
            except redis.ConnectionError:
                return False

        with self.client() as client:
            wait_until(answers, "redis-server")

    def client(self):
        return redis.Redis(unix_socket_path=str(self.socket), password=PASSWORD)

    def kill(self):
        self._process.kill()
        self._process.wait(WAIT_MAX_S)

    def pause(self):
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self._process.send_signal(signal.SIGCONT)

    def remove(self):
        self.kill()
        shutil.rmtree(self.folder)


@contextmanager
def lossy(server):
    """A way to the server that can lose an answer: its address, and what to call so that it cuts the next
    connection that a script was called on, after the server has answered and before the caller has heard.
    """
    armed = threading.Event()
    path = server.folder / "lossy"

    def relay(caller):
        with caller, socket.socket(socket.AF_UNIX) as redis_side:
            redis_side.connect(str(server.socket))
            is_script = False
            while True:
                readable, _, _ = select.select([caller, redis_side], [], [])
                asked = caller.recv(1 << 16) if caller in readable else b""
                if caller in readable and not asked:
                    return
                redis_side.sendall(asked)
                is_script |= b"EVALSHA" in asked
                answered = redis_side.recv(1 << 16) if redis_side in readable else b""
                if answered and is_script and armed.is_set():
                    armed.clear()
                    return
                caller.sendall(answered)

    def accept():
        while True:
            try:
                caller, _ = listener.accept()
            except OSError:
                return
            relays.append(threading.Thread(target=relay, args=(caller,)))
            relays[-1].start()

    relays = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"unix://{path}?password={QUOTED}", armed.set
            assert not armed.is_set(), "no answer was lost"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for thread in (accepting, *relays):
                thread.join(WAIT_MAX_S)
            path.unlink()


class RedisCluster:
    """Three servers that share the slots."""

    def __init__(self):
        ports = free_ports(6)
        self.nodes = []
        self.url = f"redis://:{QUOTED}@127.0.0.1:{ports[0]}"
        try:
            for port, bus_port in zip(ports[:3], ports[3:], strict=True):
                options = ("--cluster-enabled", "yes", "--cluster-port", str(bus_port), *DURABLE)
                self.nodes.append(RedisServer("--port", str(port), *options))
            clients = [node.client() for node in self.nodes]
            for number, client in enumerate(clients):
                first, end = (SLOTS * part // 3 for part in (number, number + 1))
                client.execute_command("CLUSTER ADDSLOTSRANGE", first, end - 1)
                client.execute_command("CLUSTER MEET", "127.0.0.1", ports[0], ports[3])
            for client in clients:
                wait_until(lambda one=client: one.execute_command("CLUSTER INFO")["cluster_state"] == "ok", "cluster")
                client.close()
        except BaseException:
            self.remove()
            raise

    def client(self):
        return redis.RedisCluster.from_url(self.url)

    def remove(self):
        for node in self.nodes:
            node.remove()
