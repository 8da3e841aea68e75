"""TLS over real sockets: who may connect, who may not, and certificates that are renewed meanwhile."""

import json
import ssl
import sys
import time
from urllib.request import urlopen

import numpy as np
import pytest

from ntm_serve.cli import main
from ntm_serve.client import AsyncClient, Client, Tls
from ntm_serve.errors import InvalidInput, ServerUnreachable, SettingsFault
from ntm_serve.testing import RunningSum, test_server

from .conftest import replace

# How long a renewal may take to be seen: files are looked at every two seconds.
SEEN_S = 30.0


@pytest.fixture
def server(pems):
    with test_server([RunningSum()], **pems.settings) as running:
        yield running


@pytest.fixture
def mutual(pems, authority):
    """A server whose clients must have a certificate."""
    with test_server([RunningSum()], **pems.settings, tls_client_ca=authority.ca) as running:
        yield running


def total(target, tls):
    """What a session says after 1 and 2."""
    with Client(target, retry=None, timeout_s=10, tls=tls) as client, client.session("running-sum") as session:
        session.step([1])
        return session.step([2]).tolist()


def test_a_session_is_stepped_over_tls(server, pems):
    assert total(server.target, Tls(ca=pems.ca)) == [3]


def test_streams_and_groups_go_over_tls(server, pems):
    with Client(server.target, tls=Tls(ca=pems.ca)) as client, client.session("running-sum") as session:
        assert [y.tolist() for y in session.stream([[1]] * 3)] == [[1], [2], [3]]
        with client.group("running-sum") as group:
            assert group.step({"a": [1], "b": [2]})["b"].tolist() == [2]


async def test_the_async_client_speaks_tls(server, pems):
    async with AsyncClient(server.target, tls=Tls(ca=str(pems.ca))) as client:
        async with client.session("running-sum") as session:
            assert (await session.step([1])).tolist() == [1]
        async with client.group("running-sum") as group:
            assert [answers["a"].tolist() async for answers in group.stream([{"a": [1]}] * 2)] == [[1], [2]]


def test_who_speaks_no_tls_is_not_answered(server):
    with pytest.raises(ServerUnreachable):
        total(server.target, None)


def test_a_server_of_a_strange_authority_is_not_spoken_to(server, stranger):
    with pytest.raises(ServerUnreachable, match="UNAVAILABLE"):
        total(server.target, Tls(ca=stranger.ca))


def test_a_server_of_another_name_is_not_spoken_to_but_by_that_name(authority):
    other = authority.issue("elsewhere.example", into="elsewhere")
    with test_server([RunningSum()], **other.settings) as server:
        with pytest.raises(ServerUnreachable):
            total(server.target, Tls(ca=authority.ca))
        assert total(server.target, Tls(ca=authority.ca, server_name="elsewhere.example")) == [3]


def test_a_certificate_that_ended_keeps_a_server_from_starting(authority):
    ended = authority.issue("localhost", days=-1, into="ended")
    refused(ended.settings, "tls_cert: expected a certificate that holds, got one that ended 20")


def test_the_key_of_another_certificate_keeps_a_server_from_starting(authority, pems):
    other = authority.issue("localhost", into="other")
    refused({"tls_cert": pems.cert, "tls_key": other.key}, "tls_key: expected the key of the certificate at")


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        ({"tls_cert": "server.pem"}, "tls_cert, tls_key: expected both or none"),
        ({"tls_client_ca": "ca.pem"}, "tls_client_ca: expected tls_cert and tls_key as well"),
        ({"tls_cert": "ca.pem", "tls_key": "ca.pem"}, "tls_key: expected a PEM key"),
        ({"tls_cert": "server.key", "tls_key": "server.key"}, "tls_cert: expected PEM certificates"),
        ({"tls_cert": "nowhere.pem", "tls_key": "server.key"}, "tls_cert: expected a file that can be read"),
    ],
)
def test_files_that_are_none_are_named(pems, files, fault):
    assert "PRIVATE" not in refused({name: pems.ca.parent / file for name, file in files.items()}, fault)


def test_a_client_with_a_certificate_is_let_in(mutual, authority):
    shown = authority.issue("gateway.example", into="client").shown(authority)
    assert total(mutual.target, shown) == [3]


def test_a_client_without_a_certificate_is_not_let_in(mutual, authority):
    with pytest.raises(ServerUnreachable):
        total(mutual.target, Tls(ca=authority.ca))


def test_a_client_with_a_certificate_of_a_strange_authority_is_not_let_in(mutual, authority, stranger):
    with pytest.raises(ServerUnreachable):
        total(mutual.target, stranger.issue("gateway.example", into="client").shown(authority))


def test_a_client_with_a_certificate_that_ended_is_not_let_in(mutual, authority):
    with pytest.raises(ServerUnreachable):
        total(mutual.target, authority.issue("gateway.example", days=-1, into="client").shown(authority))


def test_a_renewed_certificate_serves_new_connections_and_old_ones_go_on(tmp_path, authority, stranger):
    pems = authority.issue("localhost", "127.0.0.1", into="server")
    with (
        test_server([RunningSum()], **pems.settings) as server,
        Client(server.target, retry=None, tls=Tls(ca=authority.ca)) as before,
        before.session("running-sum") as session,
    ):
        session.step([1])
        renewed = stranger.issue("localhost", "127.0.0.1", into="server")
        # The certificate first: for a moment the two do not belong together, and nothing is taken of that.
        replace(pems.cert, renewed.cert.read_bytes())
        replace(pems.key, renewed.key.read_bytes())
        wait_until_served(server, stranger.ca)
        assert total(server.target, Tls(ca=stranger.ca)) == [3]
        assert session.step([2]).tolist() == [3]
        with pytest.raises(ServerUnreachable):
            total(server.target, Tls(ca=authority.ca))


def test_renewed_files_that_cannot_be_used_change_nothing(server, pems, authority):
    replace(pems.cert, b"-----BEGIN CERTIFICATE-----\n")
    context = ssl.create_default_context(cafile=pems.ca)
    with urlopen(https(server) + "/metrics", context=context, timeout=10) as response:
        before = served_until(response.read())
    assert total(server.target, Tls(ca=pems.ca)) == [3]
    # What is whole again is taken: so the fault before it was looked at, and survived.
    again = authority.issue("localhost", "127.0.0.1", days=40, into="server")
    end_s = time.monotonic() + SEEN_S
    while served_until(urlopen(https(server) + "/metrics", context=context, timeout=10).read()) == before:
        assert time.monotonic() < end_s
        time.sleep(0.1)
    assert total(server.target, Tls(ca=again.ca)) == [3]


def test_authorities_of_clients_are_renewed_too(mutual, pems, authority, stranger):
    shown = stranger.issue("gateway.example", into="client").shown(authority)
    replace(authority.ca.with_name("both.pem"), authority.ca.read_bytes())
    kept = authority.ca.read_bytes()
    replace(authority.ca, kept + stranger.ca.read_bytes())
    end_s = time.monotonic() + SEEN_S
    while True:
        try:
            assert total(mutual.target, shown) == [3]
            return
        except ServerUnreachable:
            assert time.monotonic() < end_s
            time.sleep(0.1)


def test_the_http_port_has_the_same_tls(server, pems):
    context = ssl.create_default_context(cafile=pems.ca)
    with urlopen(https(server) + "/readyz", context=context, timeout=10) as response:
        assert response.status == 200


def test_the_http_port_can_do_without(pems):
    with test_server([RunningSum()], **pems.settings, http_tls=False) as server:
        assert urlopen(server.http + "/readyz", timeout=10).status == 200


def test_what_a_client_cannot_read_is_named(pems, tmp_path):
    with pytest.raises(InvalidInput, match="ca: expected a file that can be read"):
        Client("localhost:1", tls=Tls(ca=tmp_path / "none.pem"))
    with pytest.raises(InvalidInput, match="tls: expected cert and key, or none"):
        Client("localhost:1", tls=Tls(cert=pems.cert))


def test_no_key_is_in_the_text_of_a_tls():
    assert "secret" not in repr(Tls(ca=b"ca", cert=b"cert", key=b"secret"))


def test_every_verb_of_the_command_line_speaks_tls(mutual, authority, tmp_path, capsys, monkeypatch):
    shown = authority.issue("gateway.example", into="client")
    flags = ["--server", mutual.target, "--tls-ca", shown.ca, "--tls-cert", shown.cert, "--tls-key", shown.key]
    x, y, events = tmp_path / "x.npy", tmp_path / "y.npy", tmp_path / "events.jsonl"
    np.save(x, np.ones((3, 1), np.float32))
    events.write_text(json.dumps({"id": "a", "x": [1]}) + "\n")

    def ntm_serve(*arguments):
        monkeypatch.setattr(sys, "argv", ["ntm-serve", *map(str, arguments), *map(str, flags)])
        with pytest.raises(SystemExit) as ended:
            main()
        shown = capsys.readouterr()
        assert ended.value.code == 0, shown.err
        return shown.out

    assert ntm_serve("health") == "SERVING\n"
    assert "running-sum" in ntm_serve("models")
    metrics = https(mutual) + "/metrics"
    assert '"running-sum' in ntm_serve("top", "--once", "--json", "--interval-s", "0.1", "--metrics", metrics)
    ntm_serve("run", "running-sum", "--input", x, "--output", y, "--session-id", "s")
    assert np.load(y)[:, 0].tolist() == [1, 2, 3]
    assert "s " in ntm_serve("sessions")
    ntm_serve("sessions", "show", "s")
    ntm_serve("sessions", "snapshot", "s", "--output", tmp_path / "s.state")
    ntm_serve("sessions", "restore", tmp_path / "s.state", "--session-id", "r")
    ntm_serve("sessions", "fork", "s", "f")
    ntm_serve("sessions", "rewind", "s", "3")
    ntm_serve("sessions", "close", "f")
    ntm_serve("pipe", "running-sum", "--key", "id", "--input", events, "--output", tmp_path / "outputs.jsonl")
    assert '"y"' in (tmp_path / "outputs.jsonl").read_text()


def refused(settings, why):
    """Why a server with these settings does not start."""
    with pytest.raises(SettingsFault, match=why) as raised, test_server([RunningSum()], **settings):
        pass
    return raised.value.message


def https(server):
    return server.http.replace("http:", "https:")


def served_until(exposition):
    """When the certificate ends that is served, as the metric has it."""
    [line] = [
        line for line in exposition.splitlines() if line.startswith(b"ntm_serve_certificate_end_timestamp_seconds ")
    ]
    return float(line.split()[1])


def wait_until_served(server, ca):
    """Until the HTTP port shows a certificate of that authority."""
    end_s = time.monotonic() + SEEN_S
    while True:
        try:
            urlopen(https(server) + "/readyz", context=ssl.create_default_context(cafile=ca), timeout=10).close()
            return
        except OSError:
            assert time.monotonic() < end_s
            time.sleep(0.1)
