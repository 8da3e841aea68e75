"""A model of several inputs and outputs, with whole numbers and truths in its state, over real servers and stores."""

import numpy as np
import pytest
from serve import kinds
from serve.stores.redis_server import DURABLE, RedisServer

from ntm_serve.app import load_models
from ntm_serve.client import Client
from ntm_serve.errors import InvalidInput, SessionDiffers
from ntm_serve.testing import test_server

INPUTS = kinds.inputs_of(60)
MEMORY = np.random.default_rng(9).standard_normal((kinds.SLOTS, kinds.WIDTH)).astype(np.float32)
BEGINNINGS = [None, {"memory": MEMORY, "count": np.array([2**40], np.int64), "seen": np.ones(kinds.SLOTS, bool)}]


@pytest.fixture(autouse=True)
def clock():
    """The servers' own time, here: it is real."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    repository = tmp_path_factory.mktemp("models")
    kinds.write(repository)
    return repository


@pytest.fixture(scope="module")
def redis_server():
    server = RedisServer(*DURABLE)
    yield server
    server.remove()


@pytest.fixture(params=["none", "sqlite", "redis"])
def store(request, tmp_path):
    if request.param == "none":
        return {}
    if request.param == "sqlite":
        return {"store": f"sqlite:{tmp_path / 'sessions.db'}", "retain_steps": 100}
    server = request.getfixturevalue("redis_server")
    return {"store": server.url, "store_prefix": tmp_path.name, "retain_steps": 100}


@pytest.fixture
def serving(models):
    return lambda **settings: test_server(load_models(models, batch_max=8), **settings)


def part(begin, end):
    return {name: array[begin:end] for name, array in INPUTS.items()}


def exactly(first, second):
    return first.keys() == second.keys() and all(
        (array.dtype, array.tobytes()) == (second[name].dtype, second[name].tobytes()) for name, array in first.items()
    )


def expect_near(made, wanted):
    for name, array in wanted.items():
        assert made[name].dtype == array.dtype or array.dtype == np.float64
        if array.dtype.kind == "f":
            assert np.allclose(made[name], array, atol=1e-5)
        else:
            assert made[name].tobytes() == array.tobytes()


@pytest.mark.parametrize("begins_with", BEGINNINGS, ids=["own", "given"])
def test_it_is_what_numpy_says_and_stays_so_wherever_it_is_run(serving, store, begins_with):
    """Forked, rewound, restored, and with a store after a restart as well: the same bits."""
    wanted, after = kinds.expected(INPUTS, begins_with)
    with serving(**store) as server, Client(server.target) as client:
        session = client.session("kinds", session_id="s", initial_state=begins_with)
        began = session.state()
        assert exactly(began, kinds.INITIAL | (begins_with or {}))
        made = session.step(INPUTS)
        expect_near(made, wanted)
        left = session.state()
        expect_near(left, after)
        assert exactly({"memory": left["memory"]}, {"memory": began["memory"]})
        snapshot = session.snapshot()
        if store:
            half = session.fork("half", step=30)
            assert exactly(half.step(part(30, 60)), {name: array[30:] for name, array in made.items()})
            again = session.fork("again", step=0)
            assert exactly(again.state(), began)
            again.step(part(0, 7))
            again.rewind(0)
            assert exactly(again.step(INPUTS), made)
    with serving(**store) as server, Client(server.target) as client:
        if store:
            session = client.session("kinds", session_id="s", resume=True, initial_state=begins_with)
            assert session.next_step == 60
            assert exactly(session.state(), left)
            session.next_step = 0
            assert exactly(session.step(INPUTS), made)
            session.rewind(0)
            assert exactly(session.state(), began)
            assert exactly(session.step(part(0, 20)), {name: array[:20] for name, array in made.items()})
            with pytest.raises(SessionDiffers):
                client.session("kinds", session_id="s", resume=True, initial_state={"memory": MEMORY + 1})
        restored = client.restore(snapshot.data)
        assert exactly(restored.state(), left)
    with serving(**store) as server, Client(server.target) as client:
        if store:
            session = client.session("kinds", session_id="s", resume=True)
            assert exactly(session.step(part(20, 60)), {name: array[20:] for name, array in made.items()})


def test_roles_and_dtypes_of_its_state_are_told(serving):
    with serving() as server, Client(server.target) as client:
        model = client.model("kinds")
        assert {(one.name, one.dtype, one.shape) for one in model.state} == {
            (name, dtype, shape) for name, (dtype, shape, _) in kinds.STATE.items()
        }
        assert model.roles == tuple(role for *_, role in kinds.STATE.values())
        assert [one.name for one in model.inputs] == list(kinds.INPUTS)
        assert [one.name for one in model.outputs] == list(kinds.OUTPUTS)


def test_whole_numbers_whose_bits_are_nan_as_floats_are_finite(serving):
    with serving() as server, Client(server.target) as client:
        bits = np.array([0x7FC00000, 0x7F800001], np.int32)
        for marks in (bits, -bits, np.array([-1, -(2**31)], np.int32), np.array([2**31 - 1, 0], np.int32)):
            session = client.session("kinds", initial_state={"marks": marks, "count": np.array([-(2**63)], np.int64)})
            _, after = kinds.expected(INPUTS, {"marks": marks, "count": np.array([-(2**63)], np.int64)})
            session.step(INPUTS)
            assert session.state("marks")["marks"].tobytes() == after["marks"].tobytes()


def test_sessions_of_many_beginnings_share_a_batch_and_keep_apart(serving):
    random = np.random.default_rng(3)
    memories = {f"k{place}": random.standard_normal(MEMORY.shape).astype(np.float32) for place in range(20)}
    with serving() as server, Client(server.target) as client:
        alone = {
            key: client.session("kinds", initial_state={"memory": memory}).step(INPUTS)
            for key, memory in memories.items()
        }
        with client.group("kinds", prefix="g-", initial_state=lambda key: {"memory": memories[key]}) as group:
            together = group.step(dict.fromkeys(memories, INPUTS))
        assert all(exactly(together[key], alone[key]) for key in memories)


def test_a_reply_carries_what_is_asked_for_and_a_retry_may_ask_for_other_things(serving, store):
    with serving(**store) as server, Client(server.target) as client:
        all_of_it = client.session("kinds").step(INPUTS)
        session = client.session("kinds", session_id="s", outputs=["steps", "y"])
        assert [one.name for one in session.outputs] == ["steps", "y"]
        made = session.step(part(0, 10))
        assert list(made) == ["steps", "y"]
        ys = list(session.stream((part(at, at + 5) for at in range(10, 30, 5)), steps_per_message=5))
        assert all(list(y) == ["steps", "y"] for y in ys)
        session.next_step = 0
        scores = session.step(part(0, 10), outputs=["scores"])
        assert scores.tobytes() == all_of_it["scores"][:10].tobytes()
        session.next_step = 10
        again = [session.step(part(at, at + 5), outputs=[]) for at in range(10, 30, 5)]
        for name, array in all_of_it.items():
            assert np.concatenate([one[name] for one in again]).tobytes() == array[10:30].tobytes()
        for name in ("steps", "y"):
            assert np.concatenate([y[name] for y in ys]).tobytes() == all_of_it[name][10:30].tobytes()
        with pytest.raises(InvalidInput, match=r"output_names: expected some of \['y', 'scores', 'steps'\]"):
            session.step(part(30, 31), outputs=["z"])
        assert session.step(part(30, 60))["y"].tobytes() == all_of_it["y"][30:].tobytes()


def test_a_group_asks_for_some_outputs_too(serving):
    with serving() as server, Client(server.target) as client:
        wanted = client.session("kinds").step(INPUTS)["steps"]
        with client.group("kinds", outputs=["steps"]) as group:
            keys = ["a", "b"]
            assert all(
                array.tobytes() == wanted.tobytes() for array in group.step(dict.fromkeys(keys, INPUTS)).values()
            )
        with client.group("kinds", outputs=["steps"]) as group:
            row = {name: np.stack([array[0]] * 2) for name, array in INPUTS.items()}
            answers = group.step_rows(keys, row)
            assert list(answers.outputs) == ["steps"]
            assert answers.outputs["steps"].tolist() == [[int(wanted[0, 0])]] * 2


def test_outputs_may_overflow_where_the_state_does_not(serving):
    with serving() as server, Client(server.target) as client:
        huge = np.full(MEMORY.shape, 3e38, np.float32)
        session = client.session("kinds", initial_state={"memory": huge})
        made = session.step({"x": np.full(3, 9, np.float32), "reset": np.zeros(1, bool)})
        assert np.isinf(made["scores"]).all()
        assert np.isnan(made["y"]).all()
        assert session.info().next_step == 1
        assert session.state("seen")["seen"].all()
