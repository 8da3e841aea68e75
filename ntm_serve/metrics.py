"""Prometheus metrics: names, labels and buckets in one place.

Rules of this file: a label's values come from the models and from our own words, never from a client, so
the number of series does not grow with sessions; what can be read when scraped is not counted besides.
"""

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from ntm_serve.service import ModelView, ServiceStatistics
from ntm_serve.step_model import ModelKey

MODEL = ("model", "version")
GRPC = ("grpc_type", "grpc_service", "grpc_method")

LATENCY_BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
)  # fmt: skip
COUNT_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
LIFE_BUCKETS = (1, 10, 60, 600, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600)

CONTENT_TYPE = CONTENT_TYPE_LATEST

OUTCOMES = ("ok", "error", "duplicate", "cancelled")
ENDINGS = ("client", "idle")
REJECTIONS = ("sessions", "queue")


class Metrics:
    """Everything that a server exposes. It is the Observer and the CallObserver of the other parts."""

    def __init__(self, *, version: str, onnxruntime: str, grpcio: str) -> None:
        self._registry = registry = CollectorRegistry()
        # On the path of a step: looking a series up by its labels costs more than counting in it. There are
        # only so many, because no label comes from a client.
        self._series: Any = cache(lambda metric, *labels: metric.labels(*labels))
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        build = Gauge("ntm_serve_build_info", "Versions.", ("version", "onnxruntime", "grpcio"), registry=registry)
        build.labels(version, onnxruntime, grpcio).set(1)

        def histogram(name: str, text: str, buckets: Iterable[float]) -> Histogram:
            return Histogram(f"ntm_serve_{name}", text, MODEL, buckets=tuple(buckets), registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"ntm_serve_{name}", text, (*MODEL, *labels), registry=registry)

        self._steps = counter("steps_total", "Steps answered.", "outcome")
        self._latency = histogram("step_latency_seconds", "From a message's door to its reply.", LATENCY_BUCKETS)
        self._wait = histogram("queue_wait_seconds", "From a message's door to its first batch.", LATENCY_BUCKETS)
        self._compute = histogram("compute_seconds", "One run of the engine.", LATENCY_BUCKETS)
        self._batch_size = histogram("batch_size", "Sessions in a run of the engine.", COUNT_BUCKETS)
        self._message_steps = histogram("steps_per_message", "Steps of a session in a message.", COUNT_BUCKETS)
        self._opened = counter("sessions_opened_total", "Sessions opened.")
        self._closed = counter("sessions_closed_total", "Sessions ended.", "reason")
        self._duration = histogram("session_duration_seconds", "Life of ended sessions.", LIFE_BUCKETS)
        self._session_steps = histogram("session_steps", "Steps of ended sessions.", (*COUNT_BUCKETS, 1e4, 1e5, 1e6))
        self._rejected = counter("rejected_total", "Refused because of a limit.", "reason")
        self._load = Gauge("ntm_serve_model_load_seconds", "Time to load and check.", MODEL, registry=registry)

        self._started = Counter("grpc_server_started_total", "Calls begun.", GRPC, registry=registry)
        self._handled = Counter("grpc_server_handled_total", "Calls ended.", (*GRPC, "grpc_code"), registry=registry)
        self._received = Counter("grpc_server_msg_received_total", "Messages received.", GRPC, registry=registry)
        self._sent = Counter("grpc_server_msg_sent_total", "Messages sent.", GRPC, registry=registry)

    # Observer

    def session_opened(self, model: ModelKey) -> None:
        self._opened.labels(*model).inc()

    def session_ended(self, model: ModelKey, *, reason: str, lived_s: float, steps: int) -> None:
        self._closed.labels(*model, reason).inc()
        self._duration.labels(*model).observe(lived_s)
        self._session_steps.labels(*model).observe(steps)

    def message_settled(
        self, model: ModelKey, *, outcome: str, steps: int, latency_s: float, queue_wait_s: float | None
    ) -> None:
        self._series(self._steps, *model, outcome).inc(steps)
        self._series(self._latency, *model).observe(latency_s)
        self._series(self._message_steps, *model).observe(steps)
        if queue_wait_s is not None:
            self._series(self._wait, *model).observe(queue_wait_s)

    def ride_ran(self, model: ModelKey, *, rows: int, steps: int, compute_s: float) -> None:
        batch_size, compute = self._series(self._batch_size, *model), self._series(self._compute, *model)
        for _ in range(steps):
            batch_size.observe(rows)
            compute.observe(compute_s / steps)

    def rejected(self, model: ModelKey, *, reason: str) -> None:
        self._rejected.labels(*model, reason).inc()

    # CallObserver

    def call_started(self, method: str, kind: str) -> None:
        self._series(self._started, kind, *_service_and_method(method)).inc()

    def call_handled(self, method: str, kind: str, code: str) -> None:
        self._series(self._handled, kind, *_service_and_method(method), code).inc()

    def message_received(self, method: str, kind: str) -> None:
        self._series(self._received, kind, *_service_and_method(method)).inc()

    def message_sent(self, method: str, kind: str) -> None:
        self._series(self._sent, kind, *_service_and_method(method)).inc()

    # The app

    def model_loaded(self, model: ModelKey, load_s: float) -> None:
        """Every series of the model appears at zero, so that a rate is right from its first event."""
        self._load.labels(*model).set(load_s)
        for histogram in (
            self._latency, self._wait, self._compute, self._batch_size, self._message_steps,
            self._duration, self._session_steps,
        ):  # fmt: skip
            histogram.labels(*model)
        self._opened.labels(*model)
        for counter, words in ((self._steps, OUTCOMES), (self._closed, ENDINGS), (self._rejected, REJECTIONS)):
            for word in words:
                counter.labels(*model, word)

    def watch(self, statistics: Callable[[], ServiceStatistics], models: Callable[[], list[ModelView]]) -> None:
        """Expose what the service knows at the moment of a scrape."""
        self._registry.register(_ServiceCollector(statistics, models))

    def exposition(self) -> bytes:
        """The text of `/metrics`."""
        return generate_latest(self._registry)


class _ServiceCollector(Collector):
    def __init__(self, statistics: Callable[[], ServiceStatistics], models: Callable[[], list[ModelView]]) -> None:
        self._statistics = statistics
        self._models = models

    def collect(self) -> Iterable[Metric]:
        statistics = self._statistics()
        sessions = GaugeMetricFamily("ntm_serve_sessions", "Open sessions.", labels=(*MODEL, "tier"))
        state = GaugeMetricFamily("ntm_serve_state_bytes", "Bytes of their state.", labels=(*MODEL, "tier"))
        depth = GaugeMetricFamily("ntm_serve_queue_depth", "Sessions with a step waiting.", labels=MODEL)
        inflight = GaugeMetricFamily("ntm_serve_inflight_steps", "Steps admitted, not answered.", labels=MODEL)
        for key, count in statistics.sessions.items():
            sessions.add_metric((*key, "hot"), count)
            state.add_metric((*key, "hot"), statistics.state_bytes[key])
            depth.add_metric(key, statistics.schedulers[key].sessions_waiting)
            inflight.add_metric(key, statistics.schedulers[key].steps_waiting)
        ready = GaugeMetricFamily("ntm_serve_model_ready", "1 where sessions can be opened.", labels=MODEL)
        independent = GaugeMetricFamily(
            "ntm_serve_batch_independence", "1 where a session's bits do not depend on its company.", labels=MODEL
        )
        for view in self._models():
            ready.add_metric(view.key, 1 if view.model else 0)
            if view.model:
                independent.add_metric(view.key, 1 if view.model.batch_independence.holds else 0)
        return (sessions, state, depth, inflight, ready, independent)


@cache
def _service_and_method(method: str) -> tuple[str, str]:
    service, _, name = method.removeprefix("/").rpartition("/")
    return service or name, name
