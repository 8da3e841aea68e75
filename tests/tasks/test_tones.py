"""The tones task."""

import numpy as np

from ntm_models.tasks.tones import NOISE, PERIODS, UNSCORED, Tones


def test_the_tones_that_are_wanted_have_their_share_of_the_sound_and_the_others_none():
    samples = 3 * 5 * 8 * 13
    episodes = Tones().episodes(length=samples, sequences=30, seed=3)
    turns = np.arange(samples)[:, np.newaxis] / np.array(PERIODS)
    loudness = 2 * np.abs(episodes.x[:, :, 0] @ np.exp(-2j * np.pi * turns)) / samples
    assert np.array_equal(loudness > 0.5, episodes.y[:, 0] > 0.5)
    assert (episodes.y == episodes.y[:, :1]).all()


def test_a_sound_without_tones_is_noise_and_the_first_samples_do_not_count():
    episodes = Tones().episodes(length=400, sequences=200, seed=3)
    silent = episodes.x[~episodes.y[:, 0].any(axis=1)]
    assert len(silent)
    assert np.isclose(silent.std(), NOISE, rtol=0.05)
    assert np.flatnonzero(episodes.scored)[0] == UNSCORED
