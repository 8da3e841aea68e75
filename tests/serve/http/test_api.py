"""The API of the page over a real socket: what it says is what gRPC says, and it changes nothing unless it may."""

import base64
import contextlib
import io
import json
import socket

import httpx
import numpy as np
import pytest
from serve.stopping import stopping

from ntm_serve.client import Client
from ntm_serve.errors import InvalidInput
from ntm_serve.http.forms import arrays_of
from ntm_serve.spec import TensorSpec
from ntm_serve.testing import RunningSum, test_server

WAIT_S = 20.0


@contextlib.contextmanager
def serving(*models, **settings):
    """A server, a client of it, and HTTP to its API."""
    with (
        test_server(list(models) or [RunningSum()], **settings) as server,
        Client(server.target) as client,
        httpx.Client(base_url=f"{server.http}/api/v1", timeout=WAIT_S) as api,
    ):
        yield server, client, api


@pytest.fixture
def it():
    with serving() as parts:
        yield parts


@pytest.fixture
def writing():
    with serving(inspector="write") as parts:
        yield parts


def refusal(answer):
    """(status, reason) of an answer that is an error in the form that all have."""
    error = answer.json()["error"]
    assert set(error) == {"status", "code", "reason", "message", "fields", "retry_after_s"}
    assert error["status"] == answer.status_code
    return answer.status_code, error["reason"]


def array_of(picture):
    """What a page draws."""
    return np.frombuffer(base64.b64decode(picture["data"]), "<f4").reshape(picture["shape"])


class Events:
    """The events of a watch, one at a time."""

    def __init__(self, response):
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        self._parts = response.iter_text()
        self._text = ""

    def next(self):
        """(name, data), or None at the end."""
        while "\n\n" not in self._text:
            part = next(self._parts, None)
            if part is None:
                return None
            self._text += part
        one, self._text = self._text.split("\n\n", 1)
        name, data = one.split("\n")
        return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


@contextlib.contextmanager
def watching(api, session_id, **asked):
    with api.stream("GET", f"/sessions/{session_id}/watch", params=asked) as response:
        yield Events(response)


def test_the_server_says_what_a_page_must_know(it):
    _, _, api = it
    answer = api.get("/server")
    told = answer.json()
    assert (told["api_version"], told["access"], told["ready"], told["writes_allowed"]) == (1, "open", True, False)
    assert told["caller"]["tenant"] == ""
    assert told["durability"] == "memory"
    assert told["limits"]["frames_per_s_max"] == 30.0
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_server_that_stops_says_so():
    with stopping() as held:
        told = httpx.get(f"{held.server.http}/api/v1/server").json()
        assert told["ready"] is False
        answer = httpx.get(f"{held.server.http}/api/v1/sessions/held/watch")
        assert refusal(answer) == (503, "DRAINING")


def test_models_are_those_of_grpc(it):
    _, client, api = it
    client.session("running-sum")
    (told,) = api.get("/models").json()["models"]
    info = client.model("running-sum")
    assert (told["name"], told["version"], told["family"], told["state_bytes"]) == (
        info.name, info.version, info.family, info.state_bytes,
    )  # fmt: skip
    assert told["state"] == [
        {"name": "total", "dtype": "float32", "shape": [1], "role": "memory", "axes": [], "range": None}
    ]
    assert told["batch_independence"] == {"holds": True, "padding": 1, "rows_tested": 64}
    assert told["sessions"] == 1


def test_a_models_points_are_made_of_what_it_did(it, monkeypatch):
    monkeypatch.setattr("ntm_serve.app.INTERVAL_S", 0.05)
    with serving() as (_, client, api):
        session = client.session("running-sum")
        while True:
            session.step([1])
            (told,) = api.get("/models").json()["models"]
            if any(point["steps_per_s"] > 0 and point["latency_p99_s"] for point in told["series"]):
                break
        assert told["steps"] == session.next_step


def test_sessions_are_found_by_the_beginning_of_their_ids_and_by_their_model():
    with serving(RunningSum(), RunningSum(name="other")) as (_, client, api):
        for name in ("pump-1", "pump-2", "fan-1"):
            client.session("running-sum", session_id=name)
        client.session("other", session_id="pump-3")

        def found(**asked):
            return [one["session_id"] for one in api.get("/sessions", params=asked).json()["sessions"]]

        assert found() == ["fan-1", "pump-1", "pump-2", "pump-3"]
        assert found(prefix="pump-") == ["pump-1", "pump-2", "pump-3"]
        assert found(prefix="pump-1") == ["pump-1"]
        assert found(prefix="pump-", model="other") == ["pump-3"]
        assert found(sort="-id") == ["pump-3", "pump-2", "pump-1", "fan-1"]
        assert found(tier="stored") == []


@pytest.mark.parametrize("store", [False, True], ids=["memory", "store"])
@pytest.mark.parametrize("sort", ["id", "-id", "steps", "-steps", "idle", "-idle", "bytes", "-bytes"])
def test_pages_of_every_order_have_every_session_once(tmp_path, sort, store):
    more = {"store": f"sqlite:{tmp_path / 'store'}"} if store else {}
    with serving(RunningSum(), RunningSum(name="wide", width=3), **more) as (server, client, api):
        for number in range(11):
            session = client.session("wide" if number % 3 == 0 else "running-sum", session_id=f"s-{number:02}")
            for _ in range(number % 4):
                session.step(np.ones(3, np.float32) if number % 3 == 0 else [1])
        if store:
            rest(server, ["s-02", "s-05", "s-06"])
        sessions, token = [], None
        while True:
            asked = {"sort": sort, "page_size": 3} | ({"page_token": token} if token else {})
            page = api.get("/sessions", params=asked).json()
            assert page["complete"] is True
            sessions += page["sessions"]
            token = page["next_page_token"]
            if token is None:
                break
            assert len(page["sessions"]) == 3
        assert sorted(one["session_id"] for one in sessions) == [f"s-{number:02}" for number in range(11)]
        field = {"id": "session_id", "steps": "next_step", "idle": "idle_for_s", "bytes": "state_bytes"}
        values = [one[field[sort.removeprefix("-")]] for one in sessions]
        if "idle" not in sort:  # Time went on between the pages.
            assert values == sorted(values, reverse=sort.startswith("-"))
        tiers = {one["session_id"]: one["tier"] for one in sessions}
        assert [name for name, tier in sorted(tiers.items()) if tier == "stored"] == (
            ["s-02", "s-05", "s-06"] if store else []
        )


def test_the_order_of_idle_sessions_is_that_of_their_use(it):
    _, client, api = it
    sessions = {name: client.session("running-sum", session_id=name) for name in ("a", "b", "c")}
    for name in ("b", "a", "c"):
        sessions[name].step([1])
    by_idle = [one["session_id"] for one in api.get("/sessions", params={"sort": "idle"}).json()["sessions"]]
    assert by_idle == ["c", "a", "b"]


def test_a_store_that_is_too_large_to_be_sorted_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("ntm_serve.search.STORED_SLICE", 4)
    monkeypatch.setattr("ntm_serve.search.STORED_MAX", 8)
    with serving(store=f"sqlite:{tmp_path / 'store'}") as (server, client, api):
        names = [f"s-{number:02}" for number in range(12)]
        for name in names:
            client.session("running-sum", session_id=name)
        rest(server, names)
        page = api.get("/sessions", params={"sort": "-steps"}).json()
        assert (page["complete"], len(page["sessions"])) == (False, 8)
        page = api.get("/sessions", params={"sort": "id"}).json()
        assert (page["complete"], len(page["sessions"])) == (True, 12)
        page = api.get("/sessions", params={"sort": "-steps", "prefix": "s-1"}).json()
        assert (page["complete"], len(page["sessions"])) == (True, 2)


def test_one_session_is_as_grpc_says_and_is_not_woken(tmp_path):
    with serving(store=f"sqlite:{tmp_path / 'store'}") as (server, client, api):
        client.session("running-sum", session_id="s").step([[1], [2]])
        rest(server, ["s"])
        told, info = api.get("/sessions/s").json(), client.session_info("s")
        assert (told["next_step"], told["durable_step"], told["tier"]) == (2, 2, "stored")
        assert (told["session_id"], told["model"], told["durability"]) == (info.session_id, info.model, "process")
        assert array_of(api.get("/sessions/s/state").json()["state"][0]).tolist() == [3.0]
        with watching(api, "s") as events:
            assert events.next()[1]["session"]["tier"] == "stored"
            assert array_of(events.next()[1]["state"][0]).tolist() == [3.0]
        assert server.running.service._sessions.get("s") is None


def test_the_state_is_grpcs_state(zoo):
    from ntm_serve.app import load_models

    with (
        test_server(load_models(zoo, batch_max=8)) as server,
        Client(server.target) as client,
        httpx.Client(base_url=f"{server.http}/api/v1", timeout=WAIT_S) as api,
    ):
        session = client.session("copy-ff")
        x = np.random.default_rng(2).integers(0, 2, (12, 9)).astype(np.float32)
        y = session.step(x)
        frame, state = api.get(f"/sessions/{session.id}/state").json(), session.state()
        assert {one["name"]: one["role"] for one in frame["state"]}["memory"] == "memory"
        for picture in frame["state"]:
            np.testing.assert_array_equal(array_of(picture), state[picture["name"]])
        np.testing.assert_array_equal(array_of(frame["inputs"][0]), x)
        np.testing.assert_array_equal(array_of(frame["outputs"][0]), y)
        some = api.get(
            f"/sessions/{session.id}/state", params={"tensors": ["memory"], "rows_max": 32, "columns_max": 20}
        )
        (memory,) = some.json()["state"]
        assert (memory["blocks"], memory["shape"], memory["full_shape"]) == ([4, 1], [32, 20], [128, 20])
        blocks = state["memory"].reshape(32, 4, 20)
        peak = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)[:, 0]
        np.testing.assert_array_equal(array_of(memory), peak)
        whole = api.get(f"/sessions/{session.id}/state", params={"format": "npz"})
        archive = np.load(io.BytesIO(whole.content))
        assert archive["next_step"] == 12
        assert set(archive.files) == {"next_step", *state}
        for name, array in state.items():
            np.testing.assert_array_equal(archive[name], array)


def test_a_watch_begins_goes_on_and_ends(it):
    _, client, api = it
    session = client.session("running-sum", session_id="s")
    with watching(api, "s", frames_per_s=30, rows_max=7) as events:
        name, begun = events.next()
        assert (name, begun["session"]["session_id"], begun["model"]["name"]) == ("begun", "s", "running-sum")
        assert (begun["frames_per_s"], begun["rows_max"], begun["columns_max"]) == (30.0, 7, 128)
        assert begun["reduction"] == "peak"
        name, frame = events.next()
        assert (name, frame["next_step"], frame["tier"]) == ("frame", 0, "resident")
        for number in range(1, 4):
            session.step([number])
            name, frame = events.next()
            assert (name, frame["next_step"], frame["lost"], frame["first_step"]) == ("frame", number, 0, number - 1)
            assert array_of(frame["inputs"][0]).tolist() == [[number]]
        session.close()
        name, end = events.next()
        assert (name, end["error"]["reason"], end["error"]["status"]) == ("end", "CLOSED", 404)
        assert events.next() is None


def test_a_watch_says_that_it_lives(it, monkeypatch):
    monkeypatch.setattr("ntm_serve.watching.PULSE_S", 0.05)
    _, client, api = it
    client.session("running-sum", session_id="s")
    with watching(api, "s") as events:
        names = [events.next()[0] for _ in range(4)]
        assert names == ["begun", "frame", "session", "session"]


def test_a_reader_that_leaves_leaves_nothing(it):
    server, client, api = it
    client.session("running-sum", session_id="s")
    sessions = server.running.service._sessions
    with watching(api, "s") as events:
        events.next()
        assert sessions.viewers == 1
    while sessions.viewers:
        api.get("/server")


def test_a_watch_ends_when_the_server_stops():
    with serving() as (server, client, api):
        client.session("running-sum", session_id="s")
        with watching(api, "s") as events:
            events.next(), events.next()
            server.running.loop.call_soon_threadsafe(server.running.drain_asked.set)
            name, end = events.next()
            assert (name, end["error"]["reason"], end["error"]["status"]) == ("end", "DRAINING", 503)


def test_a_snapshot_is_one_that_grpc_restores(it):
    _, client, api = it
    client.session("running-sum", session_id="s").step([[1], [2]])
    answer = api.get("/sessions/s/snapshot")
    assert answer.headers["x-ntm-step"] == "2"
    assert answer.headers["content-disposition"] == 'attachment; filename="s-2.snapshot"'
    assert client.restore(answer.content).step([1]).tolist() == [4.0]


@pytest.mark.parametrize("verb", ["fork", "steps"])
def test_nothing_is_written_where_writing_is_not_allowed(it, verb):
    _, client, api = it
    client.session("running-sum", session_id="s")
    answer = api.post(f"/sessions/s/{verb}", json={"inputs": {"x": [[1]]}} if verb == "steps" else {})
    assert refusal(answer) == (403, "PERMISSION_DENIED")
    assert [one.next_step for one in client.sessions()] == [0]


def test_steps_by_hand_are_steps(writing):
    _, client, api = writing
    session = client.session("running-sum", session_id="s")
    session.step([1])
    told = api.post("/sessions/s/steps", json={"inputs": {"x": [[2], [3]]}}).json()
    assert told == {"first_step": 1, "next_step": 3, "durable_step": 0, "outputs": {"y": [[3.0], [6.0]]}}
    again = api.post("/sessions/s/steps", json={"inputs": {"x": [[2], [3]]}, "first_step": 1})
    assert again.json() == told
    other = api.post("/sessions/s/steps", json={"inputs": {"x": [[9], [3]]}, "first_step": 1})
    assert refusal(other) == (409, "STEP_CONFLICT")
    ahead = api.post("/sessions/s/steps", json={"inputs": {"x": [[1]]}, "first_step": 7})
    assert refusal(ahead) == (400, "STEP_AHEAD")
    assert ahead.json()["error"]["fields"] == {"expected_step": "3"}


def test_a_fork_begins_where_the_other_stands(writing):
    _, client, api = writing
    client.session("running-sum", session_id="s").step([5])
    made = api.post("/sessions/s/fork", json={"fork_session_id": "t"})
    assert (made.status_code, made.json()["session_id"], made.json()["next_step"]) == (201, "t", 1)
    assert api.post("/sessions/t/steps", json={"inputs": {"x": [[1]]}}).json()["outputs"] == {"y": [[6.0]]}
    assert refusal(api.post("/sessions/s/fork", json={"fork_session_id": "t"})) == (409, "SESSION_EXISTS")
    assert api.post("/sessions/s/fork", json={}).json()["session_id"] not in ("s", "t")


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({}, "inputs"),
        ({"inputs": [[1]]}, "inputs"),
        ({"inputs": {"z": [[1]]}}, "z"),
        ({"inputs": {"x": [1]}}, "x"),
        ({"inputs": {"x": [[1, 2]]}}, "x"),
        ({"inputs": {"x": [[1], [1, 2]]}}, "x"),
        ({"inputs": {"x": []}}, "x"),
        ({"inputs": {"x": [["1"]]}}, "x"),
        ({"inputs": {"x": [[None]]}}, "x"),
        ({"inputs": {"x": [[1e999]]}}, "x: expected finite numbers, got inf at [0, 0]"),
        ({"inputs": {"x": [[1]]}, "first_step": "0"}, "first_step"),
        ({"inputs": {"x": [[1]]}, "frist_step": 0}, "got frist_step"),
        ({"inputs": {"x": [[1, 2]]}}, "x: expected float32[T, 1], T at least 1, got [1, 2]"),
        ({"inputs": {"x": 1}}, "x: expected float32[T, 1], T at least 1, got []"),
        ([], "body: expected an object with some of first_step, inputs, got list"),
    ],
)
def test_what_are_no_steps_is_refused_by_name(writing, said, named):
    _, client, api = writing
    client.session("running-sum", session_id="s")
    body = json.dumps(said)
    answer = api.post("/sessions/s/steps", content=body, headers={"content-type": "application/json"})
    assert refusal(answer) == (400, "INVALID_INPUT")
    assert named in answer.json()["error"]["message"]
    assert client.session_info("s").next_step == 0


def test_inputs_of_unequal_lengths_are_refused_without_an_axis_that_nobody_sent():
    specs = (TensorSpec("x", "float32", (1,)), TensorSpec("gate", "float32", (2,)))
    with pytest.raises(InvalidInput, match=r"expected as many steps of each, got \{'x': 1, 'gate': 2\}"):
        arrays_of(specs, {"x": [[1]], "gate": [[1, 2], [3, 4]]})


def test_a_body_is_json_and_not_large(writing):
    _, client, api = writing
    client.session("running-sum", session_id="s")
    answer = api.post("/sessions/s/steps", content=b"{", headers={"content-type": "application/json"})
    assert refusal(answer) == (400, "INVALID_INPUT")
    deep = b"[" * 100_000
    answer = api.post("/sessions/s/steps", content=deep, headers={"content-type": "application/json"})
    assert refusal(answer) == (400, "INVALID_INPUT")
    assert refusal(api.post("/sessions/s/steps", content=b"{}"))[0] == 415
    large = b" " * ((1 << 20) + 1)
    answer = api.post("/sessions/s/steps", content=large, headers={"content-type": "application/json; charset=utf-8"})
    assert refusal(answer) == (413, "TOO_LARGE")
    assert answer.json()["error"]["fields"]["limit"] == "body_bytes_max"


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://elsewhere.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}],
)
@pytest.mark.parametrize("path", ["/server", "/sessions", "/sessions/s/watch"])
def test_what_a_browser_sends_for_another_site_is_refused(it, headers, path):
    _, _, api = it
    assert refusal(api.get(path, headers=headers)) == (403, "PERMISSION_DENIED")


def test_the_servers_own_page_is_no_other_site(it):
    server, _, api = it
    own = {"origin": server.http, "sec-fetch-site": "same-origin"}
    assert api.get("/sessions", headers=own).status_code == 200


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/sessions/nobody", (404, "UNKNOWN")),
        ("/sessions/nobody/state", (404, "UNKNOWN")),
        ("/sessions/nobody/watch", (404, "UNKNOWN")),
        ("/sessions/nobody/snapshot", (404, "UNKNOWN")),
        ("/sessions/s%7Ct", (404, "UNKNOWN")),
        ("/nothing", (404, "UNSUPPORTED")),
        ("/sessions/s/state?tensors=usage", (400, "INVALID_INPUT")),
        ("/sessions/s/watch?tensors=usage", (400, "INVALID_INPUT")),
        ("/sessions/s/watch?frames_per_s=0", (400, "INVALID_INPUT")),
        ("/sessions/s/watch?frames_per_s=nan", (400, "INVALID_INPUT")),
        ("/sessions/s/state?rows_max=0", (400, "INVALID_INPUT")),
        ("/sessions/s/state?rows_max=1_0", (400, "INVALID_INPUT")),
        ("/sessions/s/state?reduction=median", (400, "INVALID_INPUT")),
        ("/sessions/s/state?format=csv", (400, "INVALID_INPUT")),
        ("/sessions/s/snapshot?step=-1", (400, "STEP_FORGOTTEN")),
        ("/sessions/s/snapshot?step=now", (400, "INVALID_INPUT")),
        ("/sessions?sort=name", (400, "INVALID_INPUT")),
        ("/sessions?page_size=0", (400, "INVALID_INPUT")),
        ("/sessions?page_token=xyz", (400, "INVALID_INPUT")),
        ("/sessions?page_token=W10=", (400, "INVALID_INPUT")),
        ("/sessions?tier=tape", (400, "INVALID_INPUT")),
    ],
)
def test_what_cannot_be_answered_is_an_error_in_one_form(it, path, reason):
    _, client, api = it
    client.session("running-sum", session_id="s")
    assert refusal(api.get(path)) == reason


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/server?verbose=1", "none, got verbose"),
        ("/models?name=copy", "none, got name"),
        ("/sessions?page=2", "prefix, model, tier, sort, page_size, page_token, got page"),
        ("/sessions/s?tensors=total", "none, got tensors"),
        ("/sessions/s/state?row_max=7", "tensors, rows_max, columns_max, reduction, format, got row_max"),
        ("/sessions/s/state?frames_per_s=7", "got frames_per_s"),
        ("/sessions/s/watch?format=npz", "tensors, rows_max, columns_max, reduction, frames_per_s, got format"),
        ("/sessions/s/snapshot?steps=1", "step, got steps"),
    ],
)
def test_a_parameter_that_there_is_not_is_refused_by_its_name(it, path, named):
    _, client, api = it
    client.session("running-sum", session_id="s")
    answer = api.get(path)
    assert refusal(answer) == (400, "INVALID_INPUT")
    assert answer.json()["error"]["message"].endswith(named)


def test_the_api_is_not_there_where_it_is_turned_off():
    with serving(inspector="off") as (server, _, api):
        assert api.get("/server").status_code == 404
        assert httpx.get(f"{server.http}/").status_code == 404
        assert httpx.get(f"{server.http}/healthz").status_code == 200


def rest(server, names):
    """Have these sessions leave memory for the store."""
    import asyncio

    service = server.running.service

    async def put():
        service._residency.put_to_rest([service._sessions.find(name) for name in names], reason="room")
        await service._residency._claims._keeper.call(lambda: None)

    asyncio.run_coroutine_threadsafe(put(), server.running.loop).result(WAIT_S)


STRANGE = ("\x00", "\ue000", "a\x00", "\U0010ffff", "é", "a b", "x" * 1000)


@pytest.mark.parametrize("sort", ["id", "-id", "idle"])
@pytest.mark.parametrize("text", STRANGE)
def test_what_no_id_begins_with_finds_none(tmp_path, text, sort):
    with serving(store=f"sqlite:{tmp_path / 'store'}") as (_, client, api):
        client.session("running-sum", session_id="a").step([1])
        for asked in ({"prefix": text}, {"model": text}):
            answer = api.get("/sessions", params={**asked, "sort": sort})
            assert answer.json() == {"sessions": [], "next_page_token": None, "complete": True}
        token = base64.urlsafe_b64encode(json.dumps([0, text]).encode()).decode()
        assert refusal(api.get("/sessions", params={"page_token": token, "sort": sort})) == (400, "INVALID_INPUT")


def test_a_watch_that_wants_few_frames_ends_with_its_session_all_the_same(it):
    _, client, api = it
    session = client.session("running-sum", session_id="a")
    with watching(api, "a", frames_per_s=1e-4) as events:
        assert [events.next()[0] for _ in range(2)] == ["begun", "frame"]
        session.step([1])
        session.close()
        name, told = events.next()
        assert (name, told["error"]["reason"]) == ("end", "CLOSED")


def test_a_watch_that_wants_few_frames_is_told_now_and_then_where_the_session_stands(it, monkeypatch):
    monkeypatch.setattr("ntm_serve.watching.PULSE_S", 0.05)
    _, client, api = it
    session = client.session("running-sum", session_id="a")
    with watching(api, "a", frames_per_s=1e-4) as events:
        assert [events.next()[0] for _ in range(2)] == ["begun", "frame"]
        session.step([1])
        name, told = events.next()
        while told["next_step"] == 0:
            name, told = events.next()
        assert (name, told["next_step"]) == ("session", 1)


def test_large_memories_are_shown_less_often(it, monkeypatch):
    monkeypatch.setattr("ntm_serve.watching.ELEMENTS_PER_S_MAX", 1e-4)
    monkeypatch.setattr("ntm_serve.watching.PULSE_S", 0.05)
    _, client, api = it
    session = client.session("running-sum", session_id="a")
    with watching(api, "a", frames_per_s=30) as events:
        assert [events.next()[0] for _ in range(2)] == ["begun", "frame"]
        session.step([1])
        assert [events.next()[0] for _ in range(3)] == ["session"] * 3


def raw(server, asked):
    """A connection that has asked this, and has room for little."""
    connection = socket.socket()
    connection.settimeout(WAIT_S)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", server.running.http_port))
    connection.sendall(asked.encode())
    return connection


def test_whoever_takes_nothing_is_cut_off_and_makes_room_for_others(monkeypatch):
    monkeypatch.setattr("ntm_serve.http.server.STALL_S", 0.3)
    wide = RunningSum(name="wide", width=512)
    with serving(wide, watches_max=1, watch_frames_per_s_max=1e4) as (server, client, api):
        session, x = client.session("wide", session_id="a"), np.ones(512, np.float32)
        path = "/api/v1/sessions/a/watch?columns_max=512&frames_per_s=10000"
        with raw(server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            for is_watched in (True, False):
                while (server.running.service._sessions.viewers == 1) is not is_watched:
                    session.step(x)
            with watching(api, "a") as events:
                assert events.next()[0] == "begun"


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("ntm_serve.http.bodies.BODY_S", 0.05)
    with serving(inspector="write") as (server, client, _):
        client.session("running-sum", session_id="a")
        head = "Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        with raw(server, f"POST /api/v1/sessions/a/fork HTTP/1.1\r\n{head}") as connection:
            assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/sessions/a", "GET, HEAD"),
        ("OPTIONS", "/sessions", "GET, HEAD"),
        ("GET", "/sessions/a/fork", "POST"),
    ],
)
def test_a_method_that_a_path_does_not_have_is_refused_with_those_that_it_has(it, method, path, allowed):
    _, _, api = it
    answer = api.request(method, path)
    assert refusal(answer) == (405, "UNSUPPORTED")
    assert answer.headers["allow"] == allowed


def test_streams_leave_connections_for_probes(it, monkeypatch):
    monkeypatch.setattr("ntm_serve.http.api.WATCHES_MAX", 1)
    _, client, api = it
    client.session("running-sum", session_id="a")
    for _ in range(2):  # What one leaves, another has.
        with watching(api, "a") as events:
            assert events.next()[0] == "begun"
            assert refusal(api.get("/sessions/a/watch")) == (429, "LIMIT_REACHED")
        while api.get("/sessions/nobody/watch").status_code == 429:
            pass
