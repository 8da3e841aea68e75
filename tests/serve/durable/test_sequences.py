"""Sequences of the Open Inference Protocol on servers that share a redis."""

import threading

import grpc
import pytest
from serve.exposition import scrape, value
from serve.frontends.inference_client import InferenceWire
from serve.frontends.wire_client import reason_of
from serve.stores.redis_server import RedisServer

from ntm_serve.testing import Gate, RunningSum, test_server


@pytest.fixture(autouse=True)
def clock():
    """The servers' own time, here: it is real."""


@pytest.fixture(scope="module")
def redis_server():
    server = RedisServer()
    yield server
    server.remove()


@pytest.fixture
def shared(redis_server, tmp_path):
    return {"store": redis_server.url, "store_prefix": tmp_path.name}


def test_a_sequence_goes_on_at_whichever_server_it_is_sent_to(shared):
    with test_server([RunningSum()], **shared) as one, test_server([RunningSum()], **shared) as other:
        here, there = InferenceWire(one.target), InferenceWire(other.target)
        here.infer(1, [1], start=True)
        for total in (2, 4, 6):
            assert there.infer(1, [1]).tolist() == [[total]]
            assert here.infer(1, [1]).tolist() == [[total + 1]]
        # Begun anew where another server has it, and ended there.
        assert there.infer(1, [5], start=True).tolist() == [[5]]
        assert here.infer(1, [1], end=True).tolist() == [[6]]
        assert value(scrape(other), "ntm_serve_sequences_restarted_total") == 1
        with pytest.raises(grpc.RpcError, match=r"must specify the START flag.*reason=CLOSED"):
            there.infer(1, [1])


def test_a_sequence_that_another_server_is_busy_with_is_not_told_to_start(shared):
    gate = Gate()
    settings = {"handover_s": 0.05, **shared}
    with test_server([RunningSum(before_run=gate)], **shared) as one, test_server([RunningSum()], **settings) as other:
        here, there = InferenceWire(one.target), InferenceWire(other.target)
        stepping = threading.Thread(target=lambda: here.infer(1, [1], start=True))
        stepping.start()
        gate.await_run()
        with pytest.raises(grpc.RpcError) as refused:
            there.infer(1, [1])
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert reason_of(refused.value)[0] == "OWNED_ELSEWHERE"
        assert "START" not in refused.value.details()
        assert refused.value.details().endswith("; reason=OWNED_ELSEWHERE")
        gate.open()
        stepping.join()
        assert here.infer(1, [1]).tolist() == [[2]]
