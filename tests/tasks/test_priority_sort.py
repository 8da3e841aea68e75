"""The priority sort task."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ntm_models.tasks import PrioritySort


@given(length=st.integers(2, 25), seed=st.integers(0, 2**32))
def test_the_vectors_of_highest_priority_are_wanted_the_highest_first(length, seed):
    episodes = PrioritySort().episodes(length=length, sequences=2, seed=seed)
    kept = length * 4 // 5
    assert episodes.x.shape[1] == length + 1 + kept
    for x, y in zip(episodes.x, episodes.y, strict=True):
        ranked = sorted(x[:length], key=lambda vector: -vector[8])
        assert np.array_equal(y[length + 1 :], [vector[:8] for vector in ranked[:kept]])


def test_twenty_give_sixteen():
    assert PrioritySort().episodes(length=20, sequences=1, seed=0).scored.tolist() == [False] * 21 + [True] * 16


def test_priorities_are_even_between_minus_one_and_one_and_the_delimiter_stands_alone():
    x = PrioritySort().episodes(length=20, sequences=500, seed=6).x
    priorities = x[:, :20, 8]
    assert -1 <= priorities.min() < -0.99
    assert 0.99 < priorities.max() <= 1
    assert abs(priorities.mean()) < 0.03
    assert not x[:, :20, 9].any()
    assert np.array_equal(x[0, 20], np.eye(10, dtype=np.float32)[9])
    assert not x[:, 21:].any()
