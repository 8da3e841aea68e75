"""The names that Triton's metrics have, for dashboards and rules that were written for it.

Rules of this file: names are Triton's to the letter, so without the `_total` of Prometheus's own counters, and
therefore untyped; nothing is counted for them that is not counted anyway.
"""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.registry import Collector

from ntm_serve.errors import EngineFault, LimitReached, StepCancelled
from ntm_serve.metrics import MODEL, ModelSeries
from ntm_serve.step_model import ModelKey
from ntm_serve.views import ServiceStatistics

US_A_SECOND = 1e6

# Triton's word for why a request failed, by the reason of ours; whatever else it was is OTHER.
REASONS = {
    LimitReached.reason: "REJECTED",
    StepCancelled.reason: "CANCELED",
    EngineFault.reason: "BACKEND",
}
OTHER = "OTHER"

# Refusals of steps; that of a session is none of a request to Triton.
REJECTED_STEPS = ("session", "queue", "total", "tenant")

# Metric, help, and what it is of a model.
COUNTS: tuple[tuple[str, str, Callable[[ModelSeries], float]], ...] = (
    ("request_success", "Requests answered.", lambda one: one.answered),
    ("count", "Steps run, each of one session or one row.", lambda one: one.batch_size.total),
    ("exec_count", "Runs of the engine; count over this is the mean batch size.", lambda one: one.batch_size.count),
    ("request_duration_us", "From the door to the reply, of requests answered.", lambda one: _us(one.answered_s)),
    ("queue_duration_us", "From the door to the first batch.", lambda one: _us(one.answered_wait_s)),
    ("compute_input_duration_us", "0: it is a part of infer.", lambda _: 0.0),
    (
        "compute_infer_duration_us",
        "From the first batch to the reply, with what is done before and after each run.",
        lambda one: _us(one.answered_s - one.answered_wait_s),
    ),
    ("compute_output_duration_us", "0: it is a part of infer.", lambda _: 0.0),
)


class TritonCollector(Collector):
    """Exposes what was counted under Triton's names."""

    def __init__(
        self, models: Callable[[], Mapping[ModelKey, ModelSeries]], statistics: Callable[[], ServiceStatistics]
    ) -> None:
        self._models = models
        self._statistics = statistics

    def collect(self) -> Iterable[Metric]:
        models = self._models()
        for metric, text, read in COUNTS:
            family = UnknownMetricFamily(f"nv_inference_{metric}", text, labels=MODEL)
            for key, series in models.items():
                family.add_metric(key, read(series))
            yield family
        failures = UnknownMetricFamily(
            "nv_inference_request_failure", "Requests that failed.", labels=(*MODEL, "reason")
        )
        for key, series in models.items():
            for reason, count in failed(series).items():
                failures.add_metric((*key, reason), count)
        yield failures
        pending = GaugeMetricFamily(
            "nv_inference_pending_request_count", "Sessions and rows with a step waiting.", labels=MODEL
        )
        for key, statistics in self._statistics().schedulers.items():
            pending.add_metric(key, statistics.sessions_waiting)
        yield pending


def failed(series: ModelSeries) -> dict[str, int]:
    """Requests that failed, by Triton's reasons: each of them, also where there was none."""
    counts = dict.fromkeys((*REASONS.values(), OTHER), 0)
    for reason, count in series.failed.items():
        counts[REASONS.get(reason, OTHER)] += count
    counts[REASONS[LimitReached.reason]] += sum(series.rejected[word] for word in REJECTED_STEPS)
    return counts


def _us(seconds: float) -> float:
    return seconds * US_A_SECOND
