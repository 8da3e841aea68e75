"""An environment for each peer, under build/peers: made once, and again when what it needs has changed."""

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.lineup import Peer

ROOT = Path("build/peers")
INSTALL_S = 1200.0  # The largest brings some 500 MB.


class Unavailable(Exception):
    """A peer cannot be run here; the message says why."""


def python_of(peer: Peer) -> Path:
    """Its interpreter."""
    return (ROOT / peer.name / "bin/python").absolute()


def is_ready(peer: Peer) -> bool:
    """Whether it is set up as it is asked for now."""
    stamp = _stamp(peer)
    return stamp.exists() and stamp.read_text() == _asked(peer)


def set_up(peer: Peer) -> None:
    """Make its environment. Unavailable where that cannot be done."""
    if peer.program and shutil.which(peer.program) is None:
        raise Unavailable(f"{peer.program} is not on the path: {peer.program_from}")
    if is_ready(peer):
        return
    directory = ROOT / peer.name
    shutil.rmtree(directory, ignore_errors=True)
    _run(sys.executable, "-m", "venv", str(directory))
    _run(str(python_of(peer)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.requirements)
    _stamp(peer).write_text(_asked(peer))


def version_of(peer: Peer) -> str:
    """Of its distribution, as installed."""
    ask = "import sys, importlib.metadata as m; print(m.version(sys.argv[1]))"
    return _run(str(python_of(peer)), "-c", ask, peer.distribution).strip()


def _stamp(peer: Peer) -> Path:
    return ROOT / peer.name / "installed.txt"


def _asked(peer: Peer) -> str:
    return f"{sys.version}\n" + "\n".join(peer.requirements) + "\n"


def _run(*command: str) -> str:
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S).stdout
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"not installed within {INSTALL_S:.0f} s") from error
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if line.startswith("ERROR")] or error.stderr.splitlines()
        raise Unavailable(lines[0] if lines else f"{command[0]}: status {error.returncode}") from error
