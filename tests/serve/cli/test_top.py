"""`ntm-serve top`: what it makes of two readings, and what it shows of a real server."""

import json
import re
import signal
import subprocess
import threading
import warnings
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from rich.console import Console

from ntm_serve.cli.gauging import Between, ModelLine, quantile, reading
from ntm_serve.cli.options import Connection
from ntm_serve.cli.top import Metrics, View, busiest, drawn
from ntm_serve.client import Client
from ntm_serve.errors import SettingsFault

from .conftest import SCRIPT, environment

TEXT = """
ntm_serve_ready 1
ntm_serve_model_ready{{model="m",version="1"}} 1
ntm_serve_model_ready{{model="m",version="10"}} 0
ntm_serve_model_ready{{model="m",version="9"}} 1
ntm_serve_sessions{{model="m",version="1",tier="hot"}} {sessions}
ntm_serve_steps_total{{model="m",version="1",outcome="ok"}} {steps}
ntm_serve_steps_total{{model="m",version="1",outcome="error"}} 3
ntm_serve_step_latency_seconds_bucket{{model="m",version="1",le="0.01"}} {fast}
ntm_serve_step_latency_seconds_bucket{{model="m",version="1",le="0.1"}} {slow}
ntm_serve_step_latency_seconds_bucket{{model="m",version="1",le="+Inf"}} {slow}
ntm_serve_batch_size_sum{{model="m",version="1"}} {steps}
ntm_serve_batch_size_count{{model="m",version="1"}} {slow}
ntm_serve_store_sessions 70
"""


def told(at_s, *servers):
    return reading([TEXT.format(**one) for one in servers], at_s)


def one(sessions=5, steps=100, fast=10, slow=20):
    return {"sessions": sessions, "steps": steps, "fast": fast, "slow": slow}


def test_rates_are_of_what_was_counted_between_two_readings():
    between = Between(told(10.0, one()), told(12.0, one(sessions=7, steps=300, fast=10, slow=70)))
    line = between.models()[0]
    assert line == ModelLine(
        model="m", version="1", ready=True, sessions=7, steps_s=100.0, errors_s=0.0, refused_s=0.0,
        latency_p50_s=pytest.approx(0.055), latency_p99_s=pytest.approx(0.0991), queue_wait_p99_s=None,
        batch_mean=4.0, steps_waiting=0,
    )  # fmt: skip
    assert [(one.version, one.ready) for one in between.models()] == [("1", True), ("9", True), ("10", False)]


def test_servers_add_up_and_share_their_store():
    between = Between(told(0.0, one(), one()), told(1.0, one(steps=150), one(steps=110)))
    server = between.server(2)
    assert (server.servers, server.servers_ready, server.sessions, server.stored_sessions) == (2, 2, 10, 70)
    assert server.steps_s == 60.0


def test_a_server_that_was_restarted_counts_from_nothing():
    between = Between(told(0.0, one(steps=1000, fast=50, slow=60)), told(1.0, one(steps=40, fast=4, slow=4)))
    line = between.models()[0]
    assert line.steps_s == 40.0
    assert line.latency_p99_s == pytest.approx(0.0099)


def test_a_quantile_is_where_prometheus_has_it():
    infinite = float("inf")
    assert quantile(0.5, {}) is None
    assert quantile(0.5, {0.1: 0, infinite: 0}) is None
    assert quantile(0.5, {0.1: 10, infinite: 10}) == pytest.approx(0.05)
    assert quantile(0.5, {0.1: 0, 0.2: 10, infinite: 10}) == pytest.approx(0.15)
    assert quantile(0.99, {0.1: 1, infinite: 10}) == 0.1, "no more is known"


@pytest.fixture
def stepped(served):
    """A client's session that makes a step again and again."""
    over = threading.Event()
    with Client(served.target) as client, client.session("copy-ff", session_id="stepped") as session:
        zeros = np.zeros(session.inputs[0].shape, np.float32)

        def run():
            while not over.is_set():
                session.step(zeros)

        thread = threading.Thread(target=run)
        thread.start()
        with client.session("copy-ff", session_id="idle"):
            yield client
        over.set()
        thread.join()


@pytest.fixture
def metrics(served):
    return ("--metrics", f"http://127.0.0.1:{served.http_port}/metrics")


def test_it_shows_models_and_the_busiest_sessions_of_a_server(cli, metrics, stepped):
    ended = cli("top", *metrics, "--once", "--interval-s", "0.3")
    assert (ended.status, ended.err) == (0, "")
    head, _, *rest = ended.out.splitlines()
    assert re.match(r"servers 1 of 1 ready   sessions \d+ in memory   steps/s [1-9]", head)
    assert rest[0].split()[:3] == ["model", "state", "sessions"]
    assert rest[1].split()[:2] == ["copy-ff/1", "ready"]
    assert rest[3].split()[:3] == ["session", "model", "next"]
    assert rest[4].split()[:2] == ["stepped", "copy-ff/1"]


def test_as_json_it_has_the_same_figures_again_and_again_until_it_is_told_to_end(served, metrics, stepped):
    command = [SCRIPT, "top", *metrics, "--server", served.target, "--json", "--interval-s", "0.2", "--sessions", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()) as top:
        views = [json.loads(top.stdout.readline()) for _ in range(2)]
        top.send_signal(signal.SIGINT)
        _, err = top.communicate(timeout=30)
    assert (top.returncode, err) == (0, "")
    for view in views:
        assert view["server"]["servers_ready"] == 1
        [model] = view["models"]
        assert model["model"] == "copy-ff"
        assert model["sessions"] >= 2
        assert model["steps_s"] > 0
        assert model["latency_p50_s"] <= model["latency_p99_s"]
        [session] = view["sessions"]
        assert session["session_id"] == "stepped"
        assert session["steps_s"] > 0
    assert views[1]["sessions"][0]["next_step"] > views[0]["sessions"][0]["next_step"]


@pytest.fixture
def elsewhere():
    """A server of metrics that redirects, and the headers that it and whoever it redirects to were sent."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("authorization")))
            if self.path == "/moved":
                self.send_response(302)
                self.send_header("location", f"http://127.0.0.1:{self.server.server_port}/metrics")
                self.end_headers()
            else:
                self.send_response(200)
                self.end_headers()
                self.wfile.write(TEXT.format(**one()).encode())

        def log_message(self, *said):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port, asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("url", ["far.example/metrics", "far.example:8002", "http://:8002", "http://far.example:x/"])
def test_what_is_no_address_is_refused_and_named(url, tmp_path):
    (tmp_path / "token").write_text("t0ken")
    for connection in (Connection(), Connection(token_file=tmp_path / "token")):
        with pytest.raises(SettingsFault, match="expected an address as http://HOST:8002/metrics, got ") as refused:
            Metrics([url], connection)
        assert url in refused.value.message


def test_a_token_that_goes_elsewhere_without_tls_is_told_of_and_goes_to_nobody_else(elsewhere, tmp_path):
    port, asked = elsewhere
    (tmp_path / "token").write_text("t0ken")
    connection = Connection(token_file=tmp_path / "token")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Metrics([f"http://localhost:{port}/metrics", "https://far.example/metrics"], connection)
        Metrics(["http://far.example/metrics"], Connection())
        here = Metrics([f"http://127.0.0.1:{port}/moved"], connection)
    assert here.read().models()
    assert asked == [("/moved", "Bearer t0ken"), ("/metrics", None)]
    with pytest.warns(UserWarning, match=r"far\.example:8002: the token goes there readable .*: https://"):
        Metrics(["http://far.example:8002/metrics"], connection)


def test_sessions_that_are_new_or_were_taken_back_have_made_no_steps(stepped):
    now = {one.session_id: one for one in stepped.sessions()}
    idle = now["idle"]
    before = {"idle": replace(idle, next_step=7)}
    after = {"idle": replace(idle, next_step=3), "new": replace(idle, session_id="new")}
    lines = busiest(before, after, took_s=1.0, shown=5)
    assert [line.steps_s for line in lines] == [0.0, 0.0]


def test_a_session_that_looks_like_markup_is_shown_as_it_is(stepped):
    now = {"a": replace(stepped.session_info("idle"), session_id="[red]")}
    between = Between(told(0.0, one()), told(1.0, one()))
    view = View(between.server(1), between.models(), busiest({}, now, took_s=1.0, shown=1))
    console = Console(width=200)
    with console.capture() as capture:
        console.print(drawn(view, 200))
    assert "[red]" in capture.get()


@pytest.mark.parametrize("width", [80, 100, 130])
def test_the_models_fit_a_terminal_a_line_each(width):
    busy = one(sessions=123_456, steps=2_000_000, fast=1_000_000, slow=2_000_000)
    texts = (TEXT.replace('model="m"', 'model="associative-recall-ff"').format(**each) for each in (one(), busy))
    between = Between(*(reading([text], at_s) for at_s, text in enumerate(texts)))
    console = Console(width=width)
    with console.capture() as capture:
        console.print(drawn(View(between.server(1), between.models(), []), width))
    lines = [line for line in capture.get().splitlines() if line.startswith(("model", "associative-recall-ff/"))]
    assert len(lines) == 4, capture.get()
    assert all("p99" in line or "ms" in line or "/9" in line or "/10" in line for line in lines)


def test_into_a_pipe_goes_a_table_for_each_look(served, metrics, stepped):
    command = [SCRIPT, "top", *metrics, "--server", served.target, "--interval-s", "0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()) as top:
        seen = [top.stdout.readline() for _ in range(20)]
        top.send_signal(signal.SIGINT)
        _, err = top.communicate(timeout=30)
    assert (top.returncode, err) == (0, "")
    assert sum(line.startswith("model") for line in seen) >= 2


def test_where_there_are_no_metrics_it_says_so(cli):
    ended = cli("top", "--metrics", "http://127.0.0.1:1/metrics", "--once")
    assert ended.status == 1
    (line,) = ended.err.splitlines()
    assert "expected a server's metrics at http://127.0.0.1:1/metrics" in line
