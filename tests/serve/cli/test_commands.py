"""Commands that ask a server, and `check`."""

import re
import shutil
import socket

import numpy as np
import pytest

import ntm_serve
from ntm_serve.client import Client
from ntm_serve.errors import SessionClosed

from .test_serve import flip


@pytest.fixture
def client(served):
    with Client(served.target) as client:
        yield client


@pytest.fixture
def xs(client):
    (spec,) = client.model("copy-ff").inputs
    return np.random.default_rng(0).integers(0, 2, (75, *spec.shape)).astype(np.float32)


@pytest.fixture
def x_file(xs, tmp_path):
    np.save(tmp_path / "x.npy", xs)
    return tmp_path / "x.npy"


def expected(client, xs):
    with client.session("copy-ff") as session:
        return session.step(xs)


def open_sessions(client):
    return [info.session_id for info in client.sessions()]


def test_models_are_listed_one_a_line(cli):
    ended = cli("models")
    assert (ended.status, ended.err) == (0, "")
    header, row = ended.out.splitlines()
    assert header.split()[:3] == ["model", "version", "state"]
    assert row.split()[:5] == ["copy-ff", "1", "ready", "ntm", "copy"]


def test_a_model_is_shown_in_full(cli, client):
    ended = cli("models", "copy-ff")
    assert ended.status == 0
    assert client.model("copy-ff").digest in ended.out, "nothing is cut where a program reads it"
    assert cli("models", "nope").err == "ntm-serve: model nope: expected one of copy-ff/1\n"


def test_sessions_are_listed_shown_and_closed(cli, client):
    session = client.session("copy-ff", session_id="mine-to-show-" + "x" * 80)
    (row,) = [line for line in cli("sessions").out.splitlines() if line.startswith("mine-to-show")]
    assert row.split()[:3] == [session.id, "copy-ff/1", "0"]
    assert session.id in cli("sessions", "--model", "copy-ff").out
    assert session.id not in cli("sessions", "--model", "other").out
    shown = dict(line.rstrip().split(maxsplit=1) for line in cli("sessions", "show", session.id).out.splitlines())
    assert shown["model"] == "copy-ff"
    assert cli("sessions", "close", session.id).out == f"closed {session.id} after 0 steps\n"
    with pytest.raises(SessionClosed):
        session.info()
    ended = cli("sessions", "show", session.id)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err == f"ntm-serve: session {session.id}: was closed after 0 steps\n"


def test_a_list_that_is_cut_says_so(cli, client):
    kept = [client.session("copy-ff", session_id=f"a{number}") for number in range(3)]
    ended = cli("sessions", "--limit", "2")
    assert "a1" in ended.out
    assert "a2" not in ended.out
    assert "the first 2; more with --limit" in ended.out
    for session in kept:
        session.close()


@pytest.mark.parametrize("steps_per_message", [1, 32, 1000])
def test_a_file_is_run_to_the_bits_that_a_session_gives(cli, client, xs, x_file, tmp_path, steps_per_message):
    before = open_sessions(client)
    ended = cli("run", "copy-ff", "-i", x_file, "-o", tmp_path / "y.npy", "--steps-per-message", steps_per_message)
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.endswith(f"75 steps through copy-ff/1 to {tmp_path / 'y.npy'}\n")
    y = np.load(tmp_path / "y.npy")
    assert y.tobytes() == expected(client, xs).tobytes()
    assert open_sessions(client) == before


def test_archives_of_arrays_are_read_and_written(cli, client, xs, tmp_path):
    np.savez(tmp_path / "x.npz", x=xs)
    assert cli("run", "copy-ff/1", "-i", tmp_path / "x.npz", "-o", tmp_path / "y.npz").status == 0
    with np.load(tmp_path / "y.npz") as archive:
        assert archive.files == ["y"]
        assert archive["y"].tobytes() == expected(client, xs).tobytes()


def test_a_named_session_goes_on_where_it_stands(cli, client, xs, tmp_path):
    ys = []
    for part in (xs[:50], xs[50:]):
        np.save(tmp_path / "x.npy", part)
        ended = cli("run", "copy-ff", "-i", tmp_path / "x.npy", "-o", tmp_path / "y.npy", "--session-id", "goes-on")
        assert ended.status == 0
        ys.append(np.load(tmp_path / "y.npy"))
    assert np.concatenate(ys).tobytes() == expected(client, xs).tobytes()
    assert client.close_session("goes-on").next_step == 75


def wrong_files(folder, xs):
    """Name to what the message says."""
    np.save(folder / "wide.npy", np.zeros((3, 1), np.float32))
    np.save(folder / "double.npy", xs.astype(np.float64))
    np.save(folder / "empty.npy", xs[:0])
    np.save(folder / "objects.npy", np.array([{}]))
    np.savez(folder / "named.npz", z=xs)
    np.savez(folder / "objects.npz", x=np.array([{}]))
    np.save(folder / "nan.npy", np.full_like(xs, np.nan))
    (folder / "text.npy").write_text("hello")
    (folder / "nothing.npy").write_bytes(b"")
    (folder / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    return {
        "wide.npy": "x: expected float32[T, 9], got float32[3, 1]",
        "double.npy": "x: expected float32[T, 9], got float64[75, 9]",
        "empty.npy": "empty.npy: expected",
        "objects.npy": "objects.npy: expected an .npy or .npz file of plain numbers, got: ",
        "named.npz": "named.npz: expected ['x'], got ['z']",
        "objects.npz": "objects.npz: expected an .npy or .npz file of plain numbers, got: ",
        "nan.npy": "x: expected finite numbers, got nan",
        "text.npy": "text.npy: expected an .npy or .npz file of plain numbers, got: ",
        "nothing.npy": "nothing.npy: expected an .npy or .npz file of plain numbers, got: ",
        "broken.npz": "broken.npz: expected an .npy or .npz file of plain numbers, got: ",
        "missing.npy": "missing.npy: expected an .npy or .npz file of plain numbers, got: ",
    }


def test_a_wrong_file_is_told_in_one_line_and_leaves_no_output_and_no_session(cli, client, xs, tmp_path):
    before = open_sessions(client)
    for name, says in wrong_files(tmp_path, xs).items():
        ended = cli("run", "copy-ff", "-i", tmp_path / name, "-o", tmp_path / "y.npy")
        assert ended.status == 1, name
        (line,) = ended.err.splitlines()
        assert line.startswith("ntm-serve: "), name
        assert says in line, name
        assert not list(tmp_path.glob("y.npy*")), name
    assert open_sessions(client) == before


def test_a_place_that_cannot_be_written_is_refused_before_the_first_step(cli, x_file, tmp_path):
    for place in (tmp_path, tmp_path / "nope" / "y.npy"):
        ended = cli("run", "copy-ff", "-i", x_file, "-o", place)
        assert (ended.status, ended.out) == (1, "")
        assert ended.err == f"ntm-serve: output: expected a file in a folder that is there, got {place}\n"


def test_a_run_that_fails_leaves_the_output_of_the_one_before(cli, client, xs, tmp_path):
    (tmp_path / "y.npy").write_text("before")
    np.save(tmp_path / "x.npy", np.full_like(xs, np.inf))
    assert cli("run", "copy-ff", "-i", tmp_path / "x.npy", "-o", tmp_path / "y.npy").status == 1
    assert (tmp_path / "y.npy").read_text() == "before"


def test_no_server_is_one_line_and_status_1(cli):
    with socket.socket() as taken:  # Bound and not listening.
        taken.bind(("127.0.0.1", 0))
        ended = cli("models", "--server", f"127.0.0.1:{taken.getsockname()[1]}")
    assert (ended.status, ended.out) == (1, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("ntm-serve: UNAVAILABLE: ")


def test_a_whole_model_directory_is_ok(cli, repository):
    ended = cli("check", repository / "copy-ff" / "1")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.endswith(f"{repository / 'copy-ff' / '1'}: ok\n")
    assert "golden run" in ended.out
    assert "at most 8 rows, as set" in ended.out


def test_a_check_measures_the_batch_where_no_setting_says_it(cli, repository):
    ended = cli("check", repository / "copy-ff" / "1", "--batch-max", "0")
    assert (ended.status, ended.err) == (0, "")
    assert re.search(r"at most \d+ rows, as measured", ended.out)
    assert re.search(r"steps a second +[\d,]+ by 1, [\d,]+ by 2, ", ended.out)


def test_a_check_of_a_model_says_which_versions_it_has(cli, repository):
    ended = cli("check", repository / "copy-ff")
    assert ended.status == 1
    assert f"which has 1: ntm-serve check {repository / 'copy-ff' / '1'}\n" in ended.err


@pytest.mark.parametrize("command", ["check", "serve"])
def test_an_execution_provider_that_is_not_installed_is_refused_with_its_package(cli, repository, command):
    where = [repository / "copy-ff" / "1"] if command == "check" else ["--models", repository]
    ended = cli(command, *where, "--execution-provider", "cuda")
    assert (ended.status, ended.out) == (1, "")
    (line,) = ended.err.splitlines()
    assert line.startswith("ntm-serve: execution_provider: expected one that is installed (cpu")
    assert "got cuda; it comes with the package onnxruntime-gpu" in line


@pytest.mark.parametrize("file", ["model.onnx", "golden.npz", "initial_state.npz", "manifest.json"])
@pytest.mark.parametrize("fault", ["flipped", "missing"])
def test_a_model_directory_with_a_fault_is_not(cli, repository, tmp_path, file, fault):
    directory = tmp_path / "copy-ff" / "1"
    shutil.copytree(repository / "copy-ff" / "1", directory)
    if fault == "flipped":
        flip(directory / file)
    else:
        (directory / file).unlink()
    ended = cli("check", directory)
    assert (ended.status, ended.out) == (1, "")
    (line,) = ended.err.splitlines()
    assert str(directory) in line


def test_the_version_is_that_of_the_package(cli):
    ended = cli("version")
    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith(f"ntm-serve {ntm_serve.__version__} (grpcio ")


@pytest.mark.parametrize(
    "words", [(), ("models",), ("sessions",), ("sessions", "show"), ("run",), ("pipe",), ("check",)]
)
def test_every_command_has_a_help_text(cli, words):
    ended = cli(*words, "--help")
    assert (ended.status, ended.err) == (0, "")
    assert "Usage: ntm-serve" in ended.out


def test_a_wrong_flag_is_status_2(cli):
    assert cli("models", "--nope").status == 2
