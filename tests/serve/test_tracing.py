"""Traces: what a collector gets over its socket, of real messages to a real server."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from ntm_serve.client import Client
from ntm_serve.testing import Doubling, Gate, RunningSum, test_server
from ntm_serve.v1 import admin_pb2, admin_pb2_grpc, models_pb2, models_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from ntm_serve.wire import tensor_of
from tests.serve.frontends.inference_client import InferenceWire, infer_request, y_of

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
RECORDED = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
STEP, STREAM = "ntm_serve.v1.Sessions/Step", "ntm_serve.v1.Sessions/Stream"
INFER, STREAM_INFER = "inference.GRPCInferenceService/ModelInfer", "inference.GRPCInferenceService/ModelStreamInfer"


class Collector:
    """Keeps the spans that are sent to it."""

    def __init__(self):
        self.spans = []
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        spans.extend(scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *said):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector():
    it = Collector()
    yield it
    it.close()


def attributes(span):
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


def message(session_id, *xs):
    return sessions_pb2.StepRequest(
        session_ids=[session_id], inputs=[tensor_of("x", np.array(xs, np.float32).reshape(1, -1, 1))]
    )


def test_each_message_is_a_span_in_its_callers_trace(collector, tmp_path):
    store = f"sqlite:{tmp_path}/s"
    with (
        test_server([RunningSum()], trace_endpoint=collector.endpoint, trace_share=0.0, store=store) as server,
        Client(server.target) as client,
        grpc.insecure_channel(server.target) as channel,
    ):
        session = client.session("running-sum", session_id="device-7")
        session.step([1])
        stub = sessions_pb2_grpc.SessionsStub(channel)
        stub.Step(message("device-7", 2, 3), metadata=RECORDED)
        requests = [sessions_pb2.StreamRequest(step=message("device-7", x)) for x in (4, 5)]
        assert len(list(stub.Stream(iter(requests), metadata=RECORDED))) == 2
        with pytest.raises(grpc.RpcError):
            stub.Step(message("nobody", 1), metadata=RECORDED)
    spans = collector.spans
    assert [span.name for span in spans] == [STEP, STREAM, STREAM, STEP], "what nobody records is not sent"
    for span in spans:
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
        assert span.end_time_unix_nano >= span.start_time_unix_nano
    *good, bad = spans
    for span, steps in zip(good, (2, 1, 1), strict=True):
        assert attributes(span) == {
            "rpc.system.name": "grpc", "rpc.method": span.name,
            "ntm_serve.model": "running-sum", "ntm_serve.version": "1", "ntm_serve.sessions": 1,
            "ntm_serve.steps": steps, "ntm_serve.session_hash": hashlib.sha256(b"device-7").hexdigest()[:16],
        }  # fmt: skip
        assert [event.name for event in span.events] == ["first batch", "computed"]
        first, computed = (event.time_unix_nano for event in span.events)
        assert first <= computed <= span.end_time_unix_nano
    assert attributes(bad)["error.type"] == "UNKNOWN"
    assert bad.status.code == 2
    assert not any(name in span.SerializeToString() for span in spans for name in (b"device-7", b"nobody"))


def test_a_message_that_nobody_waits_for_any_more_ends_its_span(collector):
    gate = Gate()
    with (
        test_server([RunningSum(before_run=gate)], trace_endpoint=collector.endpoint, trace_share=1.0) as server,
        Client(server.target) as client,
        grpc.insecure_channel(server.target) as channel,
    ):
        session = client.session("running-sum", session_id="held")
        stub = sessions_pb2_grpc.SessionsStub(channel)
        more = threading.Event()

        def requests():
            yield sessions_pb2.StreamRequest(step=message("held", 1))
            more.wait(30)

        stream = stub.Stream(requests())
        step = stub.Step.future(message("held", 1))
        while client.session_info(session.id).steps_in_flight < 2:
            pass
        stream.cancel()
        step.cancel()
        while client.session_info(session.id).steps_in_flight:
            pass
        more.set()
        gate.open()
    steps = [span for span in collector.spans if span.name in (STEP, STREAM)]
    assert sorted(span.name for span in steps) == [STEP, STREAM]
    assert {attributes(span)["error.type"] for span in steps} == {"STEP_CANCELLED"}


def hashed(name):
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def test_each_inference_is_a_span_in_its_callers_trace(collector, tmp_path):
    """With a store a sequence begins and ends in a task of its own; the request in its middle does not."""
    store = f"sqlite:{tmp_path}/s"
    models = [RunningSum(), Doubling()]
    with test_server(models, trace_endpoint=collector.endpoint, trace_share=0.0, store=store) as server:
        wire = InferenceWire(server.target)
        wire.infer("unrecorded", [1], start=True, end=True)
        wire.infer_response(infer_request("device-7", [1, 2], start=True), metadata=RECORDED)
        steps = [infer_request("device-7", [3]), infer_request("device-7", [4], end=True)]
        assert len(list(wire.stream(steps, metadata=RECORDED))) == 2
        rows = infer_request(None, [1, 2, 3], model="doubling")
        assert y_of(wire.infer_response(rows, metadata=RECORDED)).ravel().tolist() == [2, 4, 6]
        with pytest.raises(grpc.RpcError):
            wire.infer_response(infer_request("nobody", [1]), metadata=RECORDED)
        (refused,) = wire.stream([infer_request("nobody", [1], model="unheard-of")], metadata=RECORDED)
        assert refused.error_message
    spans = collector.spans
    assert [span.name for span in spans] == [INFER, STREAM_INFER, STREAM_INFER, INFER, INFER, STREAM_INFER]
    for span in spans:
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    *sequence, one_of_rows, bad, unknown = spans
    for span, steps_made in zip(sequence, (2, 1, 1), strict=True):
        assert attributes(span) == {
            "rpc.system.name": "grpc", "rpc.method": span.name, "ntm_serve.model": "running-sum",
            "ntm_serve.version": "1", "ntm_serve.sessions": 1, "ntm_serve.steps": steps_made,
            "ntm_serve.session_hash": hashed("seq:running-sum:device-7"),
        }  # fmt: skip
    assert attributes(one_of_rows)["ntm_serve.rows"] == 3
    assert "ntm_serve.session_hash" not in attributes(one_of_rows), "rows are nobody's"
    for span in sequence:
        assert [event.name for event in span.events] == ["first batch", "computed"]
    assert [event.name for event in one_of_rows.events] == ["first batch"], "no store was told of them"
    assert (attributes(bad)["error.type"], bad.status.code) == ("UNKNOWN", 2), "the cause, without Triton's words"
    assert (attributes(unknown)["error.type"], unknown.status.code) == ("MODEL_UNKNOWN", 2)
    assert not any(name in span.SerializeToString() for span in spans for name in (b"device-7", b"nobody"))


def test_an_inference_that_nobody_waits_for_any_more_ends_its_span(collector):
    gate = Gate()
    with (
        test_server([RunningSum(before_run=gate)], trace_endpoint=collector.endpoint, trace_share=1.0) as server,
        Client(server.target) as client,
    ):
        wire = InferenceWire(server.target)
        held = "seq:running-sum:held"
        more = threading.Event()

        def requests():
            yield infer_request("held", [1], start=True)
            more.wait(30)

        stream = wire.stream(requests())
        while not any(one.steps_in_flight for one in client.sessions()):
            pass
        with pytest.raises(grpc.RpcError, match="timeout expired"):
            wire.infer("held", [1], timeout=1000)
        stream.cancel()
        while client.session_info(held).steps_in_flight:
            pass
        more.set()
        gate.open()
    ended = {span.name: attributes(span)["error.type"] for span in collector.spans if span.name.startswith("inference")}
    assert ended == {INFER: "DEADLINE_PASSED", STREAM_INFER: "STEP_CANCELLED"}


def test_calls_beside_steps_are_spans_too(collector):
    with (
        test_server([RunningSum()], trace_endpoint=collector.endpoint, trace_share=0.0) as server,
        grpc.insecure_channel(server.target) as channel,
    ):
        stub = sessions_pb2_grpc.SessionsStub(channel)
        opened = stub.Open(sessions_pb2.OpenRequest(model="running-sum", session_id="device-7"), metadata=RECORDED)
        stub.Fork(sessions_pb2.ForkRequest(session_id=opened.session.session_id), metadata=RECORDED)
        with pytest.raises(grpc.RpcError):
            stub.Snapshot(sessions_pb2.SnapshotRequest(session_id="nobody"), metadata=RECORDED)
        models_pb2_grpc.ModelsStub(channel).List(models_pb2.ListModelsRequest(), metadata=RECORDED)
        admin_pb2_grpc.AdminStub(channel).ListSessions(admin_pb2.ListSessionsRequest(), metadata=RECORDED)
        InferenceWire(server.target).call("ServerMetadata")
    spans = collector.spans
    assert [span.name.removeprefix("ntm_serve.v1.") for span in spans] == [
        "Sessions/Open", "Sessions/Fork", "Sessions/Snapshot", "Models/List", "Admin/ListSessions",
    ]  # fmt: skip
    for span in spans:
        assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, PARENT)
    assert [attributes(span).get("error.type") for span in spans] == [None, None, "UNKNOWN", None, None]
    assert not any(name in span.SerializeToString() for span in spans for name in (b"device-7", b"nobody"))


def test_a_collector_that_is_away_keeps_nobody_waiting():
    with (
        test_server([RunningSum()], trace_endpoint="http://127.0.0.1:1", trace_share=1.0) as server,
        Client(server.target) as client,
        client.session("running-sum") as session,
    ):
        assert session.step(np.ones(1, np.float32)).tolist() == [1]
