"""Tokens over real sockets: missing, wrong, ended, revoked while a stream is open; and by certificate."""

import re
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import grpc
import pytest
from structlog.testing import capture_logs

from ntm_serve.auth.callers import read_callers
from ntm_serve.auth.tokens import hash_of, is_token, new_token
from ntm_serve.cli import main
from ntm_serve.client import AsyncClient, Client, Tls, token_of_file
from ntm_serve.errors import InvalidInput, PermissionDenied, SettingsFault, StreamAged, Unauthenticated
from ntm_serve.testing import RunningSum, test_server
from ntm_serve.v1 import models_pb2, models_pb2_grpc

from .conftest import until


@pytest.fixture
def token(callers):
    return callers.add("gateway", "acme")


@pytest.fixture
def server(callers, token):
    with test_server([RunningSum()], **callers.settings) as running:
        yield running


def client(server, token):
    return Client(server.target, retry=None, timeout_s=20, token=token)


def test_a_caller_with_a_token_is_let_in(server, token):
    with client(server, token) as ours, ours.session("running-sum") as session:
        assert session.step([2]).tolist() == [2]
        assert [y.tolist() for y in session.stream([[1]] * 2)] == [[3], [4]]
        with ours.group("running-sum") as group:
            assert group.step({"a": [1], "b": [2]})["b"].tolist() == [2]


async def test_the_async_client_shows_its_token(server, token):
    async with AsyncClient(server.target, token=token) as ours, ours.session("running-sum") as session:
        assert (await session.step([2])).tolist() == [2]
        assert [y.tolist() async for y in session.stream([[1]] * 2)] == [[3], [4]]
        async with ours.group("running-sum") as group:
            assert [answers["a"].tolist() async for answers in group.stream([{"a": [1]}])] == [[1]]


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        (None, "call: expected a token, as the metadata authorization: Bearer TOKEN, got none"),
        (new_token(), "token: is nobody's, or not any more"),
        ("secret", "token: expected one that `ntm-serve token` made"),
        ("", "token: expected one that"),
    ],
    ids=["none", "of-nobody", "no-token-of-ours", "empty"],
)
def test_a_caller_without_a_token_of_ours_is_not(server, shown, why):
    with client(server, shown) as theirs, pytest.raises(Unauthenticated, match=why) as raised:
        theirs.models()
    assert not shown or shown not in raised.value.message


def test_the_words_beside_a_token_are_read_strictly(server, token):
    with grpc.insecure_channel(server.target) as channel:
        stub = models_pb2_grpc.ModelsStub(channel)
        for metadata in (
            [("authorization", token)],
            [("authorization", f"Basic {token}")],
            [("authorization", f"Bearer {token}")] * 2,
        ):
            with pytest.raises(grpc.RpcError) as refused:
                stub.List(models_pb2.ListModelsRequest(), metadata=metadata)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert token not in str(refused.value)
        stub.List(models_pb2.ListModelsRequest(), metadata=[("authorization", f"bearer {token}")])


def test_a_token_that_ended_is_nobodys(callers):
    now = datetime.now(UTC)
    past = callers.add("past", more=f"ends = {now - timedelta(seconds=1):%Y-%m-%dT%H:%M:%SZ}")
    future = callers.add("future", more=f"ends = {now + timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}")
    with test_server([RunningSum()], **callers.settings) as server:
        with client(server, past) as theirs, pytest.raises(Unauthenticated, match="nobody's"):
            theirs.models()
        with client(server, future) as ours:
            assert ours.models()


def test_a_token_that_is_revoked_ends_the_streams_that_it_opened_and_no_other(callers, server, token):
    other = callers.add("other", "acme")
    until(lambda: accepted(server, other))
    with client(server, token) as ours, client(server, other) as theirs:
        session, another = ours.session("running-sum"), theirs.session("running-sum")
        replies, others = session.stream(endless()), another.stream(endless())
        assert next(replies).tolist() == [1]
        assert next(others).tolist() == [1]
        callers.revoke("gateway")
        with pytest.raises(Unauthenticated, match="nobody's"):
            for _ in replies:
                pass
        with pytest.raises(Unauthenticated):
            ours.models()
        # Steps that were made stay made, and whoever may goes on.
        assert next(others).tolist()[0] > 1
        assert theirs.session_info(session.id).next_step >= 1


def test_a_token_that_ends_meanwhile_ends_its_streams(callers, server):
    soon = datetime.now(UTC) + timedelta(seconds=4)
    token = callers.add("brief", more=f"ends = {soon:%Y-%m-%dT%H:%M:%SZ}")
    until(lambda: accepted(server, token))
    with client(server, token) as ours:
        replies = ours.session("running-sum").stream(endless())
        with pytest.raises(StreamAged, match="the token of its caller has ended"):
            for _ in replies:
                pass
        with pytest.raises(Unauthenticated, match="nobody's"):
            ours.models()


def test_a_client_that_has_another_token_by_then_goes_on(callers, server):
    soon = datetime.now(UTC) + timedelta(seconds=4)
    brief = callers.add("brief", "acme", more=f"ends = {soon:%Y-%m-%dT%H:%M:%SZ}")
    until(lambda: accepted(server, brief))
    held, aged = [brief, callers.add("next", "acme")], []
    until(lambda: accepted(server, held[1]))

    def token():
        aged.append(datetime.now(UTC) > soon - timedelta(seconds=1))
        return held[aged[-1]]

    with Client(server.target, token=token) as ours, ours.session("running-sum") as session:
        for count, y in enumerate(session.stream(endless()), start=1):
            assert y.tolist() == [count]
            if any(aged):
                break


def test_a_token_file_is_read_at_every_call(callers, server, token, tmp_path):
    file = tmp_path / "token"
    file.write_text(token + "\n")
    with client(server, token_of_file(file)) as ours:
        assert ours.models()
        file.write_text(new_token())
        with pytest.raises(Unauthenticated):
            ours.models()


def test_what_is_no_token_file_is_named(tmp_path):
    (tmp_path / "two").write_text("one\ntwo\n")
    for name in ("none", "two"):
        with pytest.raises(InvalidInput, match="token file: expected"):
            token_of_file(tmp_path / name)


def test_a_certificate_says_who_calls(callers, pems, authority):
    callers.add_certificate("gateway.example", "acme")
    callers.add_certificate("backup", "acme")
    known = authority.issue("gateway.example", into="known").shown(authority)
    common = authority.issue("some.example", common_name="backup", into="common").shown(authority)
    stranger = authority.issue("stranger.example", into="stranger").shown(authority)
    token = callers.add("admin", roles=["admin"])
    with test_server([RunningSum()], **pems.settings, tls_client_ca=authority.ca, **callers.settings) as server:
        for tls in (known, common):
            with Client(server.target, retry=None, tls=tls) as ours:
                session = ours.session("running-sum")
                assert [info.session_id for info in ours.sessions()] == [session.id]
                session.close()
        with (
            Client(server.target, retry=None, tls=stranger) as theirs,
            pytest.raises(Unauthenticated, match="certificate: none of its names is a caller's"),
        ):
            theirs.models()
        # A token that is shown says who calls, and a wrong one is not made good by a certificate.
        with Client(server.target, retry=None, tls=stranger, token=token) as admin:
            assert list(admin.all_sessions()) == []
        with Client(server.target, retry=None, tls=known, token=new_token()) as theirs, pytest.raises(Unauthenticated):
            theirs.models()


def test_admin_calls_need_the_role(callers, server, token):
    admin = callers.add("operator", "acme", roles=["admin"])
    until(lambda: accepted(server, admin))
    with client(server, token) as ours, client(server, admin) as theirs:
        with pytest.raises(PermissionDenied, match="expected a caller with the role admin, got gateway") as raised:
            list(ours.all_sessions())
        assert raised.value.fields == {"role": "admin"}
        with pytest.raises(PermissionDenied):
            ours.drain()
        ours.session("running-sum", session_id="s")
        assert [(one.tenant, one.session_id) for one in theirs.all_sessions()] == [("acme", "s")]


def test_a_server_drains_when_it_is_asked(callers):
    admin = callers.add("operator", roles=["admin"])
    with test_server([RunningSum()], **callers.settings) as server, client(server, admin) as ours:
        ours.drain()
        until(lambda: not listens(server))


def test_health_is_open_and_its_list_is_not(server):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(server.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        assert stub.Check(health_pb2.HealthCheckRequest()).status == 1
        assert next(stub.Watch(health_pb2.HealthCheckRequest())).status == 1
        with pytest.raises(grpc.RpcError) as refused:
            stub.List(health_pb2.HealthListRequest())
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_metrics_are_open_or_for_those_who_may(callers):
    token, reader = callers.add("gateway", "acme"), callers.add("prometheus", roles=["metrics"])
    with capture_logs() as logged, test_server([RunningSum()], **callers.settings) as server:
        assert b"ntm_serve_sessions" in urlopen(server.http + "/metrics", timeout=10).read()
    assert [one["event"] for one in logged if one["log_level"] == "warning"] == [
        "whoever reaches the HTTP port reads /metrics, which name tenants: set metrics_access to token"
    ]
    with (
        capture_logs() as logged,
        test_server([RunningSum()], **callers.settings, metrics_access="token") as server,
    ):
        assert not any("/metrics" in one["event"] for one in logged)
        assert b"ntm_serve_sessions" in read_metrics(server, f"Bearer {reader}")
        for shown in (None, f"Bearer {token}", reader, f"Basic {reader}", "Bearer x"):
            with pytest.raises(HTTPError, match="401") as refused:
                read_metrics(server, shown)
            assert refused.value.headers["www-authenticate"].startswith("Bearer")
            refused.value.close()
        assert urlopen(server.http + "/readyz", timeout=10).status == 200


def test_metrics_for_those_who_may_need_somebody_to_know_them():
    missing = pytest.raises(SettingsFault, match="metrics_access: expected auth_file or auth_jwt_keys")
    with missing, test_server([RunningSum()], metrics_access="token"):
        pass


def test_the_command_makes_tokens_that_a_server_takes(tmp_path, capsys, monkeypatch):
    def ntm_serve(*arguments):
        monkeypatch.setattr(sys, "argv", ["ntm-serve", "token", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr()

    status, shown = ntm_serve("gätewäy", "--tenant", "acme", "--role", "metrics", "--days", "1")
    assert status == 0
    token = shown.err.strip()
    assert is_token(token)
    assert token not in shown.out
    file = tmp_path / "callers.toml"
    file.write_text(shown.out)
    caller = read_callers(file).by_token(token, datetime.now(UTC).timestamp())
    assert (caller.name, caller.tenant, caller.roles) == ("gätewäy", "acme", {"metrics"})
    assert read_callers(file).by_token(token, (datetime.now(UTC) + timedelta(days=2)).timestamp()) is None

    place = tmp_path / "gateway.token"
    status, shown = ntm_serve("gateway", "--output", place)
    assert (status, shown.err) == (0, "")
    assert place.stat().st_mode & 0o777 == 0o600
    file.write_text(file.read_text() + shown.out)
    assert read_callers(file).by_token(place.read_text().strip(), 0.0).tenant == ""
    assert ntm_serve("gateway", "--output", place)[0] == 1
    assert ntm_serve("gateway", "--tenant", "a|b")[0] == 1


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[[tokens]", "expected TOML"),
        ("a=" + "[" * 5000, "expected TOML"),
        ("[[users]]\nname='a'", r"expected \[\[tokens\]\] and \[\[certificates\]\]"),
        ("tokens = 3", r"expected \[\[tokens\]\], got something else"),
        ("[[tokens]]\nname='a'\nsha256='abc'", "number 1: sha256: expected 64 hexadecimal digits"),
        ("[[tokens]]\nsha256='abc'", "number 1: name: expected"),
        ("[[tokens]]\nname='a'\nexpires=2027-01-01", "expected ends, name, roles, sha256, tenant, got expires"),
        ("[[tokens]]\nname='a'\ntenant='a|b'", r"\(a\): tenant: expected"),
        ("[[tokens]]\nname='a'\nroles=['root']", r"\(a\): roles: expected a list of admin, metrics"),
        ("[[tokens]]\nname='a'\nroles='admin'", "roles: expected a list"),
        (f"[[tokens]]\nname='a'\nsha256='{'0' * 64}'\nends='soon'", "ends: expected a time"),
        (f"[[tokens]]\nname='a'\nsha256='{'0' * 64}'\n" * 2, "number 2: expected a token of its own, got that of a"),
        ("[[certificates]]\nname='a'\n" * 2, "number 2: expected each name once"),
    ],
)
def test_a_file_of_callers_with_a_fault_names_it(tmp_path, text, fault):
    file = tmp_path / "callers.toml"
    file.write_text(text)
    with pytest.raises(SettingsFault, match=fault) as raised:
        read_callers(file)
    assert "abc" not in raised.value.message
    assert "0" * 64 not in raised.value.message


def test_tokens_are_drawn_and_kept_as_their_hash():
    made = {new_token() for _ in range(100)}
    assert len(made) == 100
    assert all(is_token(one) and re.fullmatch(rb"[\x00-\xff]{32}", hash_of(one), re.DOTALL) for one in made)
    assert not is_token("ntms_short")


def test_a_token_that_goes_readable_to_another_machine_is_warned_of():
    with pytest.warns(UserWarning, match="the token goes there readable"):
        Client("192.0.2.1:8001", token="x").close()
    with pytest.warns(UserWarning, match="server:8001"):
        Client("server:8001", token="x").close()
    Client("192.0.2.1:8001", token="x", tls=Tls()).close()
    Client("[::1]:8001", token="x").close()


def test_no_token_is_in_what_is_written(tmp_path, callers, token):
    assert token not in callers.path.read_text()
    assert tomllib.loads(callers.path.read_text())["tokens"][0]["sha256"] == hash_of(token).hex()


def accepted(server, token):
    with client(server, token) as ours:
        try:
            return bool(ours.models())
        except Unauthenticated:
            return False


def listens(server):
    try:
        urlopen(Request(server.http + "/healthz"), timeout=5).close()
    except OSError:
        return False
    return True


def read_metrics(server, authorization):
    headers = {} if authorization is None else {"authorization": authorization}
    with urlopen(Request(server.http + "/metrics", headers=headers), timeout=10) as response:
        return response.read()


def endless():
    while True:
        yield [1]
