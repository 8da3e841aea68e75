"""Commands on sessions: snapshot, restore, fork, rewind; and verify, which needs no server."""

import sqlite3

import numpy as np
import pytest

from ntm_serve.client import Client
from ntm_serve.errors import StoreDamaged

X = np.ones((5, 9), np.float32)


@pytest.fixture
def store(tmp_path):
    return f"sqlite:{tmp_path}/sessions.db"


@pytest.fixture
def stored(serve, repository, store):
    """A server with a store, and a client of it."""
    settings = ("--models", str(repository), "--port", "0", "--http-port", "0", "--snapshot-steps", "4")
    server = serve(*settings, "--store", store)
    with Client(server.target) as client:
        yield server, client


def test_a_session_is_written_to_a_file_and_restored_from_it(cli, served, tmp_path):
    with Client(served.target) as client:
        session = client.session("copy-ff")
        session.step(X)
        file = tmp_path / "state"
        written = cli("sessions", "snapshot", session.id, "-o", file)
        size = f"{file.stat().st_size:,}"
        assert written.out == f"session {session.id}: state before step 5 to {file}, {size} bytes\n"
        assert cli("sessions", "restore", file, "--session-id", "restored").out == (
            "session restored: opened at step 5\n"
        )
        again = client.session("copy-ff", session_id="restored", resume=True)
        assert again.step(X).tobytes() == session.step(X).tobytes()
        assert [path.name for path in tmp_path.iterdir()] == ["state"], "nothing is left beside it"
        again.close()


def test_a_session_is_forked(cli, served):
    with Client(served.target) as client:
        session = client.session("copy-ff")
        session.step(X)
        forked = cli("sessions", "fork", session.id, "the-fork")
        assert forked.out == f"session the-fork: forked from {session.id} at step 5\n"
        refused = cli("sessions", "fork", session.id, "another", "--step", "2")
        assert (refused.status, refused.out) == (1, "")
        assert "expected a step from 5 to 5, got 2: it lives in memory alone" in refused.err
        client.close_session("the-fork")


def test_a_session_is_rewound(cli, stored):
    server, client = stored
    session = client.session("copy-ff")
    first = session.step(X)
    rewound = cli("sessions", "rewind", session.id, "0", "--server", server.target)
    assert rewound.out == f"session {session.id}: rewound, its next step is 0\n"
    again = client.session("copy-ff", session_id=session.id, resume=True)
    assert again.step(X).tobytes() == first.tobytes()


def test_a_file_that_is_not_there_is_named(cli, tmp_path):
    ended = cli("sessions", "restore", tmp_path / "nothing")
    assert ended.status == 1
    assert (
        ended.err == f"ntm-serve: {tmp_path}/nothing: expected a file that can be read, got No such file or directory\n"
    )


def test_a_store_that_is_well_is_said_to_be_so(cli, stored, store, repository):
    server, client = stored
    for number in range(3):
        session = client.session("copy-ff", session_id=f"s{number}")
        for _ in range(3):
            session.step(X)
    server.process.kill()
    server.process.wait()
    assert cli("sessions", "verify", store).out == f"{store}: 3 sessions, 0 with a fault\n"
    ended = cli("sessions", "verify", store, "--models", repository, "--replay")
    assert (ended.status, ended.out.splitlines()[-1]) == (0, f"{store}: 3 sessions, 0 with a fault, 45 steps run again")


def test_a_session_that_began_with_a_state_of_its_own_outlives_kill_9_and_is_well(
    cli, serve, stored, store, repository
):
    server, client = stored
    memory = np.random.default_rng(1).normal(size=(128, 20)).astype(np.float32)
    session = client.session("copy-ff", session_id="s", initial_state={"memory": memory})
    made = [session.step(x) for x in X]
    server.process.kill()
    server.process.wait()
    ended = cli("sessions", "verify", store, "--models", repository, "--replay")
    assert (ended.status, ended.out.splitlines()[-1]) == (0, f"{store}: 1 sessions, 0 with a fault, 5 steps run again")
    again = serve("--models", str(repository), "--port", "0", "--http-port", "0", "--store", store)
    with Client(again.target) as client:
        session = client.session("copy-ff", session_id="s", resume=True, initial_state={"memory": memory})
        assert session.next_step == 5
        session.rewind(0)
        assert session.state("memory")["memory"].tobytes() == memory.tobytes()
        assert np.stack(made).tobytes() == session.step(X).tobytes()


def test_a_store_is_verified_session_by_session(cli, serve, stored, store, repository, tmp_path):
    server, client = stored
    for number in range(3):
        client.session("copy-ff", session_id=f"s{number}").step(X[:2])
    server.process.kill()
    server.process.wait()
    file = sqlite3.connect(tmp_path / "sessions.db")
    [(payload,)] = file.execute("SELECT payload FROM records WHERE session = 2").fetchall()
    payload = payload[:-3] + bytes([payload[-3] ^ 1]) + payload[-2:]
    file.execute("UPDATE records SET payload = ? WHERE session = 2", (payload,))
    file.commit()
    file.close()
    ended = cli("sessions", "verify", store)
    assert ended.status == 1
    _, fault, total = ended.out.splitlines()
    assert fault.split(maxsplit=2)[:2] == ["s1", "2"]
    assert "session s1: record of steps 0 to 2: expected checksum" in fault
    assert total == f"{store}: 3 sessions, 1 with a fault"
    # And a server that has the store answers the others.
    again = serve("--models", str(repository), "--port", "0", "--http-port", "0", "--store", store)
    with Client(again.target) as client:
        assert client.session("copy-ff", session_id="s0", resume=True).next_step == 2
        with pytest.raises(StoreDamaged, match="session s1: record of steps 0 to 2"):
            client.session("copy-ff", session_id="s1", resume=True)


def test_what_cannot_be_verified_is_named(cli, tmp_path):
    assert "expected a file at" in cli("sessions", "verify", f"sqlite:{tmp_path}/none.db").err
    assert not list(tmp_path.iterdir()), "asking makes no store"
    assert "expected sqlite:PATH, redis://" in cli("sessions", "verify", "postgres:x").err
    assert "expected --models as well" in cli("sessions", "verify", f"sqlite:{tmp_path}/x", "--replay").err
