"""The log of sessions: a line for each change of a session's state, with session, model and step; a step is none."""

import contextlib
import io
import json

import pytest
import structlog

from ntm_serve.cli.serving import configure_log
from ntm_serve.client import Client
from ntm_serve.config import read_settings
from ntm_serve.errors import SessionEvicted
from ntm_serve.testing import RunningSum, test_server


@contextlib.contextmanager
def logged(monkeypatch, **settings):
    """What a server with these settings writes about sessions: (change, session, model, step), as it is written."""
    stderr = io.StringIO()
    monkeypatch.setattr("sys.stderr", stderr)
    configure_log(read_settings({"log_format": "json", **settings}))
    try:
        yield lambda: [
            (line["event"].removeprefix("session "), line["session"], line.get("model"), line.get("step"))
            for line in map(json.loads, stderr.getvalue().splitlines())
            if line["event"].startswith("session ")
        ]
    finally:
        structlog.reset_defaults()


def test_every_change_of_a_session_is_a_line(monkeypatch, tmp_path):
    model = "running-sum/1"
    options = {
        "log_sessions": "yes",
        "resident_bytes_max": RunningSum().spec.state_bytes,
        "store": f"sqlite:{tmp_path}/s",
    }
    with logged(monkeypatch, **options) as lines:
        with test_server([RunningSum()], **options) as server, Client(server.target) as client:
            a = client.session("running-sum", session_id="a")
            a.step([[1], [2]])
            assert lines() == [("opened", "a", model, 0)], "a step is no line"
            client.session("running-sum", session_id="b")
            assert lines()[1:] == [("opened", "b", model, 0), ("left memory", "a", model, 2)]
            a.step([3])
            assert lines()[3:] == [("woken", "a", model, 2), ("left memory", "b", model, 0)]
            a.rewind(1)
            a.close()
            client.close_session("b")
            assert lines()[5:] == [("rewound", "a", model, 1), ("closed", "a", model, 1), ("closed", "b", model, 0)]
            client.session("running-sum", session_id="c", durability="memory")
            client.session("running-sum", session_id="d")
            with pytest.raises(SessionEvicted):
                client.session_info("c")
            assert lines()[8:] == [("opened", "c", model, 0), ("opened", "d", model, 0), ("evicted", "c", model, 0)]
        assert lines()[11:] == [("left memory", "d", model, 0)]


def test_sessions_that_expire_are_lines(monkeypatch, tmp_path):
    options = {"log_sessions": "yes", "store": f"sqlite:{tmp_path}/s", "idle_life_s": 0.05}
    monkeypatch.setattr("ntm_serve.app.EXPIRY_INTERVAL_S", 0.05)
    with (
        logged(monkeypatch, **options) as lines,
        test_server([RunningSum()], **options) as server,
        Client(server.target) as client,
    ):
        client.session("running-sum", session_id="a")
        client.session("running-sum", session_id="b")
        while len([line for line in lines() if line[0] == "expired"]) < 2:
            pass
        assert set(lines()[-2:]) == {("expired", name, "running-sum/1", 0) for name in "ab"}


def test_sessions_that_only_the_store_has_expire_with_a_line(monkeypatch, tmp_path):
    options = {"log_sessions": "yes", "store": f"sqlite:{tmp_path}/s"}
    with test_server([RunningSum()], **options) as server, Client(server.target) as client:
        client.session("running-sum", session_id="a")
    monkeypatch.setattr("ntm_serve.app.EXPIRY_INTERVAL_S", 0.05)
    with logged(monkeypatch, **options) as lines, test_server([RunningSum()], **options, idle_life_s=0.05):
        while ("expired", "a", None, None) not in lines():
            pass


def test_unless_they_are_asked_for_there_are_none(monkeypatch):
    with logged(monkeypatch) as lines:
        with test_server([RunningSum()]) as server, Client(server.target) as client:
            client.session("running-sum").close()
        assert lines() == []
