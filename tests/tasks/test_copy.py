"""The copy task: what its generator promises to training, demo and evaluation."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntm_models.tasks import TASKS, Copy

lengths = st.integers(1, 30)
seeds = st.integers(0, 2**63)


def test_the_same_seed_gives_the_same_sequences():
    once = Copy().episodes(length=7, sequences=5, seed=11)
    again = Copy().episodes(length=7, sequences=5, seed=11)
    assert np.array_equal(once.x, again.x)
    assert np.array_equal(once.y, again.y)


def test_another_seed_gives_other_sequences():
    one, other = (Copy().episodes(length=7, sequences=5, seed=seed) for seed in (11, 12))
    assert not np.array_equal(one.x, other.x)


def test_a_seed_of_several_numbers_is_another_stream_for_each_of_them():
    one, other = (Copy().episodes(length=7, sequences=5, seed=(11, stream)) for stream in (0, 1))
    assert not np.array_equal(one.x, other.x)


@given(length=lengths, sequences=st.integers(1, 4), bits=st.integers(1, 9), seed=seeds)
def test_the_sequence_comes_first_then_the_delimiter_then_nothing_while_the_copy_is_wanted(
    length, sequences, bits, seed
):
    task = Copy(bits=bits)
    episodes = task.episodes(length=length, sequences=sequences, seed=seed)

    assert episodes.x.shape == (sequences, 2 * length + 1, task.inputs) == (sequences, 2 * length + 1, bits + 1)
    assert episodes.y.shape == (sequences, 2 * length + 1, task.outputs) == (sequences, 2 * length + 1, bits)
    assert episodes.x.dtype == episodes.y.dtype == np.float32
    shown, delimiter, blank = np.split(episodes.x, [length, length + 1], axis=1)
    assert set(np.unique(shown)) <= {0.0, 1.0}
    assert not shown[:, :, bits].any()
    assert np.array_equal(delimiter[:, 0], np.eye(bits + 1, dtype=np.float32)[[bits] * sequences])
    assert not blank.any()
    assert np.array_equal(episodes.y[:, length + 1 :], shown[:, :, :bits])
    assert not episodes.y[:, : length + 1].any()


@given(length=lengths)
def test_only_the_steps_of_the_copy_are_scored(length):
    scored = Copy().episodes(length=length, sequences=1, seed=0).scored
    assert scored.tolist() == [False] * (length + 1) + [True] * length


def test_both_bits_are_about_as_frequent():
    bits = Copy().episodes(length=50, sequences=50, seed=3).y[:, 51:]
    assert 0.48 < bits.mean() < 0.52  # 20,000 bits: more than five standard deviations to either side


@pytest.mark.parametrize(("length", "sequences"), [(0, 1), (1, 0)])
def test_an_empty_episode_is_refused(length, sequences):
    with pytest.raises(ValueError, match=f"at least 1, got {length} and {sequences}"):
        Copy().episodes(length=length, sequences=sequences, seed=0)


def test_a_recipe_finds_the_task_by_its_name():
    assert TASKS["copy"]() == Copy(bits=8)


def test_tasks_import_no_torch():
    code = "import sys, ntm_models.tasks; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
