"""How a model has been doing: points of what was counted."""

import pytest

from ntm_serve.history import POINTS_MAX, History, Sample, point_of, quantile
from ntm_serve.metrics import Metrics
from ntm_serve.step_model import ModelKey

COPY = ModelKey("copy", "1")


def test_a_point_is_what_happened_between_two_looks():
    metrics = Metrics(version="", onnxruntime="", grpcio="")
    history = History(metrics.samples)
    metrics.model_loaded(COPY, 0.1)
    metrics.steps_settled(COPY, outcome="ok", sessions=5, steps=2, latency_s=1.0, queue_wait_s=0.0)
    history.look(100.0)
    assert history.points(COPY) == ()
    metrics.steps_settled(COPY, outcome="ok", sessions=3, steps=4, latency_s=0.002, queue_wait_s=0.0)
    history.look(102.0)
    history.look(104.0)
    busy, idle = history.points(COPY)
    assert (busy.at_s, busy.steps_per_s, busy.messages_per_s) == (102.0, 6.0, 1.5)
    assert busy.latency_mean_s == pytest.approx(0.002)
    assert 0.001 < busy.latency_p99_s <= 0.0025
    assert idle == (104.0, 0.0, 0.0, None, None)
    assert history.steps(COPY) == 22
    assert history.steps(ModelKey("none", "1")) == 0


def test_so_many_points_are_kept():
    sample = Sample(0, 0, 0.0, (1.0,), (0, 0))
    history = History(lambda: {COPY: sample})
    for second in range(POINTS_MAX + 10):
        history.look(float(second))
    points = history.points(COPY)
    assert len(points) == POINTS_MAX
    assert points[-1].at_s == POINTS_MAX + 9


def test_a_quantile_is_interpolated_within_its_bucket():
    assert quantile((1.0, 2.0, 4.0), (0, 100, 0, 0), 0.5) == 1.5
    assert quantile((1.0, 2.0, 4.0), (50, 0, 50, 0), 0.75) == 3.0
    assert quantile((1.0, 2.0, 4.0), (0, 0, 0, 7), 0.99) == 4.0


def test_a_clock_that_was_set_back_makes_no_point():
    counted = {"steps": 0}
    history = History(lambda: {COPY: Sample(counted["steps"], 0, 0.0, (1.0,), (0, 0))})
    history.look(100.0)
    history.look(50.0)
    assert history.points(COPY) == ()
    assert point_of(Sample(0, 0, 0.0, (), ()), Sample(10, 0, 0.0, (), ()), 1.0, 2.0).steps_per_s == 5.0
