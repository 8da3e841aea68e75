"""The store of keys and values, read back from its inputs alone."""

import numpy as np

from ntm_models.tasks.key_value import KeyValueStore

TASK = KeyValueStore()


def test_what_is_wanted_is_the_value_that_the_key_was_told_last():
    episodes = TASK.episodes(length=30, sequences=50, seed=3)
    told_again = 0
    for x, y, scored in zip(episodes.x, episodes.y, episodes.scored, strict=True):
        values = {}
        for step, wanted, counts in zip(x, y, scored, strict=True):
            (tells, asks), key, value = step[:2], step[2 : 2 + TASK.key_bits].tobytes(), step[2 + TASK.key_bits :]
            assert (tells, asks) == (not counts, counts)
            if tells:
                told_again += key in values and values[key].tobytes() != value.tobytes()
                values[key] = value
                assert not wanted.any()
            else:
                assert not value.any()
                assert np.array_equal(wanted, values[key])
        assert len(values) <= TASK.keys
    assert told_again > 100


def test_the_first_step_tells_and_the_second_asks():
    x = TASK.episodes(length=2, sequences=20, seed=4).x
    assert x[:, :, :2].tolist() == [[[1, 0], [0, 1]]] * 20


def test_a_session_has_keys_of_its_own():
    x = TASK.episodes(length=60, sequences=50, seed=5).x
    keys = {frozenset(step[2 : 2 + TASK.key_bits].tobytes() for step in session) for session in x}
    assert len(keys) > 40
