"""The dynamic N-grams task: its source, and the estimator that nobody can beat."""

import numpy as np
import pytest

from ntm_models.tasks import DynamicNGrams, Episodes
from ntm_models.tasks.ngrams import optimal_estimates


def literal_estimates(bits):
    """Equation 10 as it is written, one bit after another."""
    wanted = []
    for at in range(len(bits)):
        if at < 4:
            wanted.append(0.5)
            continue
        context = bits[at - 4 : at + 1]
        followers = [bits[i + 5] for i in range(at - 4) if bits[i : i + 5] == context]
        wanted.append((sum(followers) + 0.5) / (len(followers) + 1))
    return wanted


def test_the_optimal_estimate_is_that_of_the_paper():
    episodes = DynamicNGrams().episodes(length=120, sequences=3, seed=8)
    assert episodes.optimal is not None
    for row in range(3):
        bits = episodes.x[row, :, 0].astype(int).tolist()
        assert episodes.optimal[row, :, 0].tolist() == pytest.approx(literal_estimates(bits))


def test_each_wanted_output_is_the_next_input():
    episodes = DynamicNGrams().episodes(length=30, sequences=4, seed=2)
    assert np.array_equal(episodes.y[:, :-1], episodes.x[:, 1:])


def test_predictions_count_from_the_first_whole_context_on():
    scored = DynamicNGrams().episodes(length=12, sequences=1, seed=0).scored
    assert scored.tolist() == [False] * 4 + [True] * 7


def test_the_optimal_estimator_costs_less_than_the_true_frequencies_of_all_sources_together():
    episodes = DynamicNGrams().episodes(length=200, sequences=500, seed=3)
    assert episodes.optimal is not None
    fair = episodes.cost_bits(np.full_like(episodes.y, 0.5))
    assert fair.tolist() == [195.0] * 500
    # The mean over sources of the cost of the estimator: 128.9 bits here; the entropy of the sources is lower.
    assert 120 < episodes.cost_bits(episodes.optimal).mean() < 140


def test_the_score_is_the_cost_beyond_the_optimum():
    episodes = DynamicNGrams().episodes(length=50, sequences=6, seed=3)
    guesses = np.full_like(episodes.y, 0.5)
    assert np.allclose(episodes.score(guesses), 45 - episodes.cost_bits(optimal_estimates(episodes.x)))


def test_a_cost_is_the_bits_that_a_probability_leaves_open():
    y = np.array([[[1.0], [0.0], [1.0]]], np.float32)
    episodes = Episodes(x=y, y=y, scored=np.array([True, True, False]))
    assert episodes.cost_bits(np.array([[[0.25], [0.5], [0.0]]], np.float32)).tolist() == [3.0]
    assert episodes.cost_bits(y).tolist() == [0.0]


def test_a_cost_is_finite_where_the_output_was_certain_and_wrong_or_is_no_number():
    y = np.array([[[1.0]]], np.float32)
    episodes = Episodes(x=y, y=y, scored=np.array([True]))
    for output in (0.0, np.nan):
        assert episodes.cost_bits(np.full_like(y, output)).tolist() == [24.0]


def oldest_bit_matters(task):
    """By how much the chance of a 1 changes with the oldest of the five bits, the mean over words seen often."""
    differences = []
    for bits in task.episodes(length=2_000, sequences=10, seed=4).x[:, :, 0].astype(int):
        words = sum(bits[5 - back : -back] << (back - 1) for back in range(1, 6))
        followers = [bits[5:][words == word] for word in range(32)]
        both = [pair for pair in zip(followers[:16], followers[16:], strict=True) if min(map(len, pair)) > 40]
        differences += [abs(one.mean() - other.mean()) for one, other in both]
    assert len(differences) > 10
    return np.mean(differences)


def test_a_source_heeds_no_more_bits_than_its_context():
    assert oldest_bit_matters(DynamicNGrams(context=4)) < 0.1 < 0.2 < oldest_bit_matters(DynamicNGrams())


def test_a_training_draws_the_context_from_the_least_to_the_whole():
    random = np.random.default_rng(2)
    assert {DynamicNGrams(context=3, context_min=1).varied(random).context for _ in range(60)} == {1, 2, 3}
    assert DynamicNGrams().varied(random) == DynamicNGrams()


@pytest.mark.parametrize("field", ["context", "context_min"])
def test_a_context_beyond_five_bits_is_refused(field):
    with pytest.raises(ValueError, match=rf"{field}: expected 0 to 5, got 6"):
        DynamicNGrams(**{field: 6})
