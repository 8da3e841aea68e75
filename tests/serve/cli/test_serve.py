"""`ntm-serve serve`: how it starts, what it refuses, how it ends."""

import json
import shutil
import signal
import socket
import subprocess
from urllib.request import urlopen

import numpy as np
import pytest

from ntm_serve.client import Client
from ntm_serve.config import Settings
from ntm_serve.errors import ModelDamaged, ServerDraining, ServerUnreachable

from .conftest import SCRIPT, environment

FREE = ("--port", "0", "--http-port", "0")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_it_is_told_to_stop(serve, repository, number):
    server = serve("--models", str(repository), *FREE)
    with Client(server.target) as client, client.session("copy-ff") as session:
        assert session.step(np.zeros(session.inputs[0].shape, np.float32)).shape == session.outputs[0].shape
    with urlopen(f"http://127.0.0.1:{server.http_port}/readyz", timeout=10) as ready:
        assert ready.status == 200
    ended = server.stop(number)
    assert (ended.status, ended.out) == (0, "")
    assert "draining" in ended.err
    assert "Traceback" not in ended.err


def test_a_stream_gets_its_replies_and_then_is_told_to_connect_again(serve, repository):
    server = serve("--models", str(repository), *FREE)
    taken = []
    with Client(server.target, retry=None) as client:
        session = client.session("copy-ff")
        x = np.zeros((100, *session.inputs[0].shape), np.float32)

        def take():
            for y in session.stream(x for _ in range(1_000_000)):
                taken.append(len(y))
                if len(taken) == 3:
                    server.process.send_signal(signal.SIGTERM)

        with pytest.raises(ServerDraining, match="connect again"):
            take()
        assert len(taken) >= 3
        assert session.next_step == sum(taken)
    assert server.ended().status == 0


def test_settings_come_from_the_environment_and_flags_win(serve, repository):
    server = serve("--port", "0", NTM_SERVE_MODELS=str(repository), NTM_SERVE_HTTP_PORT="0",
                   NTM_SERVE_PORT="1", NTM_SERVE_LOG_FORMAT="json")  # fmt: skip
    ended = server.stop()
    assert ended.status == 0
    assert '"event": "model is served"' in ended.err


@pytest.mark.parametrize("flag", ["--port", "--http-port"])
def test_a_taken_port_is_one_clear_line_and_status_1(cli, repository, flag):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        ended = cli("serve", "--models", repository, *FREE, flag, number, "--log-level", "error")
    assert (ended.status, ended.out) == (1, "")
    setting = flag.removeprefix("--").replace("-", "_")
    assert ended.err == f"ntm-serve: {setting}: expected 127.0.0.1:{number} to be free, got: Address already in use\n"


def test_all_faults_of_settings_are_told_at_once(cli, monkeypatch):
    monkeypatch.setenv("NTM_SERVE_LOG_LEVEL", "loud")
    ended = cli("serve", "--port", "x", "--batch-max", "-1")
    assert (ended.status, ended.out) == (1, "")
    (line,) = ended.err.splitlines()
    for part in ("port (NTM_SERVE_PORT): ", "got 'x'", "batch_max (NTM_SERVE_BATCH_MAX): ", "got '-1'",
                 "log_level (NTM_SERVE_LOG_LEVEL): ", "got 'loud'"):  # fmt: skip
        assert part in line


def test_all_that_cannot_be_used_is_told_at_once_and_before_models_are_loaded(cli, repository, tmp_path):
    """Of values that are good by themselves: files, ports, and what goes together."""
    (tmp_path / "tenants.toml").write_text("[tenants.acme]\nsessions_max = -1\n")
    (tmp_path / "keys.json").write_text("{}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        ended = cli(
            "serve", "--models", repository, "--port", number, "--http-port", "0", "--durability", "disk",
            "--tls-cert", tmp_path / "cert.pem", "--tls-key", tmp_path / "key.pem",
            "--auth-file", tmp_path / "none.toml", "--auth-jwt-keys", tmp_path / "keys.json", "--auth-jwt-issuer", "i",
            "--auth-jwt-audience", "a",
            "--tenants-file", tmp_path / "tenants.toml", "--execution-provider", "cuda",
        )  # fmt: skip
    assert (ended.status, ended.out) == (1, "")
    (line,) = ended.err.splitlines()
    for part in ("execution_provider: expected", f"port: expected 127.0.0.1:{number} to be free", "tls_cert: expected",
                 "auth_file: expected", "auth_jwt_keys: expected a JWK set", "tenants_file: ",
                 "durability: expected a store for disk"):  # fmt: skip
        assert part in line, part
    ended = cli("serve", "--models", repository, "--port", "7", "--http-port", "7", "--store", "mysql://x")
    assert ended.err.count("\n") == 1
    assert "port, http_port: expected two, got 7 for both; store: expected sqlite:PATH" in ended.err


def test_a_repository_that_is_none_is_refused(cli, tmp_path):
    for folder, says in ((tmp_path / "nope", "which is not a folder"), (tmp_path, "got none")):
        ended = cli("serve", "--models", folder)
        assert (ended.status, ended.out) == (1, "")
        assert ended.err.startswith("ntm-serve: models: expected")
        assert says in ended.err


def test_a_damaged_model_does_not_keep_the_others_from_being_served(serve, repository, tmp_path, cli):
    shutil.copytree(repository / "copy-ff", tmp_path / "copy-ff")
    shutil.copytree(repository / "copy-ff", tmp_path / "damaged")
    flip(tmp_path / "damaged" / "1" / "model.onnx")
    server = serve("--models", str(tmp_path), *FREE)
    with Client(server.target) as client:
        assert [(model.name, model.ready) for model in client.models()] == [("copy-ff", True), ("damaged", False)]
        with pytest.raises(ModelDamaged, match="sha256"):
            client.session("damaged")
        client.session("copy-ff").close()
    listed = cli("models", "--server", server.target)
    assert "not served: MODEL_DAMAGED" in listed.out
    assert "\nmodel damaged/1: model.onnx: expected" in listed.out
    shown = cli("models", "damaged", "--server", server.target)
    assert (shown.status, shown.out) == (1, "")
    ended = server.stop()
    assert ended.status == 0
    assert "model is not served" in ended.err


def flip(path):
    """Change one byte in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_repository_without_a_model_that_can_be_served_is_refused(cli, repository, tmp_path):
    shutil.copytree(repository / "copy-ff", tmp_path / "damaged")
    flip(tmp_path / "damaged" / "1" / "golden.npz")
    ended = cli("serve", "--models", tmp_path, *FREE)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.splitlines()[-1].startswith("ntm-serve: models: expected at least one that can be served; ")


def test_help_shows_each_setting_with_its_default_and_variable(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")
    ended = cli("serve", "--help")
    assert ended.status == 0
    for name, setting in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')} " in ended.out
        assert f"[env var: NTM_SERVE_{name.upper()}] [default: " in ended.out
        assert setting.description in ended.out
    assert "[default: 8001]" in ended.out
    assert "[default: 604800]" in ended.out
    assert "\n Serve the models of a repository until SIGTERM or Ctrl-C, then drain." in ended.out


def test_while_models_are_loaded_a_signal_ends_it_at_once(zoo):
    command = [SCRIPT, "serve", "--models", zoo, *FREE, "--batch-max", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment()) as process:
        # One model of several is loaded; the measuring of the next takes its time.
        assert "model is served" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in err


def test_lines_of_libraries_are_json_where_ours_are(serve, repository):
    """uvicorn warns of what is no HTTP; a warning of Python's own comes with the same words."""
    server = serve("--models", str(repository), *FREE, "--log-format", "json", "--log-level", "warning")
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=30) as connection:
        connection.sendall(b"\0 this is no HTTP\r\n\r\n")
        assert b"400" in connection.recv(1000)
    lines = [json.loads(line) for line in server.stop().err.splitlines()]
    (line,) = [one for one in lines if one.get("logger") == "uvicorn.error"]
    assert (line["level"], line["event"]) == ("warning", "Invalid HTTP request received.")
    assert line["timestamp"].endswith("Z")


def test_a_fault_of_its_own_that_ends_it_is_a_line_of_the_log(serve, repository, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import ntm_serve.scheduler as it\nit.run_ride = None\n")
    server = serve("--models", str(repository), *FREE, "--log-format", "json", PYTHONPATH=str(tmp_path))
    with Client(server.target, retry=None) as client, pytest.raises(ServerUnreachable):
        client.session("copy-ff").step([0] * 9)
    ended = server.ended()
    last = [json.loads(line) for line in ended.err.splitlines()][-1]
    assert (last["level"], last["event"]) == ("critical", "the server ends by a fault of its own")
    assert "'NoneType' object is not callable" in last["exception"]
    assert ended.status == 1
