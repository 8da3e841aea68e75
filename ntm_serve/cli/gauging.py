"""What `top` reads off a server's metrics: two readings, and what happened between them. Pure.

Rules of this file: readings of several servers add up to one; a rate is of what was counted between two readings, and a
server that was restarted meanwhile counts from nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from ntm_serve.step_model import ModelKey


class Series(NamedTuple):
    """A name and its labels, in the order of their names."""

    name: str
    labels: tuple[tuple[str, str], ...]

    def label(self, name: str) -> str:
        """Empty where it has none."""
        return dict(self.labels).get(name, "")


@dataclass(frozen=True)
class Reading:
    """The values of a server's metrics, or of several servers'. at_s: on the monotonic clock."""

    at_s: float
    values: Mapping[Series, float]

    def total(self, name: str, **labels: str) -> float:
        """The sum of the series of that name and these labels; 0 where there is none."""
        return sum(value for series, value in self._of(name, labels))

    def models(self) -> list[ModelKey]:
        """Models that the servers know of, by name and version."""
        found = {ModelKey(one.label("model"), one.label("version")) for one, _ in self._of("ntm_serve_model_ready", {})}
        return sorted(found, key=lambda key: (key.name, len(key.version), key.version))

    def buckets(self, name: str, **labels: str) -> dict[float, float]:
        """How many observations there are up to each bound, in the order of bounds."""
        found: dict[float, float] = {}
        for series, value in self._of(f"{name}_bucket", labels):
            bound = float(series.label("le"))
            found[bound] = found.get(bound, 0.0) + value
        return dict(sorted(found.items()))

    def _of(self, name: str, labels: Mapping[str, str]) -> Iterable[tuple[Series, float]]:
        wanted = set(labels.items())
        return ((one, value) for one, value in self.values.items() if one.name == name and wanted <= set(one.labels))


def reading(expositions: Sequence[str], at_s: float) -> Reading:
    """What the texts of `/metrics` say together."""
    values: dict[Series, float] = {}
    for text in expositions:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                series = Series(sample.name, tuple(sorted(sample.labels.items())))
                values[series] = values.get(series, 0.0) + sample.value
    return Reading(at_s, values)


@dataclass(frozen=True)
class ModelLine:
    """One model, over the time between two readings. Rates are per second; None where nothing was counted."""

    model: str
    version: str
    ready: bool
    sessions: int
    steps_s: float
    errors_s: float
    refused_s: float
    latency_p50_s: float | None
    latency_p99_s: float | None
    queue_wait_p99_s: float | None
    batch_mean: float | None
    steps_waiting: int


@dataclass(frozen=True)
class ServerLine:
    """All servers together. servers_ready: how many say so."""

    servers: int
    servers_ready: int
    sessions: int
    stored_sessions: int | None
    steps_s: float
    processor: float
    resident_bytes: int
    commit_p99_s: float | None


class Between:
    """What happened between two readings."""

    def __init__(self, before: Reading, now: Reading) -> None:
        self._before = before
        self._now = now
        self._took_s = max(now.at_s - before.at_s, 1e-9)

    def server(self, servers: int) -> ServerLine:
        """Of so many that were read."""
        now = self._now
        stored = [value for series, value in now.values.items() if series.name == "ntm_serve_store_sessions"]
        return ServerLine(
            servers=servers,
            servers_ready=int(now.total("ntm_serve_ready")),
            sessions=int(now.total("ntm_serve_sessions")),
            # They share their store, and each counts all of it.
            stored_sessions=round(sum(stored) / servers) if stored else None,
            steps_s=self._rate("ntm_serve_steps_total", outcome="ok"),
            processor=self._rate("process_cpu_seconds_total"),
            resident_bytes=int(now.total("process_resident_memory_bytes")),
            commit_p99_s=self._quantile(0.99, "ntm_serve_store_commit_seconds"),
        )

    def models(self) -> list[ModelLine]:
        """One line for each."""
        return [self._model(key) for key in self._now.models()]

    def _model(self, key: ModelKey) -> ModelLine:
        of = {"model": key.name, "version": key.version}
        runs = self._counted("ntm_serve_batch_size_count", of)
        return ModelLine(
            model=key.name,
            version=key.version,
            ready=self._now.total("ntm_serve_model_ready", **of) > 0,
            sessions=int(self._now.total("ntm_serve_sessions", **of)),
            steps_s=self._rate("ntm_serve_steps_total", outcome="ok", **of),
            errors_s=self._rate("ntm_serve_steps_total", outcome="error", **of),
            refused_s=self._rate("ntm_serve_rejected_total", **of),
            latency_p50_s=self._quantile(0.5, "ntm_serve_step_latency_seconds", **of),
            latency_p99_s=self._quantile(0.99, "ntm_serve_step_latency_seconds", **of),
            queue_wait_p99_s=self._quantile(0.99, "ntm_serve_queue_wait_seconds", **of),
            batch_mean=self._counted("ntm_serve_batch_size_sum", of) / runs if runs else None,
            steps_waiting=int(self._now.total("ntm_serve_inflight_steps", **of)),
        )

    def _counted(self, name: str, labels: Mapping[str, str]) -> float:
        before, now = self._before.total(name, **labels), self._now.total(name, **labels)
        return now - before if now >= before else now

    def _rate(self, name: str, **labels: str) -> float:
        return self._counted(name, labels) / self._took_s

    def _quantile(self, part: float, name: str, **labels: str) -> float | None:
        before, now = self._before.buckets(name, **labels), self._now.buckets(name, **labels)
        counts = {bound: count - before.get(bound, 0.0) for bound, count in now.items()}
        return quantile(part, counts if all(count >= 0 for count in counts.values()) else now)


def quantile(part: float, counts: Mapping[float, float]) -> float | None:
    """Where that part of the observations ends, between the bounds of its bucket in proportion, as Prometheus has it;
    None of none. counts: up to each bound, in the order of bounds; the last bound is infinite.
    """
    total = max(counts.values(), default=0.0)
    if not total:
        return None
    wanted = part * total
    for (lower, below), (upper, upto) in pairwise([(0.0, 0.0), *counts.items()]):
        if upto >= wanted:
            return lower if upper == float("inf") else lower + (upper - lower) * (wanted - below) / (upto - below)
    raise AssertionError("the last bucket has them all")
