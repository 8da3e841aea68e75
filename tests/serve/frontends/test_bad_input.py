"""Bad input over a real socket: each kind has its own status and a message that names the thing, the
expected and the actual; the session and its neighbour go on as if nothing had happened.
"""

import queue
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from ntm_serve.testing import RunningSum, test_server
from ntm_serve.v1 import sessions_pb2, tensor_pb2
from ntm_serve.wire import tensor_of

from .wire_client import Wire, reason_of, request, values

CODE = grpc.StatusCode


def raw(data, *, shape=(1, 1, 1), dtype=tensor_pb2.DATA_TYPE_FLOAT32, name="x", ids=("a",), **more):
    tensor = tensor_pb2.Tensor(name=name, dtype=dtype, shape=shape, data=data)
    return sessions_pb2.StepRequest(session_ids=ids, inputs=[tensor], **more)


BAD = {
    "a wrong dtype": (
        raw(b"12345678", dtype=tensor_pb2.DATA_TYPE_FLOAT64),
        CODE.INVALID_ARGUMENT, "INVALID_INPUT", "x: expected float32[S, T, 1], got float64[1, 1, 1]",
    ),
    "a wrong shape": (
        raw(b"12345678", shape=(1, 1, 2)),
        CODE.INVALID_ARGUMENT, "INVALID_INPUT", "x: expected float32[S, T, 1], got float32[1, 1, 2]",
    ),
    "a missing axis": (
        raw(b"1234", shape=(1, 1)),
        CODE.INVALID_ARGUMENT, "INVALID_INPUT", "x: expected float32[S, T, 1], got float32[1, 1]",
    ),
    "a wrong number of bytes": (
        raw(b"12345"),
        CODE.INVALID_ARGUMENT, "INVALID_INPUT", "x: expected 4 bytes for float32[1, 1, 1], got 5",
    ),
    "an unknown dtype": (
        raw(b"1234", dtype=77),
        CODE.INVALID_ARGUMENT, "INVALID_INPUT", "x: expected a known dtype, got number 77",
    ),
    "an unknown input": (
        raw(b"1234", name="z"),
        CODE.INVALID_ARGUMENT, "INVALID_INPUT", "inputs: expected ['x'], got ['z']",
    ),
    "no input": (
        sessions_pb2.StepRequest(session_ids=["a"]),
        CODE.INVALID_ARGUMENT, "INVALID_INPUT", "inputs: expected at least one, got none",
    ),
    "T = 0": (
        raw(b"", shape=(1, 0, 1)),
        CODE.INVALID_ARGUMENT, "INVALID_INPUT", "inputs: expected 1 <= T <= 50 steps, got T = 0",
    ),
    "too many steps": (
        request("a", np.zeros(51)),
        CODE.RESOURCE_EXHAUSTED, "TOO_LARGE", "inputs: expected 1 <= T <= 50 steps, got T = 51",
    ),
    "NaN": (
        request("a", [[0, np.nan]]),
        CODE.INVALID_ARGUMENT, "INVALID_INPUT", "x: expected finite numbers, got nan at [1, 0]",
    ),
    "infinity": (
        request("a", [[np.inf]]),
        CODE.INVALID_ARGUMENT, "INVALID_INPUT", "x: expected finite numbers, got inf at [0, 0]",
    ),
    "a step number too high": (
        request("a", [[1]], [9]),
        CODE.OUT_OF_RANGE, "STEP_AHEAD", "session a: expected step 2, got 9",
    ),
    "a step number that means nothing": (
        request("a", [[1]], [-7]),
        CODE.INVALID_ARGUMENT, "INVALID_INPUT", "first_steps: expected numbers of at least 0, "
        "or -1 for the next step, got -7",
    ),
    "an old step with other inputs": (
        request("a", [[8]], [1]),
        CODE.ABORTED, "STEP_CONFLICT", "session a: steps 1 to 1 were taken with other inputs; "
        "the session's next step is 2: does another client step this session?",
    ),
    "an unknown session": (
        request("nobody", [[1]]),
        CODE.NOT_FOUND, "UNKNOWN", "session nobody: expected the name of an open session; this one was never seen",
    ),
    "a closed session": (
        request("closed", [[1]]),
        CODE.NOT_FOUND, "CLOSED", "session closed: was closed after 0 steps",
    ),
    "no session": (
        raw(b"", shape=(0, 1, 1), ids=()),
        CODE.INVALID_ARGUMENT, "INVALID_INPUT", "session_ids: expected 1 to 4096 sessions, got 0",
    ),
    "a state that would overflow": (
        request("a", [[3e38, 3e38]]),
        CODE.FAILED_PRECONDITION, "NON_FINITE_STATE", "session a: step 3: expected a finite next state, "
        "got NaN or infinity; the session stays at step 2",
    ),
    "a message over the limit": (
        raw(b"x" * 8192, shape=(1, 1, 2048)),
        CODE.RESOURCE_EXHAUSTED, None, "larger than max",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def server():
    with test_server([RunningSum()], steps_per_message_max=50, message_bytes_max=4096) as running:
        yield running


@pytest.fixture
def wire(server):
    """Sessions a and b, both at step 2 with the sum 3; one that was closed."""
    it = Wire(server.target)
    for name in ("a", "b", "closed"):
        it.open(name)
    it.step(["a", "b"], [[1, 2], [1, 2]])
    it.sessions.Close(sessions_pb2.CloseRequest(session_id="closed"))
    yield it
    for name in "ab":
        it.sessions.Close(sessions_pb2.CloseRequest(session_id=name))
    it.channel.close()


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_in_a_call_is_named_and_nothing_is_lost(wire, kind):
    bad, code, reason, says = BAD[kind]
    with pytest.raises(grpc.RpcError) as refused:
        wire.sessions.Step(bad)
    assert refused.value.code() is code
    assert says in refused.value.details()
    if reason is not None:
        assert reason_of(refused.value)[0] == reason
    for name in "ab":
        shown = wire.get(name)
        assert (shown.next_step, shown.steps_in_flight) == (2, 0)
        assert values(wire.step(name, [[4]], [2])) == [[7]]


@pytest.mark.parametrize("kind", [kind for kind in BAD if kind != "a message over the limit"])
def test_bad_input_in_a_stream_is_named_and_the_stream_goes_on(wire, kind):
    bad, code, reason, says = BAD[kind]
    outbox = queue.SimpleQueue()
    replies = wire.sessions.Stream(iter(outbox.get, None))
    # What follows is sent once the bad one is answered; before that its steps would be in flight.
    outbox.put(sessions_pb2.StreamRequest(step=bad))
    first = next(replies).step
    for name in "ba":
        outbox.put(sessions_pb2.StreamRequest(step=request(name, [[4]], [2])))
    outbox.put(None)
    second, third = (reply.step for reply in replies)
    error = first.error if first.HasField("error") else first.failures[0].error
    assert (error.code, error.reason) == (code.value[0], reason)
    assert says in error.message
    assert values(second) == values(third) == [[7]]


def test_a_message_over_the_limit_ends_its_stream_and_harms_no_session(wire):
    with pytest.raises(grpc.RpcError) as refused:
        wire.stream([request("a", [[4]], [2]), BAD["a message over the limit"][0]])
    assert refused.value.code() is CODE.RESOURCE_EXHAUSTED
    assert values(wire.step("b", [[4]], [2])) == [[7]]
    assert values(wire.step("a", [[4]], [2])) == [[7]]


@pytest.mark.parametrize("call", ["Get", "Close"])
@pytest.mark.parametrize(("session_id", "reason"), [("nobody", "UNKNOWN"), ("closed", "CLOSED"), ("", "UNKNOWN")])
def test_showing_and_closing_what_is_not_open_says_why(wire, call, session_id, reason):
    message = getattr(sessions_pb2, f"{call}Request")(session_id=session_id)
    with pytest.raises(grpc.RpcError) as refused:
        getattr(wire.sessions, call)(message)
    assert refused.value.code() is CODE.NOT_FOUND
    assert reason_of(refused.value)[0] == reason


def test_opening_an_unknown_model_names_those_there_are(wire):
    with pytest.raises(grpc.RpcError) as refused:
        wire.open(model="nobody")
    assert refused.value.code() is CODE.NOT_FOUND
    assert refused.value.details() == "model nobody: expected one of running-sum/1"


@pytest.mark.parametrize("name", ["a b", "x" * 129])
def test_opening_under_an_impossible_name_is_refused(wire, name):
    with pytest.raises(grpc.RpcError) as refused:
        wire.open(name)
    assert refused.value.code() is CODE.INVALID_ARGUMENT
    assert "session id: expected 1 to 128 of" in refused.value.details()


def test_two_clients_that_step_one_session_at_once_find_out(server, wire):
    """Each numbers its steps as if it were alone. Every number is made once; whoever comes second is told."""
    clients, rounds = 4, 40
    start = threading.Barrier(clients)
    reasons = set()
    wire.open("shared")

    def step(client):
        mine, told = [], 0
        own = Wire(server.target)
        start.wait(20)
        for number in range(rounds):
            try:
                response = own.step("shared", [[client + 1]], [number])
                mine.append((number, values(response)[0][0]))
            except grpc.RpcError as refused:
                reasons.add((refused.code(), reason_of(refused)[0]))
                told += 1
        own.channel.close()
        return mine, told

    with ThreadPoolExecutor(clients) as threads:
        outcomes = list(threads.map(step, range(clients)))
    made = sorted(pair for mine, _ in outcomes for pair in mine)
    assert [number for number, _ in made] == list(range(len(made)))
    assert sum(told for _, told in outcomes) == clients * rounds - len(made)
    assert wire.get("shared").next_step == len(made)
    assert reasons <= {
        (CODE.ABORTED, "STEP_CONFLICT"),
        (CODE.OUT_OF_RANGE, "STEP_AHEAD"),
        (CODE.OUT_OF_RANGE, "STEP_FORGOTTEN"),
    }
    # The sum is that of the steps that were made, each once.
    by_client = [len(mine) * (client + 1) for client, (mine, _) in enumerate(outcomes)]
    assert made[-1][1] == sum(by_client)
    wire.sessions.Close(sessions_pb2.CloseRequest(session_id="shared"))


def test_bytes_that_are_no_message_are_refused(server, wire):
    call = wire.channel.unary_unary("/ntm_serve.v1.Sessions/Step")
    with pytest.raises(grpc.RpcError) as refused:
        call(b"\xff\xff\xff\xff")
    assert refused.value.code() in (CODE.INTERNAL, CODE.INVALID_ARGUMENT, CODE.UNKNOWN)
    assert values(wire.step("a", [[4]], [2])) == [[7]]


def test_the_same_input_twice_is_refused(wire):
    x = tensor_of("x", np.zeros((1, 1, 1), np.float32))
    with pytest.raises(grpc.RpcError) as refused:
        wire.sessions.Step(sessions_pb2.StepRequest(session_ids=["a"], inputs=[x, x]))
    assert refused.value.details() == "x: expected each tensor once in a message"
