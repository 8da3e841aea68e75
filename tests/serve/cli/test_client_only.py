"""The command line where only the client is installed."""

import subprocess
import sys

import numpy as np
import pytest

from .conftest import environment

# Not pydantic: Typer brings it.
EXTRA = ("grpc_health", "grpc_reflection", "onnxruntime", "prometheus_client", "pydantic_settings",
         "starlette", "structlog", "uvicorn", "uvloop", "torch")  # fmt: skip

RUN = f"""
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {EXTRA}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
from ntm_serve.cli import main
main()
"""


@pytest.fixture
def client_only(served):
    """Runs a command in a process without what the server needs."""

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-c", RUN, *map(str, arguments)], capture_output=True, text=True, timeout=60,
            check=False, env=environment(NTM_SERVE_SERVER=served.target),
        )  # fmt: skip

    return run


def test_what_asks_a_server_works(client_only, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((5, 9), np.float32))
    for arguments, says in (
        (("version",), "ntm-serve "),
        (("models",), "copy-ff"),
        (("run", "copy-ff", "-i", tmp_path / "x.npy", "-o", tmp_path / "y.npy"), "5 steps through copy-ff/1"),
    ):
        ended = client_only(*arguments)
        assert (ended.returncode, ended.stderr) == (0, "")
        assert says in ended.stdout
    assert np.load(tmp_path / "y.npy").shape == (5, 8)
    (tmp_path / "x.jsonl").write_text('{"id": "a", "x": [0, 0, 0, 0, 0, 0, 0, 0, 0]}\n')
    ended = client_only("pipe", "copy-ff", "--key", "id", "--input", tmp_path / "x.jsonl", "--close")
    assert (ended.returncode, ended.stdout[:28]) == (0, '{"line":1,"key":"a","step":0')


@pytest.mark.parametrize(
    "arguments", [("serve", "--port", "0"), ("check", "DIR"), ("health",), ("top",), ("import-triton", "DIR")]
)
def test_what_serves_says_what_to_install(client_only, arguments):
    ended = client_only(*arguments)
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert "pip install 'ntm-serve[server]'" in line


def test_the_help_lists_every_command_all_the_same(client_only):
    ended = client_only("--help")
    for name in ("serve", "check", "health", "top", "import-triton", "models", "sessions", "run", "pipe", "version"):
        assert f" {name} " in ended.stdout
