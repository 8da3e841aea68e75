"""Readiness: a server whose store is away for longer than patience is out of rotation, and comes back by itself."""

import subprocess
import sys
from urllib.error import HTTPError
from urllib.request import urlopen

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ntm_serve import readiness
from ntm_serve.client import Client
from ntm_serve.errors import InvalidInput
from ntm_serve.readiness import Readiness
from ntm_serve.testing import RunningSum, test_server

from .exposition import scrape, value
from .stores.redis_server import RedisServer, wait_until

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def readiness_of(*, draining=False, silent_s=None, patience_s=5.0):
    ask = None if silent_s is None else lambda: silent_s
    return Readiness(is_draining=lambda: draining, store_silent_s=ask, patience_s=patience_s)


def test_a_server_without_a_store_is_ready_until_it_drains():
    assert readiness_of().faults() == []
    assert readiness_of(draining=True).faults() == ["the server is draining"]
    assert readiness_of(draining=True).faults(["store"]) == ["the server is draining"]


def test_a_store_counts_once_patience_with_it_is_over_and_unless_it_is_left_out():
    assert readiness_of(silent_s=4.9).faults() == []
    away = readiness_of(silent_s=5.1)
    assert away.faults() == ["the store has not answered for more than 5 s"]
    assert away.faults(["store"]) == []
    with pytest.raises(InvalidInput, match="expected store, got engine"):
        away.faults(["engine"])


def test_without_patience_the_pause_between_two_words_is_still_no_silence():
    assert readiness_of(silent_s=1.9, patience_s=0.0).faults() == []


def test_a_server_whose_redis_stands_still_is_not_ready_until_it_goes_on(monkeypatch):
    monkeypatch.setattr(readiness, "SILENCE_MIN_S", 0.3)
    monkeypatch.setattr(readiness, "LOOK_S", 0.02)
    redis = RedisServer()
    try:
        with (
            test_server([RunningSum()], store=redis.url, store_patience_s=0.3) as server,
            grpc.insecure_channel(server.target) as channel,
            Client(server.target, retry=None) as client,
        ):
            check = health_pb2_grpc.HealthStub(channel).Check

            def status(path="/readyz"):
                try:
                    with urlopen(server.http + path, timeout=10) as response:
                        return response.status
                except HTTPError as refused:
                    with refused:
                        return refused.code

            def serving(name=""):
                return check(health_pb2.HealthCheckRequest(service=name), timeout=10).status

            memory = client.session("running-sum", durability="memory")
            assert (status(), serving(), serving("running-sum")) == (200, SERVING, SERVING)
            redis.pause()
            wait_until(lambda: status() == 503, "the server to be not ready")
            wait_until(lambda: serving() == NOT_SERVING, "health to say the same")
            assert serving("running-sum") == NOT_SERVING
            series = scrape(server)
            assert value(series, "ntm_serve_ready") == 0
            assert value(series, "ntm_serve_store_silent_seconds") > 0.3
            assert (status("/readyz?exclude=store"), status("/healthz"), serving("liveness")) == (200, 200, SERVING)
            assert memory.step([1]).tolist() == [1], "what needs no store goes on"
            redis.go_on()
            wait_until(lambda: status() == 200, "the server to be ready again")
            wait_until(lambda: serving() == SERVING, "health to say the same")
            wait_until(lambda: value(scrape(server), "ntm_serve_ready") == 1, "the metric to say the same")
    finally:
        redis.remove()


def asked(target, *arguments):
    command = [sys.executable, "-m", "ntm_serve.cli", "health", "--server", target, "--timeout-s", "10", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_command_for_health_checks_says_what_it_is_told():
    with test_server([RunningSum()]) as server:
        for name in ((), ("running-sum",), ("liveness",)):
            ended = asked(server.target, *name)
            assert (ended.returncode, ended.stdout, ended.stderr) == (0, "SERVING\n", "")
        ended = asked(server.target, "another")
        assert (ended.returncode, ended.stdout) == (1, "")
        assert "expected one of" in ended.stderr
    ended = asked(server.target)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert len(ended.stderr.splitlines()) == 1
