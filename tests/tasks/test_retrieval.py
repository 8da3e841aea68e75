"""The multi-turn retrieval task, read back from its inputs alone."""

import numpy as np

from ntm_models.tasks.retrieval import NAMED_MAX, Retrieval


def test_the_item_wanted_is_like_the_one_named_but_for_what_is_said():
    task = Retrieval()
    episodes = task.episodes(length=9, sequences=30, seed=4)
    for shown, feedback, wanted in zip(episodes.x, episodes.inputs["feedback"], episodes.y, strict=True):
        for at in range(9):
            like, named, values = np.split(feedback[at], [3, 3 + task.attributes])
            expected = [shown[at], wanted[at - 1], wanted[0]][like.argmax()].copy()
            expected[named == 1] = values[named == 1]
            assert np.array_equal(wanted[at], expected)


def test_the_first_turn_is_about_what_it_shows_and_later_ones_about_all_three():
    feedback = Retrieval().episodes(length=6, sequences=200, seed=5).inputs["feedback"]
    assert (feedback[:, 0, :3].argmax(axis=1) == 0).all()
    assert set(feedback[:, 1:, :3].argmax(axis=2).ravel()) == {0, 1, 2}


def test_one_or_two_attributes_are_named_and_only_those_have_a_value():
    task = Retrieval()
    feedback = task.episodes(length=6, sequences=200, seed=6).inputs["feedback"]
    named, values = feedback[..., 3 : 3 + task.attributes], feedback[..., 3 + task.attributes :]
    assert set(named.sum(axis=2).ravel()) == set(range(1, NAMED_MAX + 1))
    assert (values <= named).all()
