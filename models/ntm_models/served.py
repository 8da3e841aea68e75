"""A server of one's own, in a process of its own, for as long as it is needed."""

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Stopping drains for ten seconds at most.
STOP_WAIT_S = 30.0
LISTENING = re.compile(r"listening grpc=(\S+) http=(\S+)")


@contextlib.contextmanager
def served(repository: Path, *options: str) -> Iterator[tuple[str, str]]:
    """A server in a process of its own, on free ports: its gRPC and HTTP addresses. options: of
    `ntm-serve serve`, which win. Stopped by SIGTERM at the end; raises RuntimeError where it does not start or does not
    stop cleanly.
    """
    command = [sys.executable, "-m", "ntm_serve.cli", "serve", "--models", str(repository)]
    quiet = ["--port", "0", "--http-port", "0", "--log-level", "warning"]
    # In a group of its own: a Ctrl-C is for whoever started this, who has clients of it to end first.
    own: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True, "process_group": 0}
    with subprocess.Popen([*command, *quiet, *options], **own) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            found = LISTENING.search(line)
            if found is None:
                raise RuntimeError(f"the server did not start: {line or 'its log says why'}")
            yield found[1], found[2]
        finally:
            server.send_signal(signal.SIGTERM)
            status = server.wait(STOP_WAIT_S)
    if status != 0:
        raise RuntimeError(f"the server stopped with status {status}")
