"""Dyck words."""

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ntm_models.tasks import DyckWords
from ntm_models.tasks.dyck import are_dyck_words, dyck_words


def is_dyck_word(brackets):
    """One bracket after another."""
    height = 0
    for bracket in brackets:
        height += 1 if bracket == 0 else -1
        if height < 0:
            return False
    return height == 0


@given(st.lists(st.integers(0, 1), min_size=1, max_size=12))
def test_a_prefix_is_a_dyck_word_where_brackets_are_balanced_and_never_were_below(brackets):
    found = are_dyck_words(np.array([brackets]))[0]
    assert found.tolist() == [is_dyck_word(brackets[: at + 1]) for at in range(len(brackets))]


@given(length=st.integers(1, 30), seed=st.integers(0, 2**32))
def test_drawn_words_are_dyck_words(length, seed):
    words = dyck_words(np.random.default_rng(seed), length=length, sequences=3)
    assert words.shape == (3, 2 * length)
    assert all(is_dyck_word(word) for word in words)


def test_each_dyck_word_is_drawn_as_often_as_any_other():
    words = dyck_words(np.random.default_rng(1), length=4, sequences=14_000)
    counts = Counter(map(tuple, words))
    assert len(counts) == 14  # The fourth Catalan number.
    assert all(850 < count < 1150 for count in counts.values())  # 1,000 each; five deviations are 152.


def test_about_half_of_the_sequences_are_dyck_words_and_every_step_counts():
    episodes = DyckWords().episodes(length=10, sequences=1000, seed=2)
    assert 0.45 < episodes.y[:, -1].mean() < 0.6  # Turning a bracket there and back leaves a word a word.
    assert episodes.scored.all()
    assert np.array_equal(episodes.y[:, :, 0], are_dyck_words(episodes.x[:, :, 0].astype(int)))
