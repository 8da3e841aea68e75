"""The entity tracking task: its stories, read word by word."""

import numpy as np

from ntm_models.tasks.entity_tracking import EntityTracking

TASK = EntityTracking()

# Words: 0 is none, 1 is "where"; then actors, places and verbs.
ACTOR, PLACE, VERB = 2, 2 + TASK.actors, 2 + TASK.actors + TASK.places


def test_an_answer_is_where_the_last_statement_about_somebody_put_them():
    episodes = TASK.episodes(length=20, sequences=40, seed=3)
    for statements, questions, answers in zip(episodes.x, episodes.inputs["question"], episodes.y, strict=True):
        stands_at = {}
        for (first, second, verb, place), (where, asked), wanted in zip(statements, questions, answers, strict=True):
            named = {first, second} - {0}
            stands_at |= dict.fromkeys(named, place)
            assert all(ACTOR <= one < PLACE for one in named)
            assert PLACE <= place < VERB <= verb < TASK.vocabulary
            if not where:
                assert (where, asked, wanted.any()) == (0, 0, False)
                continue
            assert where == 1
            assert asked not in named
            assert np.flatnonzero(wanted).tolist() == [stands_at[asked] - PLACE]


def test_from_the_second_statement_on_there_is_somebody_to_ask_for_and_nothing_else_is_scored():
    episodes = TASK.episodes(length=20, sequences=200, seed=4)
    asked = episodes.inputs["question"].any(axis=2)
    assert np.array_equal(episodes.scored, asked)
    assert not asked[:, 0].any()
    assert asked[:, 1:].mean() > 0.98


def test_some_go_in_pairs():
    pairs = (TASK.episodes(length=20, sequences=200, seed=5).x[:, :, 1] > 0).mean()
    assert 0.2 < pairs < 0.35
