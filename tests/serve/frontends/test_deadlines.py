"""A call whose deadline passes: what was not run is not run, and the session stands where it stood."""

import contextlib

import grpc
import pytest

from ntm_serve.testing import Gate, RunningSum, test_server
from ntm_serve.v1 import sessions_pb2

from .wire_client import Wire, request, values

WAIT_S = 20.0
SHORT_S = 0.2


@pytest.fixture
def held():
    """A wire, a gate and its model, whose first run, of session b, is held."""
    gate = Gate()
    model = RunningSum(before_run=gate)
    with test_server([model], compute_threads=1) as server, contextlib.ExitStack() as stack:
        wire = Wire(server.target)
        stack.callback(wire.channel.close)
        stack.callback(gate.open)
        for name in "ab":
            wire.open(name)
        first = wire.sessions.Step.future(request("b", [[5]]))
        gate.await_run()
        yield wire, gate, model
        assert values(first.result(WAIT_S)) == [[5]]


def unary(wire):
    wire.sessions.Step(request("a", [[1, 1, 1]]), timeout=SHORT_S)


def stream(wire):
    messages = [sessions_pb2.StreamRequest(step=request("a", [[1, 1]]))] * 3
    list(wire.sessions.Stream(iter(messages), timeout=SHORT_S))


@pytest.mark.parametrize("call", [unary, stream])
def test_a_step_whose_deadline_passed_before_it_ran_is_not_run(held, call):
    wire, gate, model = held
    with pytest.raises(grpc.RpcError) as late:
        call(wire)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    while wire.get("a").steps_in_flight:
        pass
    gate.open()
    # The next step is session a's first, and nothing ran but it and what was held.
    assert values(wire.step("a", [[7]])) == [[7]]
    assert model.batches == [1, 1]
    assert wire.get("a").next_step == 1


def test_a_message_whose_deadline_passed_while_it_was_computed_is_not_kept_nor_computed_further(held):
    wire, gate, model = held
    neighbour = wire.sessions.Step.future(request("a", [[1] * 5]), timeout=SHORT_S)
    gate.let_through(2)
    gate.await_run()
    gate.await_run()
    assert neighbour.exception(WAIT_S).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    while wire.get("a").steps_in_flight:
        pass
    gate.open()
    assert wire.get("a").next_step == 0
    assert values(wire.step("a", [[7]])) == [[7]]
    # Of the five steps two had begun.
    assert len(model.batches) == 1 + 2 + 1
