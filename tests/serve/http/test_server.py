"""The HTTP port: metrics and the two questions of probes."""

import contextlib
import socket
import time
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from serve.stopping import stopping

from ntm_serve.http.server import CONNECTIONS_MAX


def get(server, path, method="GET"):
    """(status, body) of a path."""
    try:
        with urlopen(Request(server.http + path, method=method), timeout=10) as response:
            return response.status, response.read().decode()
    except HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


def test_a_server_that_takes_sessions_is_alive_and_ready(server):
    assert get(server, "/healthz") == (200, "ok\n")
    assert get(server, "/readyz") == (200, "ready\n")


def test_a_server_that_stops_is_alive_and_not_ready():
    with stopping() as it:
        assert get(it.server, "/healthz") == (200, "ok\n")
        assert get(it.server, "/readyz") == (503, "not ready: the server is draining\n")
        assert get(it.server, "/readyz?exclude=store")[0] == 503
        assert get(it.server, "/metrics")[0] == 200


def test_metrics_are_text_for_prometheus(server):
    with urlopen(server.http + "/metrics", timeout=10) as response:
        assert response.headers["content-type"].startswith("text/plain; version=")
        assert response.read().startswith(b"# HELP ")


@pytest.mark.parametrize(
    ("path", "method", "status"), [("/nothing", "GET", 404), ("/metrics/x", "GET", 404), ("/readyz", "POST", 405)]
)
def test_nothing_else_is_there(server, path, method, status):
    assert get(server, path, method)[0] == status


def test_what_readiness_cannot_leave_out_is_refused(server):
    assert get(server, "/readyz?exclude=store") == (200, "ready\n")
    assert get(server, "/readyz?exclude=engine") == (400, "exclude: expected store, got engine\n")


def is_answered(server):
    try:
        return get(server, "/healthz")[0] == 200
    except ConnectionError:  # Refused while it was sending.
        return False


@pytest.mark.parametrize("begun", [b"", b"GET /healthz HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET"])
def test_connections_that_ask_nothing_keep_no_probe_out(server, begun):
    address = urlsplit(server.http)
    with contextlib.ExitStack() as held:
        for _ in range(CONNECTIONS_MAX):
            one = held.enter_context(socket.create_connection((address.hostname, address.port), timeout=10))
            one.sendall(begun)
        end_s = time.monotonic() + 20.0
        while not is_answered(server):
            assert time.monotonic() < end_s
