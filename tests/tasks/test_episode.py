"""The scorer: wrong bits per sequence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntm_models.tasks import Copy, Episodes


def episodes_of(length=3, sequences=4, seed=5) -> Episodes:
    return Copy().episodes(length=length, sequences=sequences, seed=seed)


def test_the_wanted_outputs_have_no_wrong_bits():
    episodes = episodes_of()
    assert episodes.wrong_bits(episodes.y).tolist() == [0, 0, 0, 0]


@given(st.sets(st.tuples(st.integers(0, 3), st.integers(4, 6), st.integers(0, 7))))
def test_each_flipped_bit_is_counted_once_and_for_its_own_sequence(flipped):
    episodes = episodes_of()
    outputs = episodes.y.copy()
    for at in flipped:
        outputs[at] = 1 - outputs[at]
    assert episodes.wrong_bits(outputs).tolist() == [sum(at[0] == i for at in flipped) for i in range(4)]


def test_outputs_before_the_copy_is_wanted_do_not_count():
    episodes = episodes_of()
    outputs = episodes.y.copy()
    outputs[:, :4] = 1
    assert episodes.wrong_bits(outputs).tolist() == [0, 0, 0, 0]


def test_an_output_counts_by_the_side_of_one_half_that_it_is_on():
    episodes = episodes_of()
    assert not episodes.wrong_bits(np.where(episodes.y > 0, np.float32(0.51), np.float32(0.49))).any()
    assert episodes.wrong_bits(np.where(episodes.y > 0, np.float32(0.49), np.float32(0.51))).tolist() == [24] * 4


def test_one_half_is_no_one():
    episodes = episodes_of()
    ones = episodes.y[:, episodes.scored].sum(axis=(1, 2))
    assert episodes.wrong_bits(np.full_like(episodes.y, 0.5)).tolist() == ones.tolist()


@pytest.mark.parametrize("wanted", [0.0, 1.0])
def test_what_is_not_a_number_is_wrong_whatever_was_wanted(wanted):
    y = np.full((1, 3, 2), wanted, np.float32)
    episodes = Episodes(x=np.zeros((1, 3, 3), np.float32), y=y, scored=np.array([False, False, True]))
    assert episodes.wrong_bits(np.full_like(y, np.nan)).tolist() == [2]


@pytest.mark.parametrize("shape", [(4, 7, 9), (3, 7, 8), (4, 6, 8), (4, 7)])
def test_outputs_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"outputs: expected shape \(4, 7, 8\), got"):
        episodes_of().wrong_bits(np.zeros(shape, np.float32))


def answers_of(y, scored=None) -> Episodes:
    """One sequence a row of y `[B, T, O]`, whose outputs are classes."""
    y = np.asarray(y, np.float32)
    return Episodes(
        x=np.zeros((*y.shape[:2], 2), np.int64),
        y=y,
        scored=np.ones(y.shape[1], np.bool_) if scored is None else np.asarray(scored),
        classes=True,
    )


def test_an_answer_is_right_where_the_right_class_is_the_likeliest():
    episodes = answers_of([[[0, 1, 0], [1, 0, 0]]] * 4)
    outputs = np.array(
        [
            [[0.3, 0.4, 0.3], [0.5, 0.2, 0.3]],
            [[0.4, 0.3, 0.3], [0.5, 0.2, 0.3]],
            [[0.4, 0.4, 0.2], [0.5, 0.5, 0.0]],
            [[np.nan, np.nan, np.nan], [np.nan, 0.0, 0.0]],
        ],
        np.float32,
    )
    assert episodes.wrong(outputs).tolist() == episodes.score(outputs).tolist() == [0, 1, 2, 2]
    assert episodes.unit == "answers"


def test_of_equals_none_is_an_answer_and_near_ones_are_undecided():
    episodes = answers_of([[[0, 1], [1, 0]]])
    outputs = np.array([[[0.49999, 0.50001], [0.9, 0.1]]], np.float32)
    assert episodes.undecided(outputs, 1e-4).tolist() == [1]
    assert episodes.undecided(outputs, 1e-6).tolist() == [0]


def test_what_counts_may_differ_from_sequence_to_sequence():
    y = [[[0, 1], [1, 0], [1, 0]]] * 2
    episodes = answers_of(y, scored=[[True, False, False], [False, True, True]])
    assert episodes.wrong(np.zeros_like(episodes.y)).tolist() == [1, 2]
    assert episodes.undecided(np.zeros_like(episodes.y), 1e-4).tolist() == [1, 2]


def test_a_right_answer_costs_what_its_own_probability_says():
    outputs = np.array([[[0.25, 0.75], [0.5, 0.5]]], np.float32)
    assert answers_of([[[1, 0], [0, 1]]]).cost_bits(outputs).tolist() == [3.0]


def test_the_inputs_are_x_and_the_others_by_name():
    x, label = np.zeros((1, 3, 3), np.float32), np.zeros((1, 3), np.int64)
    episodes = Episodes(x=x, y=x, scored=np.ones(3, np.bool_), others={"label": label})
    assert list(episodes.inputs) == ["x", "label"]
    assert episodes.steps == 3
