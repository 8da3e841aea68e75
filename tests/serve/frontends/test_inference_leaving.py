"""Clients of the Open Inference Protocol that leave, and servers that stop: nothing hangs, and nothing is left."""

import contextlib
import queue
import threading
import time

import grpc
import numpy as np
import pytest

from ntm_serve.client import Client
from ntm_serve.testing import Gate, RunningSum, test_server

from .inference_client import InferenceWire, infer_request, y_of
from .test_nothing_is_left import TIMES, nothing_left, refused
from .wire_client import reason_of

WAIT_S = 30


@pytest.fixture(scope="module", params=["", "sqlite"])
def triton(request, tmp_path_factory):
    store = request.param and f"sqlite:{tmp_path_factory.mktemp('left')}/s.db"
    with test_server([RunningSum()], store=store) as server:
        it = InferenceWire(server.target)
        for name in ("live", "other"):
            it.infer(name, [1], start=True)
        yield it
        it.channel.close()


def sequences(triton):
    triton.infer(1, [1], start=True)
    triton.infer(1, [1])
    triton.infer(1, [1], start=True)
    triton.infer(1, [1], end=True)


def streams(triton):
    requests = [infer_request(k, [1], start=t == 0, end=t == 3) for t in range(4) for k in (1, 2)]
    assert len(list(triton.stream(requests))) == 8


def refusals(triton):
    refused(triton.infer, 404, [1])
    refused(triton.infer, None, [1])
    refused(triton.infer, "live", [np.nan])
    list(
        triton.stream(
            [infer_request(404, [1]), infer_request("live", [np.nan], start=True), infer_request("live", [1])]
        )
    )
    refused(list, triton.stream([infer_request(404, [1])], metadata=[("triton_grpc_error", "true")]))


def extras(triton):
    triton.infer("extra", [1], start=True, ntm_snapshot=True, ntm_step=0)
    triton.infer("fork", [1], start=True, end=True, ntm_fork="extra", timeout=10_000_000)
    triton.infer("extra", [1], end=True)


def streams_that_are_left(triton):
    replies = triton.stream([infer_request("left", [1] * 30, start=t % 3 == 0, end=t % 3 == 2) for t in range(9)])
    next(replies)
    replies.cancel()


def bytes_that_are_no_message(triton):
    path = "/inference.GRPCInferenceService/"
    refused(list, triton.channel.stream_stream(f"{path}ModelStreamInfer")(iter([b"\xff"])))
    refused(triton.channel.unary_unary(f"{path}ModelInfer"), b"\xff")


@pytest.mark.parametrize(
    "act", [sequences, streams, refusals, extras, streams_that_are_left, bytes_that_are_no_message]
)
def test_nothing_of_a_request_is_left_when_it_is_over(triton, act):
    act(triton)
    settle(triton)
    with nothing_left():
        for _ in range(TIMES):
            act(triton)
        settle(triton)


def settle(triton):
    """Each sequence that stays in a state of its own, as steps leave them; what was left in the middle ended."""
    for name in ("live", "other"):
        triton.infer(name, [1])
    triton.infer("left", [1], start=True, end=True)


def test_a_call_that_is_cancelled_makes_no_step_and_holds_nobody_up():
    gate = Gate()
    with test_server([RunningSum(before_run=gate)], compute_threads=1) as server, contextlib.ExitStack() as stack:
        stack.callback(gate.open)
        triton = InferenceWire(server.target)
        stack.callback(triton.channel.close)
        held = threading.Thread(target=lambda: triton.infer("held", [1], start=True))
        held.start()
        gate.await_run()
        # One that has its sequence to itself, and one that waits behind it.
        calls = [triton.stream([infer_request("a", [1], start=True, end=True), infer_request("a", [1], start=True)])]
        with Client(server.target) as client:
            until(lambda: any(one.steps_in_flight for one in client.sessions() if one.session_id.endswith(":a")))
            for call in calls:
                call.cancel()
            until(lambda: not any(one.steps_in_flight for one in client.sessions() if one.session_id.endswith(":a")))
        gate.open()
        held.join()
        assert triton.infer("a", [5], start=True).tolist() == [[5]]


@pytest.mark.parametrize("store", ["", "sqlite"])
def test_a_server_that_stops_answers_what_it_has_and_says_that_it_stops(store, tmp_path):
    gate, replies = Gate(), queue.Queue()
    store = store and f"sqlite:{tmp_path}/s.db"
    with contextlib.ExitStack() as stack:
        serving = test_server([RunningSum(before_run=gate)], compute_threads=1, store=store)
        server = serving.__enter__()
        stack.callback(gate.open)
        triton = InferenceWire(server.target)
        stack.callback(triton.channel.close)
        asked = queue.Queue()
        asked.put(infer_request(1, [1, 2], start=True, end=True))
        call = triton.stream(iter(asked.get, None))

        def read():
            try:
                for reply in call:
                    replies.put(reply)
            except grpc.RpcError as error:
                replies.put(error)

        reading = threading.Thread(target=read)
        reading.start()
        gate.await_run()
        stopping = threading.Thread(target=lambda: serving.__exit__(None, None, None))
        stopping.start()
        until(lambda: server.running.service.draining)
        assert not triton.call("ServerReady").ready
        with pytest.raises(grpc.RpcError) as refusal:
            triton.infer(2, [1], start=True)
        assert (refusal.value.code(), reason_of(refusal.value)[0]) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
        gate.open()
        assert y_of(replies.get(timeout=WAIT_S).infer_response).tolist() == [[1], [3]]
        assert replies.get(timeout=WAIT_S).code() is grpc.StatusCode.UNAVAILABLE
        stopping.join()
        reading.join()
        asked.put(None)


def until(condition):
    end_s = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end_s, "it never came to hold"
        time.sleep(0.01)
