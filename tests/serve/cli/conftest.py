"""The command line as a user runs it: real processes for what serves, the entry point for what asks."""

import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog

from ntm_serve.cli import main

SCRIPT = Path(sys.executable).with_name("ntm-serve")
LISTENING = re.compile(r"listening grpc=(127\.0\.0\.1:(\d+)) http=127\.0\.0\.1:(\d+)\n")


def environment(**more):
    """Without settings of whoever runs the tests, and without measuring batch sizes: that takes its time."""
    own = {name: text for name, text in os.environ.items() if not name.startswith("NTM_SERVE_")}
    return own | {"NTM_SERVE_BATCH_MAX": "8"} | more


@dataclass
class Ended:
    """What a command left."""

    status: int
    out: str
    err: str


class Serving:
    """A running `ntm-serve serve`."""

    def __init__(self, *arguments, **more):
        self.process = subprocess.Popen(
            [SCRIPT, "serve", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment(**more),
        )  # fmt: skip
        self.line = self.process.stdout.readline()
        found = LISTENING.fullmatch(self.line)
        assert found, (self.line, self.process.communicate(timeout=30))
        self.target, self.port, self.http_port = found[1], int(found[2]), int(found[3])

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        return self.ended()

    def ended(self):
        out, err = self.process.communicate(timeout=30)
        return Ended(self.process.returncode, out, err)


@pytest.fixture(scope="session")
def repository(zoo, tmp_path_factory):
    """A repository with one trained model."""
    folder = tmp_path_factory.mktemp("repository")
    shutil.copytree(zoo / "copy-ff", folder / "copy-ff")
    return folder


@pytest.fixture
def serve():
    """Starts servers, and ends what a test leaves of them."""
    started = []

    def start(*arguments, **more):
        started.append(Serving(*arguments, **more))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()
        one.process.stdout.close()
        one.process.stderr.close()


@pytest.fixture(scope="session")
def served(repository):
    """One server for the commands that ask it."""
    it = Serving("--models", str(repository), "--port", "0", "--http-port", "0")
    yield it
    it.stop()


@pytest.fixture
def cli(served, monkeypatch, capsys):
    """Runs a command through its entry point, in this process; it asks `served`."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["ntm-serve", *map(str, arguments)])
        monkeypatch.setenv("NTM_SERVE_SERVER", served.target)
        monkeypatch.setenv("NTM_SERVE_BATCH_MAX", "8")
        try:
            with pytest.raises(SystemExit) as end:
                main()
        finally:
            structlog.reset_defaults()  # `serve` writes its log to what is stderr for this test alone.
        return Ended(end.value.code or 0, *capsys.readouterr())

    return run
