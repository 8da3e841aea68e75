"""Traces for OpenTelemetry: a span for each message, in the trace that its call belongs to.

Rules of this file: it is imported where spans are asked for, as it needs the extra `otel`; spans are sent by a thread
of their own, and dropped where that cannot keep up; a session's id may tell of a person or a device, so spans have a
hash of it.
"""

import hashlib
import time
from collections.abc import Sequence
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from ntm_serve.errors import NtmServeError
from ntm_serve.observer import CallTrace, MessageTrace, Timeline

# Of one export; when the server stops it is waited for.
EXPORT_MAX_S = 5.0


class Tracing:
    """Whoever makes it awaits nothing, and calls `close`."""

    def __init__(self, endpoint: str, *, share: float, version: str) -> None:
        """endpoint: of a collector, http://HOST:4318. share: of the traces that begin here, how many are recorded;
        those that a caller records are recorded here too.
        """
        resource = Resource.create({"service.name": "ntm-serve", "service.version": version})
        self._provider = TracerProvider(resource=resource, sampler=ParentBased(TraceIdRatioBased(share)))
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=EXPORT_MAX_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("ntm_serve", version)
        self._propagator = TraceContextTextMapPropagator()

    def call(self, method: str, metadata: Sequence[tuple[str, str | bytes]]) -> CallTrace:
        """A call that has begun. method: its path. metadata: what the client sent with it."""
        carrier = {key: value for key, value in metadata if isinstance(value, str)}
        return _Call(self._tracer, method.removeprefix("/"), self._propagator.extract(carrier))

    def close(self) -> None:
        """Send what there is. It may take as long as an export."""
        self._provider.shutdown()


class _Call:
    """See observer.CallTrace."""

    def __init__(self, tracer: Any, method: str, context: Any) -> None:
        self._tracer = tracer
        self._method = method
        self._context = context

    def message(self) -> MessageTrace | None:
        span = self._tracer.start_span(self._method, self._context, SpanKind.SERVER)
        if not span.is_recording():
            return None
        span.set_attribute("rpc.system.name", "grpc")
        span.set_attribute("rpc.method", self._method)
        return _Message(span)


class _Message:
    """See observer.MessageTrace."""

    def __init__(self, span: Any) -> None:
        self._span = span

    def answered(self, timeline: Timeline | None = None) -> None:
        if timeline is not None:
            self._describe(timeline)
        self._span.end()

    def failed(self, error: NtmServeError) -> None:
        self._fail(error)
        self._span.end()

    def _describe(self, timeline: Timeline) -> None:
        span, sessions = self._span, timeline.session_ids
        # What the parts of a server know are times of the monotonic clock.
        epoch_s = time.time() - time.monotonic()
        for event, at_s in (("first batch", timeline.started_s), ("computed", timeline.computed_s)):
            if at_s is not None:
                span.add_event(event, timestamp=int((epoch_s + at_s) * 1e9))
        if timeline.model is not None:
            span.set_attribute("ntm_serve.model", timeline.model.name)
            span.set_attribute("ntm_serve.version", timeline.model.version)
        if not sessions[0]:  # Rows of a model without state, which are nobody's.
            span.set_attribute("ntm_serve.rows", len(sessions))
        else:
            span.set_attribute("ntm_serve.sessions", len(sessions))
            span.set_attribute("ntm_serve.steps", timeline.steps)
            if len(sessions) == 1:
                span.set_attribute("ntm_serve.session_hash", hashlib.sha256(sessions[0].encode()).hexdigest()[:16])
        if timeline.errors:
            span.set_attribute("ntm_serve.failures", len(timeline.errors))
            self._fail(timeline.errors[0])

    def _fail(self, error: NtmServeError) -> None:
        self._span.set_attribute("error.type", error.reason)
        # Without the error's text, which names the session.
        self._span.set_status(Status(StatusCode.ERROR))
