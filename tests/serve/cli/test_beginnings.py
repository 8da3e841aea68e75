"""`--initial-state` and `--output-name` of the commands that open sessions."""

import json

import numpy as np
import pytest
from serve import kinds, slots

from ntm_serve.app import load_models
from ntm_serve.client import Client
from ntm_serve.testing import test_server

INPUTS = kinds.inputs_of(12)
MEMORY = np.random.default_rng(5).standard_normal((kinds.SLOTS, kinds.WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    repository = tmp_path_factory.mktemp("models")
    kinds.write(repository)
    slots.write(repository)
    with test_server(load_models(repository, batch_max=8)) as running:
        yield running


@pytest.fixture
def client(server):
    with Client(server.target) as client:
        yield client


@pytest.fixture
def wanted(client):
    with client.session("kinds", initial_state={"memory": MEMORY}) as session:
        return session.step(INPUTS)


@pytest.fixture
def files(tmp_path):
    np.savez(tmp_path / "x.npz", **INPUTS)
    np.savez(tmp_path / "begin.npz", memory=MEMORY)
    lines = [
        {"id": "a", "x": x.tolist(), "reset": reset.tolist()}
        for x, reset in zip(INPUTS["x"], INPUTS["reset"], strict=True)
    ]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


@pytest.fixture
def run(cli, server, files):
    def run(*arguments, x="x.npz", y="y.npz"):
        return cli("run", "kinds", "--server", server.target, "-i", files / x, "-o", files / y, *arguments)

    return run


def test_a_run_begins_with_the_state_of_a_file(run, files, wanted):
    assert run("--initial-state", files / "begin.npz").status == 0
    with np.load(files / "y.npz") as made:
        assert {name: made[name].tobytes() for name in made.files} == {n: a.tobytes() for n, a in wanted.items()}


def test_a_run_asks_for_some_outputs(run, files, wanted):
    ran = run("--initial-state", files / "begin.npz", "--output-name", "steps", "--output-name", "y")
    assert ran.status == 0
    with np.load(files / "y.npz") as made:
        assert made.files == ["steps", "y"]
        assert made["steps"].tobytes() == wanted["steps"].tobytes()
    assert run("--initial-state", files / "begin.npz", "--output-name", "y", y="y.npy").status == 0
    assert np.load(files / "y.npy").tobytes() == wanted["y"].tobytes()


def test_a_named_session_goes_on_with_its_own_beginning_and_no_other(cli, run, files, server, client):
    for step in (0, 12):
        ran = run("--initial-state", files / "begin.npz", "--session-id", "named")
        assert ran.status == 0
        assert ("is new" if step == 0 else "goes on at step 12") in ran.out
    shown = cli("sessions", "show", "named", "--server", server.target).out.splitlines()
    (digest,) = [line.split()[-1] for line in shown if line.startswith("initial state digest ")]
    assert digest == client.session_info("named").initial_state_digest
    np.savez(files / "begin.npz", memory=MEMORY + 1)
    ran = run("--initial-state", files / "begin.npz", "--session-id", "named")
    assert ran.status == 1
    assert ran.err.startswith(
        "ntm-serve: session named: cannot be resumed with this initial_state: it began with sha256"
    )
    assert client.session_info("named").next_step == 24
    client.close_session("named")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "begin.npz: expected an .npz file with state tensors by name, got: "),
        (b"no archive", "begin.npz: expected an .npz file with state tensors by name, got: "),
        ({"memory": MEMORY[0]}, "initial_state: memory: expected float32[4, 3], got float32[3]"),
        ({"memories": MEMORY}, "initial_state: expected some of ['memory', 'count', 'seen', 'marks'], the state of"),
    ],
)
def test_a_file_that_is_no_state_is_told_in_one_line(run, files, client, content, told):
    begin = files / "begin.npz"
    begin.unlink()
    if isinstance(content, dict):
        np.savez(begin, **content)
    elif content is not None:
        begin.write_bytes(content)
    ran = run("--initial-state", begin)
    assert ran.status == 1
    assert told in ran.err
    assert len(ran.err.splitlines()) == 1
    assert list(client.sessions()) == []
    assert not (files / "y.npz").exists()


def test_an_output_that_there_is_not_is_refused_before_a_session_is_opened(run, client):
    ran = run("--output-name", "z")
    assert (ran.status, ran.err) == (
        1,
        "ntm-serve: output-name: expected some of ['y', 'scores', 'steps'], got ['z']\n",
    )
    assert list(client.sessions()) == []


def test_pipe_begins_its_sessions_with_the_state_of_a_file_and_asks_for_some_outputs(cli, files, server, wanted):
    begun = ("pipe", "kinds", "-k", "id", "--server", server.target, "--initial-state", files / "begin.npz")
    whole = ("-i", files / "x.jsonl", "--close")
    assert cli(*begun, *whole, "-o", files / "all.jsonl").status == 0
    lines = [json.loads(line) for line in (files / "all.jsonl").read_text().splitlines()]
    for name, array in wanted.items():
        assert np.array([line["outputs"][name] for line in lines], array.dtype).tobytes() == array.tobytes()
    assert cli(*begun, *whole, "-o", files / "some.csv", "--output-name", "steps").status == 0
    header, *rows = (files / "some.csv").read_text().splitlines()
    assert header == "line,key,step,steps,error"
    assert [int(row.split(",")[3]) for row in rows] == wanted["steps"].ravel().tolist()
    refused = cli(*begun, *whole, "-o", files / "none.csv", "--output-name", "z")
    assert refused.err == "ntm-serve: output-name: expected some of ['y', 'scores', 'steps'], got ['z']\n"


def test_a_run_that_is_resumed_asks_for_the_same_outputs(cli, files, server, client):
    lines = (files / "x.jsonl").read_text().splitlines(keepends=True)
    (files / "x.jsonl").write_text("".join([*lines[:6], "no event\n", *lines[6:]]))
    begun = (
        "pipe", "kinds", "-k", "id", "--server", server.target, "-i", files / "x.jsonl", "-o", files / "y.jsonl",
        "--initial-state", files / "begin.npz",
    )  # fmt: skip
    assert cli(*begun, "--output-name", "steps").status == 1
    (files / "x.jsonl").write_text("".join(lines))
    refused = cli(*begun, "--output-name", "y", "--resume")
    assert refused.status == 1
    assert "resume: expected the run to be of" in refused.err
    assert cli(*begun, "--output-name", "steps", "--resume", "--close").status == 0
    made = [json.loads(line)["outputs"]["steps"] for line in (files / "y.jsonl").read_text().splitlines()]
    with client.session("kinds", initial_state={"memory": MEMORY}) as session:
        assert made == session.step(INPUTS)["steps"].tolist()


def test_sessions_have_the_slots_that_a_command_says(cli, tmp_path, server, client):
    np.save(tmp_path / "x.npy", xs := slots.inputs_of(6)["x"])
    asked = ("--server", server.target, "-i", tmp_path / "x.npy", "-o", tmp_path / "y.npy")
    assert cli("run", "slots", *asked, "--size", "slots=7").status == 0
    with client.session("slots", sizes={"slots": 7}) as session:
        assert np.load(tmp_path / "y.npy").tobytes() == session.step(xs).tobytes()
    for word, told in (
        ("slots", "size: expected AXIS=SIZE, as slots=30, got 'slots'"),
        ("slots=many", "size: expected AXIS=SIZE, as slots=30, got 'slots=many'"),
        ("slots=99", "sizes: slots: expected 1 to 12, got 99"),
    ):
        refused = cli("run", "slots", *asked, "--size", word)
        assert (refused.status, refused.err) == (1, f"ntm-serve: {told}\n")
    shown = cli("models", "slots", "--server", server.target).out
    assert "slots 4 (1 to 12)" in shown
