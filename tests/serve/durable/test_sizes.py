"""Sessions that choose the number of their slots, over real servers and stores: each is what it would be alone."""

import contextlib
import json
import sqlite3
from urllib.request import urlopen

import numpy as np
import pytest
from serve import slots
from serve.stores.redis_server import DURABLE, RedisServer

from ntm_serve.app import load_models
from ntm_serve.client import Client
from ntm_serve.errors import InvalidInput, LimitReached, SessionDiffers, SessionExists, SnapshotRejected, StoreDamaged
from ntm_serve.http.api import PATH
from ntm_serve.testing import test_server

XS = slots.inputs_of(40)["x"]
SIZES = [1, 2, 3, slots.OWN, 7, slots.MOST]


@pytest.fixture(autouse=True)
def clock():
    """The servers' own time, here: it is real."""


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    repository = tmp_path_factory.mktemp("models")
    slots.write(repository)
    return repository


@pytest.fixture(scope="module")
def redis_server():
    server = RedisServer(*DURABLE)
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "redis"])
def store(request, tmp_path):
    if request.param == "sqlite":
        return {"store": f"sqlite:{tmp_path / 'sessions.db'}", "retain_steps": 100}
    server = request.getfixturevalue("redis_server")
    return {"store": server.url, "store_prefix": tmp_path.name, "retain_steps": 100}


@pytest.fixture
def serving(models):
    return lambda **settings: test_server(load_models(models, batch_max=8), **settings)


def opened(client, size, **more):
    return client.session("slots", sizes={"slots": size}, **more)


def state_bytes(size):
    return 4 * (size * slots.WIDTH + size + size * size)


def test_a_session_has_the_slots_that_it_chose_and_steps_with_them(serving):
    with serving() as server, Client(server.target) as client:
        model = client.model("slots")
        [axis] = model.axes
        assert (axis.name, axis.size, axis.size_min, axis.size_max) == ("slots", slots.OWN, 1, slots.MOST)
        assert {one.name: one.axes for one in model.state} == slots.AXES_OF
        for size in SIZES:
            session = opened(client, size)
            began = session.state()
            assert {name: array.tobytes() for name, array in began.items()} == {
                name: array.tobytes() for name, array in slots.initial(size).items()
            }
            wanted, after = slots.expected(XS, slots.initial(size))
            assert np.allclose(session.step(XS), wanted, atol=1e-4)
            for name, array in session.state().items():
                assert np.allclose(array, after[name], atol=1e-4)
            info = session.info()
            assert info.sizes == ({} if size == slots.OWN else {"slots": size})
            assert info.state_bytes == state_bytes(size)
        assert client.model("slots").sessions == len(SIZES)


def test_a_state_of_its_own_is_of_the_size_that_is_chosen(serving):
    memory = np.random.default_rng(1).standard_normal((7, slots.WIDTH)).astype(np.float32)
    with serving() as server, Client(server.target) as client:
        session = opened(client, 7, initial_state={"memory": memory})
        wanted, _ = slots.expected(XS, slots.initial(7) | {"memory": memory})
        assert np.allclose(session.step(XS), wanted, atol=1e-4)
        for size in (slots.OWN, 6):
            with pytest.raises(InvalidInput, match=rf"memory: expected float32\[{size}, 3\], got float32\[7, 3\]"):
                opened(client, size, initial_state={"memory": memory})


def test_sessions_of_many_sizes_in_one_message_are_what_each_is_alone(serving):
    """Their steps ride with those of their own size: not a bit differs."""
    random = np.random.default_rng(2)
    with serving() as server, Client(server.target) as client:
        keys = {f"k{number}": SIZES[number % len(SIZES)] for number in range(30)}
        inputs = {key: random.standard_normal((12, slots.WIDTH)).astype(np.float32) for key in keys}
        alone = {key: opened(client, size).step(inputs[key]) for key, size in keys.items()}
        for key, size in keys.items():
            opened(client, size, session_id=f"g-{key}")
        group = client.group("slots", prefix="g-")
        for at in range(0, 12, 3):
            made = group.step({key: x[at : at + 3] for key, x in inputs.items()})
            for key, y in made.items():
                assert y.tobytes() == alone[key][at : at + 3].tobytes()
        ours = [info for info in client.sessions() if info.session_id.startswith("g-")]
        assert {info.session_id: info.sizes.get("slots", slots.OWN) for info in ours} == {
            f"g-{key}": size for key, size in keys.items()
        }


def test_it_comes_back_forks_and_rewinds_with_its_slots(serving, store):
    with serving(**store) as server, Client(server.target) as client:
        made, left, snapshots = {}, {}, {}
        for size in SIZES:
            session = opened(client, size, session_id=f"s{size}")
            made[size] = session.step(XS)
            left[size] = session.state()
            snapshots[size] = session.snapshot().data
            fork = session.fork(f"f{size}", step=20)
            assert fork.step(XS[20:]).tobytes() == made[size][20:].tobytes()
    with serving(**store) as server, Client(server.target) as client:
        sizes = {info.session_id: (info.sizes, info.state_bytes) for info in client.sessions()}
        for size in SIZES:
            chosen = {} if size == slots.OWN else {"slots": size}
            assert sizes[f"s{size}"] == sizes[f"f{size}"] == (chosen, state_bytes(size))
            session = opened(client, size, session_id=f"s{size}", resume=True)
            assert session.state()["link"].tobytes() == left[size]["link"].tobytes()
            session.next_step = 0
            assert session.step(XS).tobytes() == made[size].tobytes()
            session.rewind(0)
            assert session.state()["memory"].tobytes() == slots.initial(size)["memory"].tobytes()
            assert session.step(XS[:30]).tobytes() == made[size][:30].tobytes()
    with serving(**store) as server, Client(server.target) as client:
        for size in SIZES:
            session = client.session("slots", session_id=f"s{size}", resume=True)
            assert session.step(XS[30:]).tobytes() == made[size][30:].tobytes()
            restored = client.restore(snapshots[size])
            assert restored.state()["memory"].tobytes() == left[size]["memory"].tobytes()
            assert restored.info().sizes == ({} if size == slots.OWN else {"slots": size})
            one = restored.step(XS[0])
            assert one.tobytes() == client.session("slots", session_id=f"f{size}", resume=True).step(XS[0]).tobytes()


def test_resuming_with_other_sizes_is_refused(serving, store):
    with serving(**store) as server, Client(server.target) as client:
        opened(client, 7, session_id="seven").step(XS[:3])
        client.session("slots", session_id="own").step(XS[:3])
    with serving(**store) as server, Client(server.target) as client:
        for name, same, others in (
            ("seven", [{"slots": 7}, {}], [2, slots.OWN]),
            ("own", [{"slots": slots.OWN}, {}], [7]),
        ):
            for sizes in same:
                assert client.session("slots", session_id=name, resume=True, sizes=sizes).next_step == 3
            for other in others:
                with pytest.raises(SessionDiffers, match=rf"session {name}: cannot be resumed with sizes"):
                    opened(client, other, session_id=name, resume=True)


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ({"slots": 0}, "sizes: slots: expected 1 to 12, got 0"),
        ({"slots": 13}, "sizes: slots: expected 1 to 12, got 13"),
        ({"slots": -1}, "sizes: slots: expected 1 to 12, got -1"),
        ({"slots": 1 << 40}, "sizes: slots: expected one that fits into 32 bits, got"),
        ({"width": 3}, r"sizes: expected some of \['slots'\], .* got 'width'"),
        ({"slots": 2.5}, "sizes: expected whole numbers by name"),
        ([7], "sizes: expected whole numbers by name"),
    ],
)
def test_sizes_that_there_are_not_are_refused_and_open_nothing(serving, sizes, told):
    with serving() as server, Client(server.target) as client:
        with pytest.raises(InvalidInput, match=told):
            client.session("slots", sizes=sizes)
        assert list(client.sessions()) == []


def test_so_many_sizes_at_once_and_no_more(serving):
    with serving(model_sizes_max=2) as server, Client(server.target, retry=None) as client:
        for size in (1, 2, slots.OWN, 2, 1):
            opened(client, size)
        with pytest.raises(LimitReached, match="sizes: expected at most 2 beside its own of model slots/1 at once"):
            opened(client, 3)
        opened(client, 2).step(XS)


def test_sizes_that_nobody_has_any_more_make_room(serving, tmp_path):
    settings = {"model_sizes_max": 2, "store": f"sqlite:{tmp_path / 'sessions.db'}"}
    with serving(**settings) as server, Client(server.target, retry=None) as client:
        kept = opened(client, 1)
        wanted = kept.step(XS)
        for size in (2, 3, 5, 6, 7, 2):
            opened(client, size).close()
            kept.step(XS)
        kept.rewind(0)
        assert kept.step(XS).tobytes() == wanted.tobytes()
        opened(client, 2)
        with pytest.raises(LimitReached, match="those of which no session is in memory make room"):
            opened(client, 3)


def test_sessions_come_back_whatever_the_limit(serving, store):
    """As to a server that takes over what two others had."""
    with serving(**store) as server, Client(server.target) as client:
        made = {size: opened(client, size, session_id=f"s{size}").step(XS) for size in SIZES}
    with serving(model_sizes_max=1, **store) as server, Client(server.target, retry=None) as client:
        for size in SIZES:
            session = client.session("slots", session_id=f"s{size}", resume=True)
            session.next_step = 0
            assert session.step(XS).tobytes() == made[size].tobytes()
        with pytest.raises(LimitReached):
            opened(client, 11)


def test_two_servers_hand_a_session_to_each_other(serving, redis_server, tmp_path):
    """Neither has made the other's sizes before; one session made no step yet."""
    shared = {"store": redis_server.url, "store_prefix": tmp_path.name}
    memory = {"memory": np.random.default_rng(3).standard_normal((7, slots.WIDTH)).astype(np.float32)}
    with serving() as server, Client(server.target) as client:
        wanted = opened(client, 7, initial_state=memory).step(XS)
    with serving(**shared) as a, serving(**shared) as b, Client(a.target) as at_a, Client(b.target) as at_b:
        opened(at_a, 7, session_id="s", initial_state=memory)
        for at, client in zip(range(0, 40, 8), [at_b, at_a, at_b, at_a, at_b], strict=True):
            session = opened(client, 7, session_id="s", resume=True, initial_state=memory)
            assert session.step(XS[at : at + 8]).tobytes() == wanted[at : at + 8].tobytes()
        assert at_a.session("slots", session_id="s", resume=True).state()["link"].shape == (7, 7)


def test_for_a_session_that_there_is_no_room_for_nothing_is_made(serving):
    with serving(sessions_max=2) as server, Client(server.target, retry=None) as client:
        snapshot = opened(client, 7, session_id="seven").snapshot().data
        with pytest.raises(SessionExists):
            opened(client, 2, session_id="seven")
        client.session("slots")
        for refused in (lambda: opened(client, 3), lambda: client.restore(snapshot.replace(b"[7", b"[5"))):
            with pytest.raises((LimitReached, SnapshotRejected)):
                refused()
        [scheduler] = server.running.service._schedulers.values()
        assert [one.model.spec.axes[0].size for one in scheduler.sized_alike] == [slots.OWN, 7]


def test_resuming_asks_for_no_size_that_there_is_not_yet(serving):
    with serving(model_sizes_max=1) as server, Client(server.target, retry=None) as client:
        opened(client, 7, session_id="seven").step(XS[:3])
        for _ in range(2):
            with pytest.raises(SessionDiffers):
                opened(client, 2, session_id="seven", resume=True)
        assert opened(client, 7, session_id="seven", resume=True).next_step == 3


def test_a_session_of_an_older_version_is_resumed_as_that_says(tmp_path, store):
    """The newer one lets nobody choose, and its state has other shapes."""
    slots.write(tmp_path / "models")
    given = {"memory": np.ones((7, slots.WIDTH), np.float32)}
    with test_server(load_models(tmp_path / "models", batch_max=8), **store) as server, Client(server.target) as client:
        opened(client, 7, session_id="seven", initial_state=given).step(XS[:3])
    slots.write(tmp_path / "models", version="2", axes={}, axes_of={})
    with test_server(load_models(tmp_path / "models", batch_max=8), **store) as server, Client(server.target) as client:
        assert client.model("slots").version == "2"
        for more in (
            {"sizes": {"slots": 7}},
            {"initial_state": given},
            {"sizes": {"slots": 7}, "initial_state": given},
        ):
            session = client.session("slots", session_id="seven", resume=True, **more)
            assert (session.version, session.next_step) == ("1", 3)
        with pytest.raises(SessionDiffers):
            client.session("slots", session_id="seven", resume=True, sizes={"slots": 2})
        with pytest.raises(InvalidInput, match=r"sizes: expected some of \[\]"):
            client.session("slots", session_id="new", resume=True, sizes={"slots": 7})


def test_states_make_room_by_their_own_bytes(serving, tmp_path):
    room = 3 * state_bytes(slots.MOST)
    settings = {"resident_bytes_max": room, "store": f"sqlite:{tmp_path / 'sessions.db'}"}
    with serving(**settings) as server, Client(server.target) as client:
        sessions = [opened(client, size) for size in [slots.MOST, 1, 2] * 8]
        resident = [info for info in client.sessions() if info.resident]
        assert 0 < sum(info.state_bytes for info in resident) <= room
        for session in sessions:
            session.step(XS[0])


def test_a_snapshot_of_slots_that_no_session_may_have_is_rejected(tmp_path):
    slots.write(tmp_path / "wide")
    with test_server(load_models(tmp_path / "wide", batch_max=8)) as server, Client(server.target) as client:
        data = opened(client, 7).snapshot().data
        cut = data.replace(b'"shape": [7, 3]', b'"shape": [3, 7]')
        with pytest.raises(SnapshotRejected):
            client.restore(cut)


@pytest.mark.parametrize("junk", [b"{", b"[]", b'{"sizes": 7}', b'{"sizes": {"slots": "many"}}'])
def test_one_whose_options_are_damaged_is_refused_by_name_and_listed_with_the_others(serving, tmp_path, junk):
    path = tmp_path / "sessions.db"
    with serving(store=f"sqlite:{path}") as server, Client(server.target) as client:
        for name in ("good", "bad"):
            opened(client, 7, session_id=name).step(XS[:3])
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE sessions SET options = ? WHERE session_id = 'bad'", (junk,))
    with serving(store=f"sqlite:{path}") as server, Client(server.target, retry=None) as client:
        assert [info.session_id for info in client.sessions()] == ["bad", "good"]
        with urlopen(f"{server.http}{PATH}/sessions?sort=-bytes") as answer:
            assert len(json.load(answer)["sessions"]) == 2
        with pytest.raises(StoreDamaged, match="session bad: options: expected"):
            client.session("slots", session_id="bad", resume=True)
        assert opened(client, 7, session_id="good", resume=True).step(XS[3:]).shape == (37, slots.WIDTH)


def test_whoever_watches_sees_the_slots_that_there_are(serving, store):
    """Of a session in memory, and of one that the store has alone."""
    with serving(**store) as server, Client(server.target) as client:
        session = opened(client, 7, session_id="s")
        session.step(XS[:3])
        frame = next(client.watch("s"))
        assert (frame.resident, frame.state["link"].array.shape) == (True, (7, 7))
    with serving(**store) as server, Client(server.target) as client:
        frame = next(client.watch("s"))
        assert (frame.resident, frame.state["memory"].array.shape) == (False, (7, slots.WIDTH))


def test_lists_are_in_the_order_of_their_own_bytes(serving, store):
    """Those in memory and those of the store."""
    with serving(**store) as server, Client(server.target) as client:
        for size in SIZES:
            opened(client, size, session_id=f"s{size}").step(XS[:3])
    with serving(**store) as server, Client(server.target) as client:
        client.session("slots", session_id="s7", resume=True).step(XS[3])
        with urlopen(f"{server.http}{PATH}/sessions?sort=-bytes") as answer:
            listed = json.load(answer)["sessions"]
        assert [one["session_id"] for one in listed] == [f"s{size}" for size in sorted(SIZES, reverse=True)]
        assert [one["state_bytes"] for one in listed] == [state_bytes(size) for size in sorted(SIZES, reverse=True)]
