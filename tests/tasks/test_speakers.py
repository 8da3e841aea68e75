"""The speakers task, read back from its inputs and the memory that its sessions begin with."""

import numpy as np

from ntm_models.tasks.speakers import UNSCORED, Speakers

TASK = Speakers()


def test_what_is_said_is_what_is_heard_turned_round_by_the_accent_of_the_nearest_voice():
    episodes = TASK.episodes(length=60, sequences=100, seed=3)
    voices, accents = np.split(episodes.initial_state["speakers"], [TASK.voice], axis=2)
    for x, y, of_session, turned in zip(episodes.x, episodes.y, voices, accents, strict=True):
        nearest = np.square(of_session - x[:, : TASK.voice].mean(axis=0)).sum(axis=1).argmin()
        assert np.array_equal(y, np.where(turned[nearest] > 0, 1 - x[:, TASK.voice :], x[:, TASK.voice :]))


def test_every_session_has_speakers_of_its_own_and_the_steps_until_they_can_be_told_do_not_count():
    episodes = TASK.episodes(length=10, sequences=5, seed=3)
    assert episodes.initial_state["speakers"].shape == (5, TASK.speakers, TASK.voice + TASK.sounds)
    assert set(np.unique(episodes.initial_state["speakers"])) == {-1, 1}
    assert not np.array_equal(episodes.initial_state["speakers"][0], episodes.initial_state["speakers"][1])
    assert episodes.scored.tolist() == [at >= UNSCORED for at in range(10)]


def test_without_the_speakers_what_is_heard_says_nothing():
    episodes = TASK.episodes(length=20, sequences=500, seed=3)
    agreeing = (episodes.x[..., TASK.voice :] == episodes.y).mean()
    assert 0.45 < agreeing < 0.55
