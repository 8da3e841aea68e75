"""The HTTP API asks who comes as gRPC does, and shows each tenant its own."""

import contextlib
import json
import ssl

import httpx
import pytest

from ntm_serve.app import LoadedModels
from ntm_serve.client import Client
from ntm_serve.errors import ModelDamaged
from ntm_serve.step_model import ModelKey
from ntm_serve.testing import RunningSum, test_server

READS = (
    "/models",
    "/sessions",
    "/sessions/ours",
    "/sessions/ours/state",
    "/sessions/ours/watch",
    "/sessions/ours/snapshot",
    "/nothing",
)
WRITES = ("/sessions/ours/fork", "/sessions/ours/steps")


@pytest.fixture
def it(callers):
    """A server with callers of two tenants and an operator; `ours` is acme's. What asks, by whose token."""
    tokens = {
        "acme": callers.add("ours", "acme"),
        "other": callers.add("theirs", "other"),
        "operator": callers.add("operator", roles=["admin"]),
        "scraper": callers.add("scraper", "acme", roles=["metrics"]),
    }
    with test_server([RunningSum()], **callers.settings, inspector="write") as server:
        with Client(server.target, token=tokens["acme"]) as client:
            client.session("running-sum", session_id="ours").step([[1], [2]])
        yield server, tokens, lambda token: api(server, token)


@contextlib.contextmanager
def api(server, token):
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    with httpx.Client(base_url=f"{server.http}/api/v1", headers=headers, timeout=20) as http:
        yield http


def refusal(answer):
    return answer.status_code, answer.json()["error"]["reason"]


def test_without_a_token_nothing_is_told_but_that_one_is_needed(it):
    _, _, asking = it
    with asking(None) as nobody:
        told = nobody.get("/server").json()
        assert (told["access"], told["api_version"], told["ready"]) == ("token", 1, True)
        assert {value for name, value in told.items() if name not in ("access", "api_version", "ready")} == {None}
        for path in READS[:-1]:
            answer = nobody.get(path)
            assert refusal(answer) == (401, "UNAUTHENTICATED")
            assert answer.headers["www-authenticate"].startswith("Bearer")
        for path in WRITES:
            assert refusal(nobody.post(path, json={})) == (401, "UNAUTHENTICATED")


@pytest.mark.parametrize("shown", ["Bearer wrong", "Basic b3VyczpvdXJz", "", "Bearer"])
def test_a_token_that_is_nobodys_is_refused_everywhere(it, shown):
    server, _, _ = it
    with httpx.Client(base_url=f"{server.http}/api/v1", headers={"authorization": shown}) as http:
        for path in ("/server", *READS[:-1]):
            assert refusal(http.get(path)) == (401, "UNAUTHENTICATED")


def test_a_tenant_sees_its_own(it):
    _, tokens, asking = it
    with asking(tokens["acme"]) as http:
        assert http.get("/server").json()["caller"] == {"name": "ours", "tenant": "acme", "roles": []}
        (session,) = http.get("/sessions").json()["sessions"]
        assert (session["session_id"], session["tenant"]) == ("ours", "acme")
        assert http.get("/models").json()["models"][0]["sessions"] == 1
        with http.stream("GET", "/sessions/ours/watch") as watch:
            assert next(watch.iter_lines()) == "event: begun"


def test_what_is_anothers_is_as_though_it_were_not(it):
    _, tokens, asking = it
    with asking(tokens["other"]) as http:
        assert http.get("/sessions").json()["sessions"] == []
        assert http.get("/sessions", params={"prefix": "acme|"}).json()["sessions"] == []
        assert http.get("/models").json()["models"][0]["sessions"] == 0
        for path in READS[2:-1]:
            theirs, never = http.get(path), http.get(path.replace("ours", "never"))
            assert refusal(theirs) == refusal(never) == (404, "UNKNOWN")
            said = [one.json()["error"]["message"] for one in (theirs, never)]
            assert said[0] == said[1].replace("session never", "session ours")
        for path in WRITES:
            said = {"inputs": {"x": [[1]]}} if path.endswith("steps") else {}
            assert refusal(http.post(path, json=said)) == (404, "UNKNOWN")
        for spelling in ("acme%7Cours", "%7Cacme%7Cours"):
            assert refusal(http.get(f"/sessions/{spelling}")) == (404, "UNKNOWN")


def test_what_is_counted_of_everybody_is_for_those_who_may_count(it):
    _, tokens, asking = it
    for name, may in (("acme", False), ("scraper", True), ("operator", True)):
        with asking(tokens[name]) as http:
            (model,) = http.get("/models").json()["models"]
            assert (model["steps"], model["series"] is not None) == ((2, True) if may else (None, False))


def test_what_a_tenant_writes_is_its_own(it):
    server, tokens, asking = it
    with asking(tokens["acme"]) as http:
        assert http.post("/sessions/ours/steps", json={"inputs": {"x": [[3]]}}).json()["outputs"] == {"y": [[6.0]]}
        assert http.post("/sessions/ours/fork", json={"fork_session_id": "branch"}).json()["tenant"] == "acme"
    with Client(server.target, token=tokens["acme"]) as client:
        assert client.session_info("branch").next_step == 3
    with asking(tokens["other"]) as http:
        assert http.get("/sessions").json()["sessions"] == []


def test_pages_of_a_tenant_have_its_own_alone(callers, tmp_path):
    tokens = {name: callers.add(f"{name}'s", name) for name in ("acme", "other", "")}
    with test_server([RunningSum()], **callers.settings, store=f"sqlite:{tmp_path / 'store'}") as server:
        for token in tokens.values():
            with Client(server.target, token=token) as client:
                for number in range(5):
                    client.session("running-sum", session_id=f"s-{number}").step([[1]] * (number + 1))
        for tenant, token in tokens.items():
            with api(server, token) as http:
                for sort in ("id", "-steps"):
                    names, page_token = [], ""
                    while page_token is not None:
                        asked = {"sort": sort, "page_size": 2, "page_token": page_token, "prefix": "s-"}
                        page = http.get("/sessions", params=asked).json()
                        assert {one["tenant"] for one in page["sessions"]} <= {tenant}
                        names += [one["session_id"] for one in page["sessions"]]
                        page_token = page["next_page_token"]
                        assert page_token is None or "acme" not in str(page_token)
                    assert names == sorted([f"s-{number}" for number in range(5)], reverse=sort == "-steps")


def test_a_watch_ends_with_its_callers_token(callers, monkeypatch):
    monkeypatch.setattr("ntm_serve.http.api.ASK_AGAIN_S", 0.0)
    monkeypatch.setattr("ntm_serve.watching.PULSE_S", 0.05)
    monkeypatch.setattr("ntm_serve.exposure.LOOK_S", 0.05)
    token, _ = callers.add("ours", "acme"), callers.add("theirs", "other")
    with test_server([RunningSum()], **callers.settings) as server:
        with Client(server.target, token=token) as client:
            client.session("running-sum", session_id="ours")
        with api(server, token) as http, http.stream("GET", "/sessions/ours/watch") as watch:
            lines = watch.iter_lines()
            next(lines)
            callers.revoke("ours")
            said = list(lines)
        assert "event: end" in said
        (end,) = [json.loads(line.removeprefix("data: ")) for line in said if '"error"' in line]
        assert end["error"]["reason"] == "UNAUTHENTICATED"


def test_where_callers_are_known_by_certificate_alone_the_api_is_closed(authority, pems, callers):
    context = ssl.create_default_context(cafile=authority.ca)
    for more in ({}, callers.settings):
        if more:
            callers.add_certificate("gateway", "acme")
        with (
            test_server([RunningSum()], **pems.settings, tls_client_ca=authority.ca, **more) as server,
            httpx.Client(base_url=f"https://localhost:{server.running.http_port}/api/v1", verify=context) as http,
        ):
            assert http.get("/server").json()["access"] == "closed"
            for path in READS[:-1]:
                assert refusal(http.get(path)) == (403, "PERMISSION_DENIED")
            assert refusal(http.get("/sessions", headers={"authorization": "Bearer x"})) == (403, "PERMISSION_DENIED")


def test_a_model_that_is_not_served_says_why():
    fault = ModelDamaged("broken/1: model.onnx: expected another sha256")
    loaded = LoadedModels([RunningSum()], {ModelKey("broken", "1"): fault}, {ModelKey("running-sum", "1"): 0.0})
    with test_server(loaded) as server, api(server, None) as http:
        broken, served = http.get("/models").json()["models"]
        assert (broken["name"], broken["ready"], broken["fault"]["reason"]) == ("broken", False, "MODEL_DAMAGED")
        assert (broken["state"], broken["state_bytes"], broken["series"]) == ([], None, [])
        assert served["ready"]


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8002", "127.0.0.1.evil.example", "localhost.evil", "[x"]
)
def test_a_name_that_was_turned_to_this_machine_reads_nothing(host):
    with test_server([RunningSum()], inspector="write") as server, api(server, None) as http:
        with Client(server.target) as client:
            client.session("running-sum", session_id="ours")
        for path in ("/server", *READS[:-1]):
            assert refusal(http.get(path, headers={"host": host})) == (403, "PERMISSION_DENIED")
        for path in WRITES:
            answer = http.post(path, json={}, headers={"host": host, "origin": f"http://{host}"})
            assert refusal(answer) == (403, "PERMISSION_DENIED")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:1", "a.localhost", "127.0.0.1:8002", "[::1]:8002", "10.0.0.7"]
)
def test_addresses_and_localhost_are_every_servers(host):
    with test_server([RunningSum()]) as server, api(server, None) as http:
        assert http.get("/models", headers={"host": host, "origin": f"http://{host}"}).status_code == 200


def test_whoever_shows_a_token_may_call_the_server_by_any_name(it):
    _, tokens, asking = it
    with asking(tokens["acme"]) as http:
        assert http.get("/models", headers={"host": "ntm.example"}).status_code == 200


def test_names_are_those_that_are_set():
    with test_server([RunningSum()], http_names="NTM.example, other") as server, api(server, None) as http:
        for host, status in (("ntm.example:80", 200), ("other", 200), ("localhost", 200), ("third", 403)):
            assert http.get("/models", headers={"host": host}).status_code == status


@pytest.mark.parametrize("origin", ["http://[::1", "null", "http://evil.example", "evil"])
def test_an_origin_that_is_not_ours_is_refused(origin):
    with test_server([RunningSum()]) as server, api(server, None) as http:
        assert refusal(http.get("/models", headers={"origin": origin})) == (403, "PERMISSION_DENIED")


def test_a_session_whose_model_is_not_served_makes_no_steps_by_hand(tmp_path):
    settings = {"store": f"sqlite:{tmp_path / 'store'}", "durability": "process", "inspector": "write"}
    with test_server([RunningSum()], **settings) as server, Client(server.target) as client:
        client.session("running-sum", session_id="ours").step([1])
    key = ModelKey("running-sum", "1")
    broken = LoadedModels(
        [RunningSum(name="other")],
        {key: ModelDamaged("running-sum/1: model.onnx: expected another sha256")},
        {ModelKey("other", "1"): 0.0},
    )
    with test_server(broken, **settings) as server, api(server, None) as http:
        assert http.get("/sessions/ours").json()["state_bytes"] == 0
        for path in READS[3:5]:
            assert refusal(http.get(path)) == (404, "MODEL_UNKNOWN")
        assert refusal(http.post("/sessions/ours/steps", json={"inputs": {"x": [[1]]}})) == (404, "MODEL_UNKNOWN")


def test_how_many_sessions_others_have_is_not_told(callers, tmp_path, monkeypatch):
    monkeypatch.setattr("ntm_serve.search.STORED_SLICE", 2)
    monkeypatch.setattr("ntm_serve.search.STORED_MAX", 4)
    tokens = {name: callers.add(f"{name}'s", name) for name in ("a", "b", "c", "")}
    with test_server([RunningSum()], **callers.settings, store=f"sqlite:{tmp_path / 'store'}") as server:
        for tenant, token in tokens.items():
            with Client(server.target, token=token) as client:
                for number in range(5 if tenant else 1):
                    client.session("running-sum", session_id=f"s-{number}").step([1])
        with api(server, tokens[""]) as http:
            found = http.get("/sessions", params={"sort": "-steps"}).json()
            assert ([one["session_id"] for one in found["sessions"]], found["complete"]) == (["s-0"], True)
