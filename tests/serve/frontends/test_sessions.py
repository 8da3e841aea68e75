"""Sessions over a real socket, without the SDK."""

import threading

import grpc
import numpy as np
import pytest

from ntm_serve.frontends.messages import ReplyWriter
from ntm_serve.testing import Gate, RunningSum, test_server
from ntm_serve.v1 import models_pb2, sessions_pb2
from ntm_serve.wire import array_of, tensor_of

from .wire_client import Wire, reason_of, request, values


def test_a_session_is_opened_stepped_shown_and_closed(wire):
    opened = wire.sessions.Open(sessions_pb2.OpenRequest(model="running-sum"))
    session_id = opened.session.session_id
    assert len(session_id) == 32
    assert [(spec.name, list(spec.shape)) for spec in opened.inputs] == [("x", [1])]
    response = wire.step(session_id, [[1, 2, 3]], [0], tag=7)
    assert (response.tag, list(response.session_ids), list(response.next_steps)) == (7, [session_id], [3])
    assert values(response) == [[1, 3, 6]]
    shown = wire.get(session_id)
    assert (shown.next_step, shown.durable_step, shown.state_bytes, shown.model) == (3, 0, 4, "running-sum")
    closed = wire.sessions.Close(sessions_pb2.CloseRequest(session_id=session_id))
    assert closed.session.next_step == 3
    assert not wire.sessions.List(sessions_pb2.ListRequest()).sessions


def test_the_memory_of_a_session_can_be_looked_at(wire):
    wire.open("a")
    wire.step("a", [[1, 2]])
    response = wire.sessions.Get(sessions_pb2.GetRequest(session_id="a", state_names=["*"]))
    (total,) = response.state
    assert (total.name, array_of(total).tolist(), response.session.next_step) == ("total", [3], 2)
    assert not wire.sessions.Get(sessions_pb2.GetRequest(session_id="a")).state
    with pytest.raises(grpc.RpcError) as refused:
        wire.sessions.Get(sessions_pb2.GetRequest(session_id="a", state_names=["link"]))
    assert refused.value.details() == "state_names: expected some of ['total'] or '*', got ['link']"


def test_a_retried_step_is_answered_bit_for_bit_and_not_run_again(wire):
    wire.open("a")
    first = wire.step("a", [[1, 2]], [0])
    again = wire.step("a", [[1, 2]], [0])
    assert first.SerializeToString() == again.SerializeToString()
    assert wire.get("a").next_step == 2
    assert values(wire.step("a", [[4]], [2])) == [[7]]


def test_a_message_may_hold_steps_of_many_sessions(wire):
    for name in "abc":
        wire.open(name)
    response = wire.step(["a", "b", "c"], [[1, 1], [2, 2], [3, 3]])
    assert list(response.session_ids) == ["a", "b", "c"]
    assert values(response) == [[1, 2], [2, 4], [3, 6]]


def test_a_failing_session_of_many_is_a_failure_in_the_reply(wire):
    wire.open("a")
    response = wire.step(["a", "nobody"], [[1], [1]])
    assert list(response.session_ids) == ["a"]
    (failure,) = response.failures
    assert (failure.session_id, failure.error.reason) == ("nobody", "UNKNOWN")
    assert failure.error.code == grpc.StatusCode.NOT_FOUND.value[0]


def test_a_stream_carries_several_sessions_and_answers_each_in_order(wire):
    for name in "ab":
        wire.open(name)
    sent = [request("ab"[i % 2], [[1]], [i // 2], tag=i) for i in range(20)]
    replies = wire.stream(sent)
    assert sorted(reply.tag for reply in replies) == list(range(20))
    for parity, name in enumerate("ab"):
        mine = [reply for reply in replies if list(reply.session_ids) == [name]]
        assert [reply.tag for reply in mine] == list(range(parity, 20, 2))
        assert [values(reply) for reply in mine] == [[[n + 1]] for n in range(10)]


def test_an_error_in_a_stream_is_its_sessions_own_and_the_stream_goes_on(wire):
    wire.open("a")
    replies = wire.stream(
        [
            request("nobody", [[1]], tag=1),
            request("a", [[1]], [5], tag=2),
            request("a", [[1]], [0], tag=3),
            request([], [], tag=4),
            request("a", [[1]], [1], tag=5),
        ]
    )
    by_tag = {reply.tag: reply for reply in replies}
    assert by_tag[1].failures[0].error.reason == "UNKNOWN"
    assert by_tag[2].failures[0].error.reason == "STEP_AHEAD"
    assert by_tag[2].failures[0].error.metadata["expected_step"] == "0"
    assert values(by_tag[3]) == [[1]]
    assert by_tag[4].error.reason == "INVALID_INPUT"
    assert values(by_tag[5]) == [[2]]


def test_sessions_of_a_message_are_answered_together_or_as_they_finish(wire):
    for name in "ab":
        wire.open(name)
    together = request(["a", "b"], [[1], [1]], tag=1)
    (reply,) = wire.stream([together])
    assert list(reply.session_ids) == ["a", "b"]
    apart = request(["a", "nobody", "b"], [[1], [1], [1]], tag=2, reply_mode=sessions_pb2.REPLY_MODE_AS_FINISHED)
    replies = wire.stream([apart])
    assert len(replies) == 3
    assert {name for reply in replies for name in reply.session_ids} == {"a", "b"}
    assert {failure.session_id for reply in replies for failure in reply.failures} == {"nobody"}


def test_as_finished_is_for_streams_alone(wire):
    wire.open("a")
    with pytest.raises(grpc.RpcError) as refused:
        wire.step("a", [[1]], reply_mode=sessions_pb2.REPLY_MODE_AS_FINISHED)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_heartbeat_is_answered(wire):
    beat = sessions_pb2.StreamRequest(heartbeat=sessions_pb2.Heartbeat(tag=9))
    (reply,) = wire.sessions.Stream(iter([beat]))
    assert reply.heartbeat.tag == 9


def test_an_empty_message_on_a_stream_is_refused_and_the_stream_goes_on(wire):
    wire.open("a")
    messages = [sessions_pb2.StreamRequest(), sessions_pb2.StreamRequest(step=request("a", [[1]], tag=2))]
    replies = list(wire.sessions.Stream(iter(messages)))
    assert replies[0].step.error.reason == "INVALID_INPUT"
    assert values(replies[1].step) == [[1]]


def test_a_stream_that_is_left_leaves_no_step_behind():
    entered, leave = threading.Event(), threading.Event()

    def hold(rows):
        entered.set()
        assert leave.wait(20)

    with test_server([RunningSum(before_run=hold)]) as server:
        wire = Wire(server.target)
        wire.open("a")
        call = wire.sessions.Stream(iter([sessions_pb2.StreamRequest(step=request("a", [[1, 2, 3]]))]))
        assert entered.wait(20)
        call.cancel()
        with pytest.raises(grpc.RpcError):
            next(call)
        # The next step of the session is held until the cancelled one is gone from the scheduler.
        leave.set()
        response = wire.step("a", [[10]])
        # Cancelling may be noticed before or after the message's last step; nothing in between is kept.
        assert (list(response.next_steps), values(response)) in [([1], [[10]]), ([4], [[16]])]
        assert wire.get("a").steps_in_flight == 0
        wire.channel.close()


def test_a_client_that_does_not_read_is_held_and_not_buffered():
    model = RunningSum(width=50_000)
    with test_server([model], messages_in_flight_max=4) as server:
        wire = Wire(server.target)
        wire.open("a")
        # Given a client that sends without reading, more than the connection's own buffers hold
        x = tensor_of("x", np.zeros((1, 1, 50_000), np.float32))
        count = 1000
        messages = (
            sessions_pb2.StreamRequest(step=sessions_pb2.StepRequest(tag=i, session_ids=["a"], inputs=[x]))
            for i in range(count)
        )
        call = wire.sessions.Stream(messages)
        assert next(call).step.tag == 0
        # Then it is held: what the server has run stops growing, far from everything
        previous, pause = -1, threading.Event()
        while len(model.batches) != previous:
            previous = len(model.batches)
            pause.wait(0.2)
        assert previous < count / 4
        # And reading lets it go on, in order, with nothing lost
        for wanted, reply in zip(range(1, previous + 50), call, strict=False):
            assert reply.step.tag == wanted
        call.cancel()
        wire.channel.close()


def test_a_reply_that_cannot_be_written_ends_its_stream_and_nobody_elses_step(monkeypatch):
    written, gate = ReplyWriter.write, Gate()

    def write(self, submission, places):
        if submission.tag == 666:
            raise MemoryError("a reply of more than there is room for")
        return written(self, submission, places)

    monkeypatch.setattr(ReplyWriter, "write", write)
    with test_server([RunningSum(before_run=gate)], compute_threads=1) as server:
        wire = Wire(server.target)
        for name in "abc":
            wire.open(name)
        # Given two messages that ride together, because a third held them up
        first = wire.sessions.Step.future(request("c", [[1]]))
        gate.await_run()
        faulty = wire.sessions.Stream(iter([sessions_pb2.StreamRequest(step=request("a", [[1]], tag=666))]))
        while not wire.get("a").steps_in_flight:
            pass
        neighbour = wire.sessions.Step.future(request("b", [[1]]))
        while not wire.get("b").steps_in_flight:
            pass
        gate.open()
        # Then the fault is the one's own, and the other has its answer
        assert values(first.result(20)) == values(neighbour.result(20)) == [[1]]
        with pytest.raises(grpc.RpcError) as ended:
            next(faulty)
        assert ended.value.code() is grpc.StatusCode.INTERNAL
        assert values(wire.step("a", [[1]], [1])) == [[2]]
        wire.channel.close()


def test_listing_is_paged(wire):
    for number in range(5):
        wire.open(f"s{number}")
    first = wire.sessions.List(sessions_pb2.ListRequest(page_size=3))
    assert [one.session_id for one in first.sessions] == ["s0", "s1", "s2"]
    rest = wire.sessions.List(sessions_pb2.ListRequest(page_size=3, page_token=first.next_page_token))
    assert [one.session_id for one in rest.sessions] == ["s3", "s4"]
    assert rest.next_page_token == ""
    with pytest.raises(grpc.RpcError) as refused:
        wire.sessions.List(sessions_pb2.ListRequest(page_size=-1))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_models_say_what_they_take_and_give(wire):
    (model,) = wire.models.List(models_pb2.ListModelsRequest()).models
    assert (model.name, model.version, model.ready, model.state_bytes) == ("running-sum", "1", True, 4)
    assert [(spec.name, spec.role) for spec in model.state] == [("total", "memory")]
    got = wire.models.Get(models_pb2.GetModelRequest(name="running-sum")).model
    assert got == model
    with pytest.raises(grpc.RpcError) as refused:
        wire.models.Get(models_pb2.GetModelRequest(name="nobody"))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert reason_of(refused.value)[0] == "MODEL_UNKNOWN"


def test_opening_with_resume_is_safe_to_retry(wire):
    wire.open("a")
    wire.step("a", [[1]])
    assert wire.open("a", resume=True).next_step == 1
    with pytest.raises(grpc.RpcError) as refused:
        wire.open("a")
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS
    assert reason_of(refused.value)[0] == "SESSION_EXISTS"


def test_bytes_that_are_no_message_end_their_stream_with_an_error(server, wire):
    wire.open("a")
    good = sessions_pb2.StreamRequest(step=request("a", [[1]])).SerializeToString()
    call = wire.channel.stream_stream("/ntm_serve.v1.Sessions/Stream")(iter([good, b"\xff" * 50, good]))
    with pytest.raises(grpc.RpcError) as refused:
        list(call)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "expected a StreamRequest" in refused.value.details()


@pytest.mark.parametrize("length", [2_000, 50_000])
def test_a_name_of_any_length_is_refused_with_the_right_status(wire, length):
    with pytest.raises(grpc.RpcError) as refused:
        wire.step("n" * length, [[1]])
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert reason_of(refused.value)[0] == "UNKNOWN"
    assert len(refused.value.details()) < 1100
