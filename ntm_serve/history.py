"""How a model has been doing of late: points made of what is counted anyway. Pure.

Rules of this file: a point is the difference of two samples, so nothing is counted for it on the path of a step; so
many points are kept and no more.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ntm_serve.step_model import ModelKey

INTERVAL_S = 5.0
POINTS_MAX = 60


class Sample(NamedTuple):
    """What was counted of a model since the server started. latency_counts: messages by the bucket of their latency,
    whose upper bounds, in seconds, are latency_bounds; the last has none.
    """

    steps: int
    messages: int
    latency_s: float
    latency_bounds: Sequence[float]
    latency_counts: Sequence[int]


class Point(NamedTuple):
    """One interval, which ended at_s, Unix seconds. Latencies in seconds; None where no message was answered."""

    at_s: float
    steps_per_s: float
    messages_per_s: float
    latency_mean_s: float | None
    latency_p99_s: float | None


class History:
    """Of the models of a server. Whoever owns it calls `look` every INTERVAL_S."""

    def __init__(self, samples: Callable[[], Mapping[ModelKey, Sample]]) -> None:
        self._samples = samples
        self._before: Mapping[ModelKey, Sample] = {}
        self._at_s: float | None = None
        self._points: dict[ModelKey, deque[Point]] = {}

    def steps(self, model: ModelKey) -> int:
        """How many steps of a model were made."""
        sample = self._samples().get(model)
        return 0 if sample is None else sample.steps

    def points(self, model: ModelKey) -> Sequence[Point]:
        """The oldest first."""
        return tuple(self._points.get(model, ()))

    def look(self, now_s: float) -> None:
        """Make a point for each model. now_s: Unix seconds."""
        samples = self._samples()
        if self._at_s is not None and now_s > self._at_s:
            for model, after in samples.items():
                before = self._before.get(model)
                if before is not None:
                    points = self._points.setdefault(model, deque(maxlen=POINTS_MAX))
                    points.append(point_of(before, after, now_s, now_s - self._at_s))
        for model in self._points.keys() - samples.keys():
            del self._points[model]
        self._before, self._at_s = samples, now_s


def point_of(before: Sample, after: Sample, at_s: float, took_s: float) -> Point:
    """What happened between two samples."""
    counts = [late - early for early, late in zip(before.latency_counts, after.latency_counts, strict=True)]
    answered = sum(counts)
    return Point(
        at_s=at_s,
        steps_per_s=(after.steps - before.steps) / took_s,
        messages_per_s=(after.messages - before.messages) / took_s,
        latency_mean_s=(after.latency_s - before.latency_s) / answered if answered else None,
        latency_p99_s=quantile(after.latency_bounds, counts, 0.99) if answered else None,
    )


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float:
    """Below which that share of the observations is, interpolated within a bucket; of the last one its lower bound."""
    wanted, below, lower = share * sum(counts), 0, 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if count and below + count >= wanted:
            return lower + (bound - lower) * (wanted - below) / count
        below, lower = below + count, bound
    return lower
