"""The repeat copy task."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntm_models.tasks import RepeatCopy


@given(length=st.integers(1, 12), repeats=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_the_sequence_is_wanted_as_often_as_the_number_says_and_then_the_end_marker(length, repeats, seed):
    task = RepeatCopy(repeats=repeats)
    episodes = task.episodes(length=length, sequences=2, seed=seed)
    shown, delimiter, blank = np.split(episodes.x, [length, length + 1], axis=1)
    assert not shown[:, :, 8:].any()
    assert delimiter[:, 0, 8].tolist() == [1, 1]
    assert not delimiter[:, 0, :8].any()
    assert not blank.any()
    copies, marker = episodes.y[:, length + 1 : -1], episodes.y[:, -1]
    assert copies.shape == (2, length * repeats, 9)
    for nth in range(repeats):
        assert np.array_equal(copies[:, nth * length : (nth + 1) * length, :8], shown[:, :, :8])
    assert not copies[:, :, 8].any()
    assert np.array_equal(marker, np.eye(9, dtype=np.float32)[[8, 8]])


def test_the_number_of_repeats_has_mean_0_and_variance_1_over_1_to_10():
    numbers = [RepeatCopy(repeats=n).episodes(length=1, sequences=1, seed=0).x[0, 1, 9] for n in range(1, 11)]
    assert np.mean(numbers) == pytest.approx(0, abs=1e-6)
    assert np.var(numbers) == pytest.approx(1, abs=1e-6)
    assert numbers == sorted(numbers)


def test_only_what_follows_the_delimiter_is_scored():
    scored = RepeatCopy(repeats=2).episodes(length=3, sequences=1, seed=0).scored
    assert scored.tolist() == [False] * 4 + [True] * 7


def test_a_training_draws_every_number_of_repeats_up_to_the_tasks():
    random = np.random.default_rng(5)
    drawn = {RepeatCopy(repeats=4).varied(random).repeats for _ in range(100)}
    assert drawn == {1, 2, 3, 4}
    assert {RepeatCopy(repeats=4, repeats_min=3).varied(random).repeats for _ in range(100)} == {3, 4}


@pytest.mark.parametrize("field", ["repeats", "repeats_min"])
def test_no_repeats_are_refused(field):
    with pytest.raises(ValueError, match=f"{field}: expected at least 1, got 0"):
        RepeatCopy(**{field: 0})


def test_mixed_repeats_are_each_sequences_own_and_nothing_after_its_end_marker_is_scored():
    task = RepeatCopy(repeats=4, repeats_min=2, mixed=True)
    episodes = task.episodes(length=3, sequences=40, seed=7)
    seen = set()
    for x, y, scored in zip(episodes.x, episodes.y, episodes.scored, strict=True):
        repeats = round(float(x[3, 9]) * 8.25**0.5 + 5.5)
        alone = RepeatCopy(repeats=repeats).episodes(length=3, sequences=1, seed=0)
        assert x[3, 9] == alone.x[0, 3, 9]
        end = 3 + 1 + 3 * repeats
        assert np.array_equal(y[4:end, :8], np.tile(x[:3, :8], (repeats, 1)))
        assert y[:, 8].tolist() == [float(at == end) for at in range(len(y))]
        assert scored.tolist() == [3 < at <= end for at in range(len(y))]
        seen.add(repeats)
    assert seen == {2, 3, 4}


def test_a_training_with_mixed_repeats_draws_none_for_the_batch():
    task = RepeatCopy(mixed=True)
    assert task.varied(np.random.default_rng(5)) is task
