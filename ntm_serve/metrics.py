"""Prometheus metrics: names, labels and buckets in one place.

Rules of this file: a label's values come from the models and from our own words, never from a client, so
the number of series does not grow with sessions; what can be read when scraped is not counted besides.
"""

import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import accumulate, islice

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from ntm_serve.history import Sample
from ntm_serve.observer import Counted, MessageCounts, ModelTotals
from ntm_serve.step_model import ModelKey
from ntm_serve.tenants import TenantStatistics
from ntm_serve.views import ModelView, ServiceStatistics

MODEL = ("model", "version")
GRPC = ("grpc_type", "grpc_service", "grpc_method")

LATENCY_BUCKETS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
)  # fmt: skip
COUNT_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
SESSION_STEP_BUCKETS = (*COUNT_BUCKETS, 1e4, 1e5, 1e6)
LIFE_BUCKETS = (1, 10, 60, 600, 3600, 6 * 3600, 24 * 3600, 7 * 24 * 3600)

CONTENT_TYPE = CONTENT_TYPE_LATEST

OUTCOMES = ("ok", "error", "duplicate", "cancelled")
ENDINGS = ("client", "idle", "evicted")
# Why a session left memory for the store, beside the reasons of errors.
LEAVINGS = ("room", "wanted", "lease", "retry", "drain")
REJECTIONS = ("sessions", "session", "queue", "total", "tenant", "sizes")

# Attribute of ModelSeries, metric, help.
HISTOGRAMS = (
    ("latency", "step_latency_seconds", "From a message's door to its reply."),
    ("wait", "queue_wait_seconds", "From a message's door to its first batch."),
    ("compute", "compute_seconds", "One run of the engine."),
    ("restore", "restore_seconds", "From the question for a session to its being in memory again."),
    ("batch_size", "batch_size", "Sessions in a run of the engine."),
    ("message_steps", "steps_per_message", "Steps of a session in a message."),
    ("duration", "session_duration_seconds", "Life of ended sessions."),
    ("session_steps", "session_steps", "Steps of ended sessions."),
)

# Attribute of TenantStatistics and metric, help.
TENANTS = (
    ("sessions", "A tenant's sessions in memory."),
    ("state_bytes", "Bytes of their state."),
    ("steps_waiting", "A tenant's steps admitted, not answered."),
)
TENANT_REJECTIONS = (
    "sessions", "state_bytes", "steps_waiting", "steps_per_s", "calls", "call_bytes", "watches", "sizes",
)  # fmt: skip
# Tenants may come from an issuer's tokens, and no label may grow with what others name.
TENANT_LABELS_MAX = 100
# No tenant is called that: a name has no brackets.
OTHER_TENANTS = "(others)"

# Attribute of StoreStatistics and metric, help.
STORE = (
    ("sessions", "Open sessions in the store, of every server that shares it."),
    ("ended", "Ended sessions that the store remembers the end of."),
    ("records", "Messages in the store's logs."),
    ("snapshots", "States in the store."),
    ("payload_bytes", "Bytes of both."),
    ("stored_bytes", "Bytes that the store takes up."),
)

# kind, method, and for calls that ended the code.
Labels = tuple[str, ...]


class Histogram:
    """Observations in buckets. On the path of a step, and on one thread: no lock, and no text before a scrape."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    @property
    def count(self) -> int:
        """How many observations there were."""
        return sum(self._counts)

    @property
    def total(self) -> float:
        """Their sum."""
        return self._sum

    @property
    def bounds(self) -> tuple[float, ...]:
        """The upper bounds of the buckets but the last, which has none."""
        return self._bounds

    @property
    def counts(self) -> tuple[int, ...]:
        """How many observations each bucket has."""
        return tuple(self._counts)

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Write the observations as a scrape has them: buckets that include the lower ones."""
        bounds = [floatToGoString(bound) for bound in (*self._bounds, float("inf"))]  # type: ignore[no-untyped-call]
        family.add_metric(labels, list(zip(bounds, accumulate(self._counts), strict=True)), self._sum)


class ModelSeries:
    """What is counted of one model."""

    __slots__ = (
        "answered", "answered_s", "answered_wait_s", "batch_size", "closed", "compute", "differed", "duration",
        "failed", "failed_s", "last_run_at_s", "latency", "left", "message_steps", "opened", "rejected", "restarted",
        "restore", "restored", "runs", "session_steps", "steps", "wait",
    )  # fmt: skip

    def __init__(self) -> None:
        """Every series at zero, so that a rate is right from its first event."""
        self.steps = dict.fromkeys(OUTCOMES, 0)
        self.closed = dict.fromkeys(ENDINGS, 0)
        self.rejected = dict.fromkeys(REJECTIONS, 0)
        self.left = Counter(dict.fromkeys(LEAVINGS, 0))
        self.opened = self.restored = self.restarted = self.differed = 0
        # Requests that were answered well, their seconds and those that they waited; and the others by their reason.
        # A request is what is one to its caller: a session's part of a message, or rows that came together.
        self.answered, self.answered_s, self.answered_wait_s = 0, 0.0, 0.0
        self.failed: Counter[str] = Counter()
        self.failed_s = 0.0
        # Runs by their rows, how often and how long, and when the last one was.
        self.last_run_at_s = 0.0
        self.runs: defaultdict[int, list[float]] = defaultdict(lambda: [0, 0.0])
        self.latency, self.wait, self.compute, self.restore = (Histogram(LATENCY_BUCKETS) for _ in range(4))
        self.batch_size, self.message_steps = Histogram(COUNT_BUCKETS), Histogram(COUNT_BUCKETS)
        self.duration, self.session_steps = Histogram(LIFE_BUCKETS), Histogram(SESSION_STEP_BUCKETS)

    def requests_settled(self, requests: int, latency_s: float, queue_wait_s: float | None, fault: str) -> None:
        """So many requests that came and were answered together."""
        self.latency.observe(latency_s, requests)
        if queue_wait_s is not None:
            self.wait.observe(queue_wait_s, requests)
        if fault:
            self.failed[fault] += requests
            self.failed_s += latency_s * requests
        else:
            self.answered += requests
            self.answered_s += latency_s * requests
            self.answered_wait_s += (queue_wait_s or 0.0) * requests


class Metrics:
    """Everything that a server exposes. It is the Observer and the CallObserver of the other parts."""

    def __init__(self, *, version: str, onnxruntime: str, grpcio: str) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        build = Gauge("ntm_serve_build_info", "Versions.", ("version", "onnxruntime", "grpcio"), registry=registry)
        build.labels(version, onnxruntime, grpcio).set(1)
        self._load = Gauge("ntm_serve_model_load_seconds", "Time to load and check.", MODEL, registry=registry)
        self._certificate = Gauge(
            "ntm_serve_certificate_end_timestamp_seconds",
            "When the TLS certificate ends; 0 without.",
            registry=registry,
        )
        self._models: defaultdict[ModelKey, ModelSeries] = defaultdict(ModelSeries)
        self._started, self._handled = Counter[Labels](), Counter[Labels]()
        self._messages: defaultdict[Labels, MessageCounts] = defaultdict(MessageCounts)
        self._commit_s, self._commit_sessions = Histogram(LATENCY_BUCKETS), Histogram(COUNT_BUCKETS)
        registry.register(_CountedCollector(self))

    # Observer

    def session_opened(self, model: ModelKey) -> None:
        self._models[model].opened += 1

    def session_ended(self, model: ModelKey, *, reason: str, lived_s: float, steps: int) -> None:
        series = self._models[model]
        series.closed[reason] += 1
        series.duration.observe(lived_s)
        series.session_steps.observe(steps)

    def steps_settled(
        self,
        model: ModelKey,
        *,
        outcome: str,
        sessions: int,
        steps: int,
        latency_s: float,
        queue_wait_s: float | None,
        fault: str = "",
    ) -> None:
        series = self._models[model]
        series.steps[outcome] += steps * sessions
        series.message_steps.observe(steps, sessions)
        series.requests_settled(sessions, latency_s, queue_wait_s, fault)

    def rows_settled(
        self,
        model: ModelKey,
        *,
        outcome: str,
        rows: int,
        latency_s: float,
        queue_wait_s: float | None,
        fault: str = "",
    ) -> None:
        series = self._models[model]
        series.steps[outcome] += rows
        series.message_steps.observe(1, rows)
        series.requests_settled(1, latency_s, queue_wait_s, fault)

    def ride_ran(self, model: ModelKey, *, rows: int, steps: int, compute_s: float) -> None:
        if steps:
            series = self._models[model]
            series.batch_size.observe(rows, steps)
            series.compute.observe(compute_s / steps, steps)
            runs = series.runs[rows]
            runs[0] += steps
            runs[1] += compute_s
            series.last_run_at_s = time.time()

    def rejected(self, model: ModelKey, *, reason: str) -> None:
        self._models[model].rejected[reason] += 1

    def session_restored(self, model: ModelKey, *, took_s: float) -> None:
        series = self._models[model]
        series.restored += 1
        series.restore.observe(took_s)

    def session_left(self, model: ModelKey, *, reason: str) -> None:
        self._models[model].left[reason] += 1

    def sequence_restarted(self, model: ModelKey) -> None:
        self._models[model].restarted += 1

    def replay_differed(self, model: ModelKey) -> None:
        self._models[model].differed += 1

    def store_wrote(self, *, sessions: int, took_s: float) -> None:
        self._commit_s.observe(took_s)
        self._commit_sessions.observe(sessions)

    # CallObserver

    def call_started(self, method: str, kind: str) -> None:
        self._started[kind, method] += 1

    def call_handled(self, method: str, kind: str, code: str) -> None:
        self._handled[kind, method, code] += 1

    def messages(self, method: str, kind: str) -> MessageCounts:
        return self._messages[kind, method]

    # The app

    def model_loaded(self, model: ModelKey, load_s: float) -> None:
        """Every series of the model appears."""
        self._load.labels(*model).set(load_s)
        self._models[model]

    def certificate_ends(self, at_s: float) -> None:
        """The certificate that is served ends then, in Unix seconds."""
        self._certificate.set(at_s)

    def totals(self, model: ModelKey) -> ModelTotals:
        """What was counted of a model's requests and runs."""
        series = self._models[model]
        return ModelTotals(
            answered=Counted(series.answered, series.answered_s),
            failed=Counted(series.failed.total(), series.failed_s),
            waited=Counted(series.answered, series.answered_wait_s),
            runs={rows: Counted(int(count), seconds) for rows, (count, seconds) in sorted(series.runs.items())},
            steps=sum(rows * int(count) for rows, (count, _) in series.runs.items()),
            last_run_at_s=series.last_run_at_s,
        )

    def samples(self) -> dict[ModelKey, Sample]:
        """What a history is made of."""
        return {
            key: Sample(
                steps=series.steps["ok"],
                messages=series.latency.count,
                latency_s=series.latency.total,
                latency_bounds=series.latency.bounds,
                latency_counts=series.latency.counts,
            )
            for key, series in self._models.items()
        }

    def collect(self) -> Iterable[Metric]:
        """What was counted, as a scrape wants it."""
        steps = CounterMetricFamily("ntm_serve_steps", "Steps answered.", labels=(*MODEL, "outcome"))
        closed = CounterMetricFamily("ntm_serve_sessions_closed", "Sessions ended.", labels=(*MODEL, "reason"))
        rejected = CounterMetricFamily("ntm_serve_rejected", "Refused because of a limit.", labels=(*MODEL, "reason"))
        left = CounterMetricFamily(
            "ntm_serve_sessions_left", "Sessions that left memory, and are in the store.", labels=(*MODEL, "reason")
        )
        opened = CounterMetricFamily("ntm_serve_sessions_opened", "Sessions opened.", labels=MODEL)
        restored = CounterMetricFamily("ntm_serve_sessions_restored", "Sessions that came back.", labels=MODEL)
        restarted = CounterMetricFamily(
            "ntm_serve_sequences_restarted", "Sequences begun anew under a name that was in use.", labels=MODEL
        )
        differed = CounterMetricFamily(
            "ntm_serve_replays_differed", "Replays that gave other bits than were answered.", labels=MODEL
        )
        histograms = {
            name: HistogramMetricFamily(f"ntm_serve_{metric}", text, labels=MODEL) for name, metric, text in HISTOGRAMS
        }
        for key, series in self._models.items():
            worded = ((steps, series.steps), (closed, series.closed), (rejected, series.rejected), (left, series.left))
            for family, counts in worded:
                for word, count in counts.items():
                    family.add_metric((*key, word), count)
            opened.add_metric(key, series.opened)
            restored.add_metric(key, series.restored)
            restarted.add_metric(key, series.restarted)
            differed.add_metric(key, series.differed)
            for name, histogram in histograms.items():
                getattr(series, name).add_to(histogram, key)
        yield from (steps, closed, rejected, left, opened, restored, restarted, differed, *histograms.values())
        for name, text, observed in (
            ("ntm_serve_store_commit_seconds", "One commit to the store.", self._commit_s),
            ("ntm_serve_store_commit_sessions", "Sessions in a commit to the store.", self._commit_sessions),
        ):
            commits = HistogramMetricFamily(name, text, labels=())
            observed.add_to(commits, ())
            yield commits
        received = {labels: counts.received for labels, counts in self._messages.items() if counts.received}
        sent = {labels: counts.sent for labels, counts in self._messages.items() if counts.sent}
        counted_calls: Sequence[tuple[str, str, Mapping[Labels, int]]] = (
            ("started", "Calls begun.", self._started),
            ("handled", "Calls ended.", self._handled),
            ("msg_received", "Messages received.", received),
            ("msg_sent", "Messages sent.", sent),
        )
        for metric, text, counted in counted_calls:
            labels = (*GRPC, "grpc_code") if metric == "handled" else GRPC
            calls = CounterMetricFamily(f"grpc_server_{metric}", text, labels=labels)
            for (kind, method, *code), count in counted.items():
                calls.add_metric((kind, *_service_and_method(method), *code), count)
            yield calls

    def watch(self, statistics: Callable[[], ServiceStatistics], models: Callable[[], list[ModelView]]) -> None:
        """Expose what the service knows at the moment of a scrape."""
        self._registry.register(_ServiceCollector(statistics, models))

    def watch_tenants(self, statistics: Callable[[], Mapping[str, TenantStatistics]]) -> None:
        """Expose what tenants use at the moment of a scrape."""
        self._registry.register(_TenantCollector(statistics))

    def watch_readiness(self, is_ready: Callable[[], bool], store_silent_s: Callable[[], float] | None) -> None:
        """Expose whether the server is to be sent calls. store_silent_s: None without a store."""
        ready = Gauge("ntm_serve_ready", "1 where the server is ready for calls.", registry=self._registry)
        ready.set_function(is_ready)
        if store_silent_s is not None:
            silent = Gauge("ntm_serve_store_silent_seconds", "Since the store last answered.", registry=self._registry)
            silent.set_function(store_silent_s)

    @property
    def models(self) -> Mapping[ModelKey, ModelSeries]:
        """What was counted of each model, as it stands."""
        return self._models

    def register(self, collector: Collector) -> None:
        """Expose what another collector gives as well."""
        self._registry.register(collector)

    def exposition(self) -> bytes:
        """The text of `/metrics`."""
        return generate_latest(self._registry)


class _CountedCollector(Collector):
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics.collect()


class _ServiceCollector(Collector):
    def __init__(self, statistics: Callable[[], ServiceStatistics], models: Callable[[], list[ModelView]]) -> None:
        self._statistics = statistics
        self._models = models

    def collect(self) -> Iterable[Metric]:
        statistics = self._statistics()
        sessions = GaugeMetricFamily("ntm_serve_sessions", "Open sessions in memory.", labels=(*MODEL, "tier"))
        state = GaugeMetricFamily("ntm_serve_state_bytes", "Bytes of their state.", labels=(*MODEL, "tier"))
        depth = GaugeMetricFamily("ntm_serve_queue_depth", "Sessions with a step waiting.", labels=MODEL)
        inflight = GaugeMetricFamily("ntm_serve_inflight_steps", "Steps admitted, not answered.", labels=MODEL)
        for key, count in statistics.sessions.items():
            sessions.add_metric((*key, "hot"), count)
            state.add_metric((*key, "hot"), statistics.state_bytes[key])
            depth.add_metric(key, statistics.schedulers[key].sessions_waiting)
            inflight.add_metric(key, statistics.schedulers[key].steps_waiting)
        stored = (
            []
            if statistics.store is None
            else [
                GaugeMetricFamily(f"ntm_serve_store_{name}", text, getattr(statistics.store, name))
                for name, text in STORE
            ]
        )
        ready = GaugeMetricFamily("ntm_serve_model_ready", "1 where sessions can be opened.", labels=MODEL)
        independent = GaugeMetricFamily(
            "ntm_serve_batch_independence", "1 where a session's bits do not depend on its company.", labels=MODEL
        )
        for view in self._models():
            ready.add_metric(view.key, 1 if view.takes_sessions else 0)
            if view.model:
                independent.add_metric(view.key, 1 if view.model.batch_independence.holds else 0)
        return (sessions, state, depth, inflight, *stored, ready, independent)


class _TenantCollector(Collector):
    def __init__(self, statistics: Callable[[], Mapping[str, TenantStatistics]]) -> None:
        self._statistics = statistics

    def collect(self) -> Iterable[Metric]:
        gauges = {
            name: GaugeMetricFamily(f"ntm_serve_tenant_{name}", text, labels=("tenant",)) for name, text in TENANTS
        }
        steps = CounterMetricFamily("ntm_serve_tenant_steps", "Steps made for a tenant.", labels=("tenant",))
        rejected = CounterMetricFamily(
            "ntm_serve_tenant_rejected", "Refused because of a tenant's limit.", labels=("tenant", "reason")
        )
        for tenant, one in _labelled(self._statistics()).items():
            for name, gauge in gauges.items():
                gauge.add_metric((tenant,), getattr(one, name))
            steps.add_metric((tenant,), one.steps)
            for reason in TENANT_REJECTIONS:
                rejected.add_metric((tenant, reason), one.rejected.get(reason, 0))
        return (*gauges.values(), steps, rejected)


def _labelled(statistics: Mapping[str, TenantStatistics]) -> Mapping[str, TenantStatistics]:
    """By label: those beyond so many, the last in order, are one."""
    own = dict(islice(statistics.items(), TENANT_LABELS_MAX))
    others = list(islice(statistics.values(), TENANT_LABELS_MAX, None))
    if others:
        own[OTHER_TENANTS] = TenantStatistics(
            sessions=sum(one.sessions for one in others),
            state_bytes=sum(one.state_bytes for one in others),
            steps_waiting=sum(one.steps_waiting for one in others),
            steps=sum(one.steps for one in others),
            rejected=sum((Counter(one.rejected) for one in others), Counter()),
        )
    return own


@cache
def _service_and_method(method: str) -> tuple[str, str]:
    service, _, name = method.removeprefix("/").rpartition("/")
    return service or name, name
