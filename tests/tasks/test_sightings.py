"""The sightings task, read back from its inputs alone."""

import numpy as np

from ntm_models.tasks.sightings import Sightings


def test_the_answer_is_where_the_thing_was_seen_last_and_zeros_where_it_never_was():
    task = Sightings()
    episodes = task.episodes(length=25, sequences=20, seed=4)
    for x, y in zip(episodes.x, episodes.y, strict=True):
        known = {}
        for frame, wanted in zip(x, y, strict=True):
            for token in frame[frame[:, 0] == 1]:
                known[token[2 : 2 + task.things].argmax()] = token[2 + task.things :]
            (asking,) = frame[frame[:, 1] == 1]
            place = known.get(asking[2 : 2 + task.things].argmax())
            expected = np.zeros(task.outputs) if place is None else np.concatenate([[1], place])
            assert np.array_equal(wanted, expected)
    assert (episodes.y[:, :, 0] == 0).any()


def test_a_frame_shows_no_thing_twice_and_asks_once_and_a_token_does_one_of_the_two():
    task = Sightings()
    x = task.episodes(length=10, sequences=50, seed=5).x
    assert (x[..., 1].sum(axis=2) == 1).all()
    assert not (x[..., 0] * x[..., 1]).any()
    seen = x[..., 2 : 2 + task.things] * x[..., :1]
    assert seen.sum(axis=2).max() == 1
    blank = x[(x[..., 0] == 0) & (x[..., 1] == 0)]
    assert len(blank)
    assert not blank.any()
    # Which of a frame's tokens asks says nothing.
    assert set(x[..., 1].argmax(axis=2).ravel()) == set(range(task.tokens))
