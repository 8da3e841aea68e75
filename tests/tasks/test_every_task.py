"""What every task promises to training, export and evaluation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntm_models.tasks import OUTPUT, TASKS, tensors_of

# Output channels on which an encoding never wants anything.
BLANK = {
    "copy-markers-first": [0, 1], "copy-wide": [5], "copy-series": [5], "repeat-copy-unary": [8, 9],
    "associative-recall-wide": [8, 9],
}  # fmt: skip

every_task = pytest.mark.parametrize("name", sorted(TASKS))


@every_task
def test_the_same_seed_gives_the_same_episodes_and_another_seed_others(name):
    task = TASKS[name]()
    length = max(7, task.length_min)
    once, again, other = (task.episodes(length=length, sequences=5, seed=seed) for seed in (11, 11, 12))
    assert np.array_equal(once.x, again.x)
    assert np.array_equal(once.y, again.y)
    assert not np.array_equal(once.x, other.x)


@every_task
def test_a_seed_of_several_numbers_is_a_stream_for_each_of_them(name):
    task = TASKS[name]()
    length = max(7, task.length_min)
    one, other = (task.episodes(length=length, sequences=5, seed=(11, stream)) for stream in (0, 1))
    assert not np.array_equal(one.x, other.x)


@every_task
@given(more=st.integers(0, 12), sequences=st.integers(1, 4), seed=st.integers(0, 2**63))
def test_episodes_have_the_channels_of_the_task_and_wanted_outputs_are_bits(name, more, sequences, seed):
    task = TASKS[name]()
    episodes = task.episodes(length=task.length_min + more, sequences=sequences, seed=seed)
    assert all(array.shape[:2] == (sequences, episodes.steps) for array in episodes.inputs.values())
    assert episodes.y.shape == (sequences, episodes.steps, task.outputs)
    assert episodes.scored.shape in [(episodes.steps,), (sequences, episodes.steps)]
    assert np.broadcast_to(episodes.scored, episodes.y.shape[:2]).any(axis=1).all()
    assert all(len(array) == sequences for array in episodes.initial_state.values())
    assert episodes.y.dtype == np.float32
    assert set(np.unique(episodes.y)) <= {0.0, 1.0}
    if episodes.classes:
        assert (episodes.y[np.broadcast_to(episodes.scored, episodes.y.shape[:2])].sum(axis=1) == 1).all()
    assert all(np.isfinite(array).all() for array in episodes.inputs.values())


@every_task
def test_a_step_has_the_same_tensors_whatever_the_length(name):
    task = TASKS[name]()
    inputs, outputs = tensors_of(task)
    longer = task.episodes(length=task.length_min + 5, sequences=2, seed=4)
    assert {one: str(array.dtype) + str(list(array.shape[2:])) for one, array in longer.inputs.items()} == inputs
    assert outputs == {OUTPUT: f"float32[{task.outputs}]"}


@every_task
def test_what_sessions_are_given_does_not_depend_on_the_length(name):
    task = TASKS[name]()
    first, longer = (
        task.episodes(length=task.length_min + more, sequences=3, seed=(5, 0)).initial_state for more in (0, 7)
    )
    assert {one: array.tobytes() for one, array in first.items()} == {
        one: array.tobytes() for one, array in longer.items()
    }


@every_task
def test_every_input_channel_says_something_and_every_scored_output_varies_but_for_blank_ones(name):
    task = TASKS[name]()
    episodes = task.episodes(length=max(8, task.length_min), sequences=200, seed=3)
    assert all(array.any(axis=(0, 1)).all() for array in episodes.inputs.values())
    wanted = episodes.y[np.broadcast_to(episodes.scored, episodes.y.shape[:2])]
    varies = wanted.std(axis=0) > 0
    assert np.flatnonzero(~varies).tolist() == BLANK.get(name, [])


@every_task
def test_what_is_shorter_than_the_shortest_is_refused(name):
    task = TASKS[name]()
    with pytest.raises(ValueError, match=f"at least {task.length_min} .*, got {task.length_min - 1} and 1"):
        task.episodes(length=task.length_min - 1, sequences=1, seed=0)
    with pytest.raises(ValueError, match="sequences of at least 1, got 8 and 0"):
        task.episodes(length=8, sequences=0, seed=0)


@every_task
def test_a_card_shows_lengths_that_there_are(name):
    task = TASKS[name]()
    assert min(task.lengths_shown) >= task.length_min
    assert list(task.lengths_shown) == sorted(set(task.lengths_shown))


@every_task
def test_the_best_outputs_score_nothing_and_a_coin_scores_more(name):
    task = TASKS[name]()
    episodes = task.episodes(length=max(20, task.length_min), sequences=50, seed=9)
    best = episodes.y if episodes.optimal is None else episodes.optimal
    assert episodes.score(best).tolist() == [0.0] * 50
    coin = np.random.default_rng(1).random(episodes.y.shape, np.float32)
    assert episodes.score(coin).mean() > 1
