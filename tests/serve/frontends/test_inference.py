"""Sequences over the Open Inference Protocol, on a real socket."""

import threading

import grpc
import numpy as np
import pytest
from serve.exposition import scrape, value

from ntm_serve.client import Client
from ntm_serve.inference import service_pb2
from ntm_serve.testing import Doubling, Gate, RunningSum, test_server

from .inference_client import InferenceWire, infer_request, output_of, y_of
from .wire_client import reason_of

START = "must specify the START flag on the first request of the sequence"


@pytest.fixture
def triton(server):
    it = InferenceWire(server.target)
    yield it
    it.channel.close()


def refusal(triton, sequence, values, **more):
    """The status, the text, the reason."""
    with pytest.raises(grpc.RpcError) as refused:
        triton.infer(sequence, values, **more)
    return refused.value.code(), refused.value.details(), reason_of(refused.value)[0]


# Sequences are sessions


def test_a_sequence_is_a_session_under_a_name_made_of_model_and_id(triton, server):
    assert triton.infer(7, [1], start=True).tolist() == [[1]]
    assert triton.infer(7, [2]).tolist() == [[3]]
    with Client(server.target) as client:
        (shown,) = client.sessions()
        assert (shown.session_id, shown.next_step) == ("seq:running-sum:7", 2)
        session = client.session("running-sum", session_id="seq:running-sum:7", resume=True)
        assert session.step(np.float32([4])).tolist() == [7]
    assert triton.infer(7, [8], end=True).tolist() == [[15]]


def test_the_end_is_inferred_and_then_the_session_is_closed(triton, server):
    triton.infer("a", [1], start=True)
    assert triton.infer("a", [2], end=True).tolist() == [[3]]
    with Client(server.target) as client:
        assert not list(client.sessions())
    code, text, _ = refusal(triton, "a", [1])
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert START in text
    assert text.endswith("reason=CLOSED")


def test_a_sequence_may_begin_and_end_in_one_request(triton):
    assert triton.infer(1, [5], start=True, end=True).tolist() == [[5]]
    assert triton.infer(1, [6], start=True, end=True).tolist() == [[6]]


@pytest.mark.parametrize("store", ["", "sqlite"])
def test_nothing_is_left_of_a_sequence_of_one_request_that_fails(store, tmp_path):
    gate = Gate()
    store = store and f"sqlite:{tmp_path}/s.db"
    with test_server([RunningSum(before_run=gate)], compute_threads=1, store=store) as server:
        triton = InferenceWire(server.target)
        running = threading.Thread(target=lambda: triton.infer(1, [1], start=True, end=True))
        running.start()
        gate.await_run()
        late = refusal(triton, 2, [1], start=True, end=True, timeout=1000)
        gate.open()
        running.join()
        assert late[2] == "DEADLINE_PASSED"
        assert refusal(triton, 3, [-666], start=True, end=True)[2] == "ENGINE_FAULT"
        assert refusal(triton, 2, [1])[1].endswith("reason=CLOSED")
        assert refusal(triton, 3, [1])[1].endswith("reason=CLOSED")
        # One that others are to follow stays: they would be told to begin it.
        assert refusal(triton, 4, [-666], start=True)[2] == "ENGINE_FAULT"
        assert triton.infer(4, [1], end=True).tolist() == [[1]]
        with Client(server.target) as client:
            assert not list(client.sessions())


def test_an_unknown_sequence_is_told_to_start(triton):
    code, text, reason = refusal(triton, 9, [1])
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")
    assert text.startswith(f"inference request for sequence 9 to model 'running-sum' {START}")
    assert text.endswith("; reason=UNKNOWN")


def test_a_start_on_a_live_sequence_begins_anew_and_is_counted(triton, server):
    triton.infer(3, [1], start=True)
    assert triton.infer(3, [5], start=True).tolist() == [[5]]
    assert triton.infer(3, [1]).tolist() == [[6]]
    assert value(scrape(server), "ntm_serve_sequences_restarted_total", model="running-sum") == 1


def test_a_start_that_cannot_be_read_leaves_the_sequence_as_it_was(triton):
    triton.infer(3, [1], start=True)
    for wrong in ({"values": [np.nan]}, {"values": [1, 2], "shape": (2, 1, 1)}, {"values": [1], "ntm_step": 4}):
        assert refusal(triton, 3, start=True, **wrong)[0] is grpc.StatusCode.INVALID_ARGUMENT
    assert triton.infer(3, [1]).tolist() == [[2]]


@pytest.mark.parametrize("outputs", [["z"], ["y", "y"], ["y" * 9]])
def test_a_start_that_asks_for_outputs_that_are_not_there_leaves_the_sequence_as_it_was(triton, server, outputs):
    triton.infer(3, [1], start=True)
    for sequence in (3, 4):
        request = infer_request(sequence, [1], start=True)
        for name in outputs:
            request.outputs.add(name=name)
        with pytest.raises(grpc.RpcError, match="output_names: expected some of"):
            triton.infer_response(request)
    assert triton.infer(3, [1]).tolist() == [[2]]
    assert refusal(triton, 4, [1])[1].endswith("reason=UNKNOWN")
    assert value(scrape(server), "ntm_serve_sequences_restarted_total", model="running-sum") == 0


def test_a_start_with_more_steps_than_a_message_may_have_leaves_the_sequence_as_it_was():
    with test_server([RunningSum()], steps_per_message_max=2) as server:
        triton = InferenceWire(server.target)
        triton.infer(3, [1], start=True)
        code, told, reason = refusal(triton, 3, [1, 2, 3], start=True)
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert told.startswith("inputs: expected 1 <= T <= 2 steps, got T = 3")
        assert told.endswith("reason=TOO_LARGE")
        assert reason == "TOO_LARGE"
        assert triton.infer(3, [1]).tolist() == [[2]]


def test_an_integer_and_the_same_digits_as_a_string_are_two_sequences(triton):
    triton.infer(7, [1], start=True)
    triton.infer("7", [10], start=True)
    assert triton.infer(7, [1]).tolist() == [[2]]
    assert triton.infer("7", [1]).tolist() == [[11]]


def test_sequences_of_one_id_and_two_models_are_two():
    with test_server([RunningSum(), RunningSum(name="other")]) as server:
        triton = InferenceWire(server.target)
        triton.infer(1, [1], start=True)
        triton.infer(1, [10], start=True, model="other")
        assert triton.infer(1, [1]).tolist() == [[2]]
        assert triton.infer(1, [1], model="other").tolist() == [[11]]


def test_sequences_outlive_a_server_with_a_store(tmp_path):
    with test_server([RunningSum()], store=f"sqlite:{tmp_path}/s.db") as server:
        InferenceWire(server.target).infer(1, [1, 2], start=True)
    with test_server([RunningSum()], store=f"sqlite:{tmp_path}/s.db") as server:
        triton = InferenceWire(server.target)
        assert triton.infer(1, [3]).tolist() == [[6]]
        # One that is in the store alone is begun anew just the same.
        triton.infer(2, [1], start=True)
    with test_server([RunningSum()], store=f"sqlite:{tmp_path}/s.db") as server:
        triton = InferenceWire(server.target)
        assert triton.infer(2, [5], start=True).tolist() == [[5]]
        assert triton.infer(1, [1], end=True).tolist() == [[7]]
        assert refusal(triton, 1, [1])[1].endswith("reason=CLOSED")
        assert value(scrape(server), "ntm_serve_sequences_restarted_total") == 1


def test_a_sequence_that_comes_back_runs_on_the_version_that_it_began_on(tmp_path):
    store = f"sqlite:{tmp_path}/s.db"
    with test_server([RunningSum(width=2)], store=store) as server:
        triton = InferenceWire(server.target)
        for sequence in (1, 2, 3):
            triton.infer(sequence, [1, 1], shape=(1, 2), start=True)
    with test_server([RunningSum(width=2), RunningSum(version="2")], store=store) as server:
        triton = InferenceWire(server.target)
        response = triton.infer_response(infer_request(1, [1, 2], shape=(1, 2)))
        assert (response.model_version, y_of(response).tolist()) == ("1", [[2, 3]])
        # Also where many come before it is back, and one of them ends it.
        requests = [infer_request(2, [1, 2], shape=(1, 2), end=i == 2) for i in range(3)] + [infer_request(2, [1])]
        *replies, last = triton.stream(requests)
        assert [y_of(one.infer_response).tolist() for one in replies] == [[[2, 3]], [[3, 5]], [[4, 7]]]
        assert {one.infer_response.model_version for one in replies} == {"1"}
        assert last.error_message.endswith("reason=CLOSED")
        request = infer_request(3, [1], model_version="2")
        with pytest.raises(
            grpc.RpcError, match="expected running-sum/1, which the sequence runs on, got running-sum/2"
        ):
            triton.infer_response(request)
        assert triton.infer(3, [1, 2], shape=(1, 2), model_version="1").tolist() == [[2, 3]]
        response = triton.infer_response(infer_request(3, [1], start=True))
        assert (response.model_version, y_of(response).tolist()) == ("2", [[1]])


@pytest.mark.parametrize("store", ["", "sqlite"])
def test_what_follows_a_start_is_for_the_version_that_it_began_on(store, tmp_path):
    gate = Gate()
    models = [RunningSum(width=2, before_run=gate), RunningSum(version="2")]
    with test_server(models, compute_threads=1, store=store and f"sqlite:{tmp_path}/s.db") as server:
        triton = InferenceWire(server.target)
        first = {"shape": (1, 2), "model_version": "1"}
        second = {"shape": (1, 1), "model_version": "2"}
        requests = [
            infer_request(1, [1, 2], start=True, **first), infer_request(1, [1, 2], **first),
            infer_request(1, [3], start=True, **second), infer_request(1, [4], **second),
            infer_request(1, [1, 2], **first), infer_request(1, [5], shape=(1, 1), end=True),
        ]  # fmt: skip
        replies = []
        reading = threading.Thread(target=lambda: replies.extend(triton.stream(requests)))
        reading.start()
        gate.await_run()
        gate.open()
        reading.join()
        said = [(one.infer_response.model_version, one.error_message) for one in replies]
        assert [version for version, _ in said] == ["1", "1", "2", "2", "1", "2"]
        assert [bool(text) for _, text in said] == [False, False, False, False, True, False]
        assert "expected running-sum/2, which the sequence runs on, got running-sum/1" in said[4][1]
        assert y_of(replies[5].infer_response).tolist() == [[12]]


def test_a_fork_says_the_version_that_it_runs_on(tmp_path):
    store = f"sqlite:{tmp_path}/s.db"
    with test_server([RunningSum()], store=store) as server:
        InferenceWire(server.target).infer(1, [1], start=True)
    with test_server([RunningSum(), RunningSum(version="2")], store=store) as server:
        response = InferenceWire(server.target).infer_response(infer_request(2, [1], start=True, ntm_fork=1))
        assert (response.model_version, y_of(response).tolist()) == ("1", [[2]])


def test_a_sequence_that_made_room_says_so():
    with test_server([RunningSum()], resident_bytes_max=4) as server:
        triton = InferenceWire(server.target)
        triton.infer(1, [1], start=True)
        triton.infer(2, [1], start=True)
        assert refusal(triton, 1, [1])[1].endswith("reason=EVICTED")


# Steps


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((1,), [1]), ((1, 1), [[1]]), ((3, 1), [[1], [2], [3]]), ((1, 3, 1), [[[1], [2], [3]]])],
)
def test_axes_before_those_of_a_step_are_steps_and_come_back(triton, shape, expected):
    assert triton.infer(1, np.ones(shape), shape=shape, start=True).tolist() == expected


def test_a_batch_of_sequences_is_refused(triton):
    code, text, _ = refusal(triton, 1, np.ones((2, 3, 1)), shape=(2, 3, 1), start=True)
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert text.startswith("x: expected FP32 [T, 1] or [1, T, 1] with T steps of one sequence, got FP32 [2, 3, 1]")


def test_a_numbered_step_that_is_sent_again_is_answered_with_the_same_bits(triton):
    triton.infer(1, [1], start=True)
    first = triton.infer_response(infer_request(1, [2], ntm_step=1))
    again = triton.infer_response(infer_request(1, [2], ntm_step=1))
    assert y_of(first).tolist() == y_of(again).tolist() == [[3]]
    assert first.parameters["ntm_next_step"].int64_param == 2
    code, text, reason = refusal(triton, 1, [1], ntm_step=5)
    assert (code, reason) == (grpc.StatusCode.OUT_OF_RANGE, "STEP_AHEAD")
    assert "expected step 2, got 5" in text


def test_a_snapshot_comes_as_an_output_and_goes_back_as_an_input(triton):
    response = triton.infer_response(infer_request(1, [1, 2], start=True, ntm_snapshot=True))
    snapshot = output_of(response, "ntm_snapshot")
    triton.infer(1, [100])
    request = infer_request("copy", [4], start=True)
    request.inputs.add(name="ntm_snapshot", datatype="UINT8", shape=[len(snapshot)])
    request.raw_input_contents.append(snapshot)
    assert y_of(triton.infer_response(request)).tolist() == [[7]]


def test_a_snapshot_of_something_else_changes_nothing(triton):
    triton.infer(1, [1], start=True)
    request = infer_request(1, [4], start=True)
    request.inputs.add(name="ntm_snapshot", datatype="UINT8", shape=[4])
    request.raw_input_contents.append(b"what")
    with pytest.raises(grpc.RpcError) as refused:
        triton.infer_response(request)
    assert reason_of(refused.value)[0] == "SNAPSHOT_REJECTED"
    assert triton.infer(1, [1]).tolist() == [[2]]


def test_a_sequence_may_begin_where_another_stands(triton):
    triton.infer(1, [1, 2], start=True)
    assert triton.infer(2, [10], start=True, ntm_fork=1).tolist() == [[13]]
    assert triton.infer(1, [1]).tolist() == [[4]]
    code, text, reason = refusal(triton, 3, [1], start=True, ntm_fork=99)
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN")
    assert START not in text


def test_a_sequence_may_begin_where_another_stood(tmp_path):
    with test_server([RunningSum()], store=f"sqlite:{tmp_path}/s.db", retain_steps=100) as server:
        triton = InferenceWire(server.target)
        triton.infer("a", [1, 2, 3], start=True)
        assert triton.infer("b", [10], start=True, ntm_fork="a", ntm_fork_step=2).tolist() == [[13]]


def test_a_request_like_the_one_before_it_is_for_what_the_sequence_is_now():
    with test_server([RunningSum(), RunningSum(version="2")]) as server:
        triton = InferenceWire(server.target)
        for version in ("1", "2", "1"):
            first = infer_request(1, [1], start=True)
            first.model_version = version
            triton.infer_response(first)
            for total in (2, 3, 4):
                response = triton.infer_response(infer_request(1, [1]))
                assert (y_of(response).item(), response.model_version) == (total, version)
            assert triton.infer(1, [1, 1]).tolist() == [[5], [6]]
            code, text, _ = refusal(triton, 1, [1, 1], shape=(1, 2))
            assert (code, text[:22]) == (grpc.StatusCode.INVALID_ARGUMENT, "x: expected FP32 [T, 1")


# Streams


def test_a_stream_answers_in_the_order_of_its_requests(triton):
    requests = [infer_request(f"s{i % 3}", [i], start=i < 3, end=i >= 27, request_id=f"r{i}") for i in range(30)]
    replies = list(triton.stream(requests))
    assert [reply.infer_response.id for reply in replies] == [f"r{i}" for i in range(30)]
    assert not any(reply.error_message for reply in replies)
    sums = [sum(range(i % 3, i + 1, 3)) for i in range(30)]
    assert [y_of(reply.infer_response).tolist() for reply in replies] == [[[total]] for total in sums]


def test_a_sequence_begins_anew_in_its_place_on_the_stream(triton):
    requests = [infer_request(1, [1], start=i % 4 == 0, end=i == 7) for i in range(12)]
    replies = list(triton.stream(requests))
    assert [y_of(reply.infer_response).item() for reply in replies] == [1, 2, 3, 4] * 3


def test_an_error_leaves_the_stream_open_and_says_which_request_and_why(triton):
    requests = [
        infer_request(1, [1], start=True, request_id="good"),
        infer_request(2, [1], request_id="bad", triton_enable_empty_final_response=True),
        infer_request(1, [1]),
    ]
    good, bad, last = triton.stream(requests)
    assert y_of(good.infer_response).tolist() == [[1]]
    assert bad.error_message.startswith("[request id: bad] inference request for sequence 2")
    assert bad.error_message.endswith("; reason=UNKNOWN")
    assert (bad.infer_response.id, len(bad.infer_response.outputs)) == ("bad", 0)
    assert bad.infer_response.parameters["triton_final_response"].bool_param
    assert y_of(last.infer_response).tolist() == [[2]]


def test_a_stream_that_asks_for_it_ends_with_the_first_error(triton):
    requests = [infer_request(1, [1], start=True), infer_request(2, [1]), infer_request(1, [1])]
    call = triton.stream(requests, metadata=[("triton_grpc_error", "true")])
    assert y_of(next(call).infer_response).tolist() == [[1]]
    with pytest.raises(grpc.RpcError) as refused:
        next(call)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert START in refused.value.details()


def test_the_final_response_is_told_where_it_was_asked_for(triton):
    response = triton.infer_response(infer_request(1, [1], start=True, triton_enable_empty_final_response=True))
    assert response.parameters["triton_final_response"].bool_param
    assert not triton.infer_response(infer_request(1, [1])).parameters


def test_a_request_whose_time_is_over_is_told_so_and_makes_no_step():
    gate = Gate()
    with test_server([RunningSum(before_run=gate)]) as server:
        triton = InferenceWire(server.target)
        running = threading.Thread(target=lambda: triton.infer(1, [1], start=True))
        running.start()
        gate.await_run()
        code, text, reason = refusal(triton, 2, [1], start=True, timeout=1000)
        assert (code, reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_PASSED")
        assert text.startswith("Request timeout expired")
        gate.open()
        running.join()
        assert triton.infer(2, [1]).tolist() == [[1]]


def test_requests_of_a_sequence_that_come_while_it_begins_wait_for_it():
    gate = Gate()
    with test_server([RunningSum(before_run=gate)]) as server:
        triton = InferenceWire(server.target)
        replies = []
        requests = [infer_request(1, [1], start=i in (0, 3), end=i == 5) for i in range(6)]
        reading = threading.Thread(target=lambda: replies.extend(triton.stream(requests)))
        reading.start()
        gate.await_run()
        gate.open()
        reading.join()
        assert [y_of(reply.infer_response).item() for reply in replies] == [1, 2, 3, 1, 2, 3]


# What is refused


def test_a_model_with_memory_asks_for_a_sequence(triton):
    for none in (None, 0, ""):
        code, text, _ = refusal(triton, none, [1])
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert text.startswith("inference request to model 'running-sum' must specify a non-zero or non-empty")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda it: it.raw_input_contents.pop(), "unable to find data for input tensor 'x'"),
        (lambda it: it.inputs[0].contents.fp32_contents.append(1), "x: expected contents or raw_input_contents"),
        (lambda it: it.raw_input_contents.append(b""), "raw_input_contents: expected none or 1"),
        (lambda it: setattr(it.inputs[0], "datatype", "BYTES"), "x: expected FP32 [T, 1]"),
        (lambda it: setattr(it.inputs[0], "name", "z"), "inputs: expected ['x'], each once, got ['z']"),
        (lambda it: it.inputs[0].shape.insert(0, -1), "x: expected FP32 [T, 1]"),
        (lambda it: it.raw_input_contents.__setitem__(0, b"123"), "x: expected 4 bytes for [1, 1], got 3"),
        (lambda it: it.ClearField("inputs"), "raw_input_contents: expected none or 0"),
        (lambda it: it.outputs.add(name="z"), "output_names: expected some of ['y']"),
        (lambda it: it.parameters["sequence_id"].CopyFrom(boolean()), "sequence_id: expected int64_param or string"),
        (lambda it: it.parameters["sequence_start"].CopyFrom(text("yes")), "sequence_start: expected bool_param"),
        (lambda it: it.parameters["ntm_stop"].CopyFrom(boolean()), "parameters: expected some of ['ntm_step'"),
        (lambda it: it.parameters["sequence_id"].CopyFrom(text("x" * 129)), "sequence_id: expected at most 128 bytes"),
        (lambda it: setattr(it, "model_version", "9"), "Request for unknown model: 'running-sum' is not found"),
        (lambda it: setattr(it, "model_name", "m" * 300), "Request for unknown model: 'mmm"),
        (lambda it: it.outputs.add(name="y").parameters["classification"].CopyFrom(boolean()), "y: classification is"),
        (lambda it: it.inputs[0].parameters["shared_memory_region"].CopyFrom(text("a")), "x: shared memory is not"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said(triton, change, says):
    request = infer_request(1, [1], start=True)
    change(request)
    with pytest.raises(grpc.RpcError) as refused:
        triton.infer_response(request)
    assert refused.value.details().startswith(says), refused.value.details()
    assert "; reason=" in refused.value.details()
    (reply,) = triton.stream([request])
    assert reply.error_message.startswith(f"[request id: <id_unknown>] {says}")


def boolean():
    return service_pb2.InferParameter(bool_param=True)


def text(value):
    return service_pb2.InferParameter(string_param=value)


def test_contents_of_every_kind_are_read():
    with test_server([RunningSum()]) as server:
        triton = InferenceWire(server.target)
        request = infer_request(1, [0], start=True)
        request.ClearField("raw_input_contents")
        request.inputs[0].contents.fp32_contents.append(2.5)
        assert y_of(triton.infer_response(request)).tolist() == [[2.5]]
        request.inputs[0].contents.fp32_contents.append(1)
        with pytest.raises(grpc.RpcError, match="x: expected 1 elements"):
            triton.infer_response(request)


def test_shared_memory_traces_and_logs_are_not_there(triton):
    names = [one for one in dir(service_pb2) if one.endswith(("SharedMemoryStatusRequest", "SettingsRequest"))]
    for name in (*(one.removesuffix("Request") for one in names), "SystemSharedMemoryRegister", "TraceSetting"):
        with pytest.raises(grpc.RpcError) as refused:
            triton.call(name)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "not supported" in refused.value.details() or "cannot be set" in refused.value.details()


# Models without state


@pytest.fixture
def doubling():
    with test_server([Doubling(), RunningSum()]) as server:
        it = InferenceWire(server.target)
        yield it
        it.channel.close()


def test_rows_need_no_sequence_where_there_is_no_memory(doubling):
    assert doubling.infer(None, [1, 2, 3], model="doubling").tolist() == [[2], [4], [6]]
    assert doubling.infer(None, [1], model="doubling", shape=(1,)).tolist() == [2]
    # What a client says of sequences is all the same to it.
    assert doubling.infer(7, [1], model="doubling").tolist() == [[2]]
    requests = [infer_request(None, [i], model="doubling", request_id=str(i)) for i in range(5)]
    replies = [reply.infer_response for reply in doubling.stream(requests)]
    assert [(one.id, y_of(one).item()) for one in replies] == [(str(i), 2 * i) for i in range(5)]
    assert not doubling.call("ModelConfig", name="doubling").config.HasField("sequence_batching")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"shape": (1, 1, 1)}, "inputs: expected one axis of rows"),
        ({"ntm_step": 0}, "ntm_: expected a model with a memory, and doubling has none"),
        ({"shape": (1, 2)}, "x: expected FP32 [T, 1]"),
    ],
)
def test_what_rows_cannot_be_is_said(doubling, more, says):
    values = [1] * int(np.prod(more.get("shape", 1)))
    assert refusal(doubling, None, values, model="doubling", **more)[1].startswith(says)


def test_a_row_that_fails_fails_its_request_alone(doubling):
    code, text, _ = refusal(doubling, None, [1, -666], model="doubling")
    assert code is grpc.StatusCode.INTERNAL
    assert text.endswith("reason=ENGINE_FAULT")
    assert doubling.infer(None, [1], model="doubling").tolist() == [[2]]
