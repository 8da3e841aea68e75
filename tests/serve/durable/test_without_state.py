"""Sessions of a model without state, over a real server and a real store: a number of steps and a reply window."""

import numpy as np
import pytest

from ntm_serve.client import Client
from ntm_serve.errors import StepConflict
from ntm_serve.testing import Doubling, RunningSum, test_server


@pytest.fixture(autouse=True)
def clock():
    """The servers' own time, here: it is real."""


@pytest.fixture(params=["memory", "sqlite"])
def store(request, tmp_path):
    return "" if request.param == "memory" else f"sqlite:{tmp_path}/sessions.db"


@pytest.fixture
def client(store):
    with test_server([Doubling(), RunningSum()], store=store) as server, Client(server.target) as client:
        yield client


def test_it_is_stepped_like_any_other(client):
    session = client.session("doubling")
    assert session.step([3]).tolist() == [6]
    assert session.step([[1], [2]]).tolist() == [[2], [4]]
    assert [y.tolist() for y in session.stream([[5], [6]])] == [[10], [12]]
    assert session.next_step == 5
    assert session.state("*") == {}
    [info] = client.sessions()
    assert (info.model, info.state_bytes, info.next_step) == ("doubling", 0, 5)


def test_its_model_says_that_there_is_no_state(client):
    model = client.model("doubling")
    assert (model.state, model.state_bytes, model.ready) == ((), 0, True)


def test_a_step_that_is_sent_again_is_answered_from_the_window(client):
    session = client.session("doubling")
    session.step([[1], [2]])
    session.next_step = 0
    assert session.step([[1], [2]]).tolist() == [[2], [4]]
    session.next_step = 0
    with pytest.raises(StepConflict):
        session.step([[9], [2]])


def test_it_is_forked_taken_back_and_restored(client):
    session = client.session("doubling")
    session.step([[1], [2], [3]])
    assert session.fork().step([4]).tolist() == [8]
    snapshot = session.snapshot()
    restored = client.restore(snapshot.data)
    assert restored.next_step == 3
    assert restored.step([7]).tolist() == [14]


def test_groups_step_many_at_once(client):
    with client.group("doubling") as group:
        assert {key: y.tolist() for key, y in group.step({"a": [1], "b": [2]}).items()} == {"a": [2], "b": [4]}


def test_it_comes_back_with_its_number_after_a_restart(tmp_path):
    store = f"sqlite:{tmp_path}/sessions.db"
    xs = np.arange(700, dtype=np.float32)[:, np.newaxis]
    with test_server([Doubling()], store=store) as server, Client(server.target) as client:
        client.session("doubling", session_id="s").step(xs)
    with test_server([Doubling()], store=store) as server, Client(server.target) as client:
        session = client.session("doubling", session_id="s", resume=True)
        assert session.next_step == 700
        assert session.step([4]).tolist() == [8]
