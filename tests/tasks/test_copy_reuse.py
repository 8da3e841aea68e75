"""The copy task with re-use of memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ntm_models.tasks import CopyReuse


@given(length=st.integers(1, 6), vectors=st.integers(1, 6), seed=st.integers(0, 2**32))
def test_a_session_is_one_copy_after_another(length, vectors, seed):
    episodes = CopyReuse(vectors=vectors).episodes(length=length, sequences=3, seed=seed)
    steps = 2 * vectors + 1
    assert episodes.x.shape == (3, length * steps, 9)
    for nth in range(length):
        part = slice(nth * steps, (nth + 1) * steps)
        shown, delimiter, blank = np.split(episodes.x[:, part], [vectors, vectors + 1], axis=1)
        assert not shown[:, :, 8].any()
        assert delimiter[:, 0].tolist() == [[0] * 8 + [1]] * 3
        assert not blank.any()
        assert np.array_equal(episodes.y[:, part][:, vectors + 1 :], shown[:, :, :8])
        assert episodes.scored[part].tolist() == [False] * (vectors + 1) + [True] * vectors


def test_no_copy_of_a_session_is_another_one():
    x = CopyReuse().episodes(length=4, sequences=3, seed=1).x.reshape(12, 11, 9)
    assert len({one.tobytes() for one in x}) == 12


def test_every_vector_but_zeros_is_drawn_alike():
    vectors = CopyReuse(bits=2).episodes(length=100, sequences=20, seed=5).y.reshape(20, 100, 11, 2)[:, :, 6:]
    numbers, counts = np.unique(vectors.reshape(-1, 2) @ [1, 2], return_counts=True)
    assert numbers.tolist() == [1, 2, 3]
    assert (abs(counts / 10_000 - 1 / 3) < 0.02).all()


def test_a_training_draws_every_number_of_vectors_up_to_the_tasks():
    random = np.random.default_rng(5)
    drawn = {CopyReuse(vectors=4).varied(random).vectors for _ in range(100)}
    assert drawn == {1, 2, 3, 4}


def test_no_vectors_are_refused():
    with pytest.raises(ValueError, match="vectors: expected at least 1, got 0"):
        CopyReuse(vectors=0)
