"""The reversal task."""

import numpy as np

from ntm_models.tasks.copy import Copy
from ntm_models.tasks.reverse import Reversal


def test_what_was_shown_is_wanted_from_its_end():
    for length in (1, 2, 7):
        episodes = Reversal(bits=3).episodes(length=length, sequences=20, seed=3)
        assert np.array_equal(episodes.y[:, length + 1 :], episodes.x[:, :length, :3][:, ::-1])
        assert not episodes.y[:, : length + 1].any()


def test_all_else_is_as_the_copy_task_has_it():
    given, plain = (task(bits=3).episodes(length=5, sequences=4, seed=3) for task in (Reversal, Copy))
    assert np.array_equal(given.x, plain.x)
    assert np.array_equal(given.scored, plain.scored)
