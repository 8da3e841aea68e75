"""The associative recall task."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ntm_models.tasks import AssociativeRecall


def parts_of(episodes, length):
    """Items `[B, L, 3, 6]`, query `[B, 3, 6]` and answer `[B, 3, 6]`."""
    items = episodes.x[:, : 4 * length].reshape(-1, length, 4, 8)
    return items[:, :, 1:, :6], episodes.x[:, 4 * length + 1 : 4 * length + 4, :6], episodes.y[:, -3:]


@given(length=st.integers(2, 20), seed=st.integers(0, 2**32))
def test_the_answer_is_the_item_after_the_one_that_is_asked_for(length, seed):
    episodes = AssociativeRecall().episodes(length=length, sequences=3, seed=seed)
    items, query, answer = parts_of(episodes, length)
    for row in range(3):
        following = [at + 1 for at in range(length - 1) if np.array_equal(items[row, at], query[row])]
        assert any(np.array_equal(items[row, at], answer[row]) for at in following)


@given(length=st.integers(2, 12))
def test_delimiters_stand_before_each_item_and_on_both_sides_of_the_query(length):
    x = AssociativeRecall().episodes(length=length, sequences=2, seed=4).x
    query = 4 * length
    assert x.shape[1] == query + 5 + 3
    assert np.flatnonzero(x[0, :, 6]).tolist() == list(range(0, query, 4))
    assert np.flatnonzero(x[0, :, 7]).tolist() == [query, query + 4]
    assert not x[:, query + 5 :].any()
    at_delimiters = x[:, [*range(0, query, 4), query, query + 4], :6]
    assert not at_delimiters.any()


def test_only_the_answer_is_scored_and_nothing_else_is_wanted():
    episodes = AssociativeRecall().episodes(length=3, sequences=9, seed=0)
    assert np.flatnonzero(episodes.scored).tolist() == [17, 18, 19]
    assert not episodes.y[:, :17].any()


def test_every_item_but_the_last_is_asked_for():
    episodes = AssociativeRecall().episodes(length=5, sequences=200, seed=1)
    items, query, _ = parts_of(episodes, 5)
    asked = (items == query[:, np.newaxis]).all(axis=(2, 3)).argmax(axis=1)
    assert set(asked) == {0, 1, 2, 3}
