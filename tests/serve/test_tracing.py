"""Traces: what a collector gets over its socket, of real messages to a real server."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from ntm_serve.client import Client
from ntm_serve.testing import Gate, RunningSum, test_server
from ntm_serve.v1 import sessions_pb2, sessions_pb2_grpc
from ntm_serve.wire import tensor_of

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
RECORDED = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
STEP, STREAM = "ntm_serve.v1.Sessions/Step", "ntm_serve.v1.Sessions/Stream"


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
    assert sorted(span.name for span in collector.spans) == [STEP, STREAM]
    assert {attributes(span)["error.type"] for span in collector.spans} == {"STEP_CANCELLED"}


def test_a_collector_that_is_away_keeps_nobody_waiting():
    with (
        test_server([RunningSum()], trace_endpoint="http://127.0.0.1:1", trace_share=1.0) as server,
        Client(server.target) as client,
        client.session("running-sum") as session,
    ):
        assert session.step(np.ones(1, np.float32)).tolist() == [1]
