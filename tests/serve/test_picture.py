"""What is shown of a tensor that is larger than a screen."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from ntm_serve.errors import InvalidInput
from ntm_serve.picture import (
    LEADING_MAX,
    PICTURE_ELEMENTS_MAX,
    Grid,
    Reduction,
    blocks_of,
    chosen,
    picture_of,
    reduced,
    steps_shown,
)
from ntm_serve.spec import StateSpec, TensorSpec

MEMORY = StateSpec("memory", "float32", (100, 30), role="memory")


def test_what_fits_is_shown_as_it_is():
    array = np.random.default_rng(1).normal(size=(100, 30)).astype(np.float32)
    picture = picture_of(MEMORY, array, Grid(100, 30))
    assert picture.array is array
    assert (picture.role, picture.full_shape, picture.blocks) == ("memory", (100, 30), (1, 1))


def test_one_slot_of_many_is_seen_in_a_peak_with_its_sign():
    array = np.zeros((100, 30), np.float32)
    array[77, 3], array[5, 29] = -0.75, 0.25
    picture = picture_of(MEMORY, array, Grid(10, 10))
    assert (picture.blocks, picture.array.shape) == ((10, 3), (10, 10))
    assert picture.array[7, 1] == np.float32(-0.75)
    assert picture.array[0, 9] == np.float32(0.25)
    assert np.count_nonzero(picture.array) == 2


@settings(max_examples=50, deadline=None)
@given(
    shape=some.lists(some.integers(1, 12), min_size=0, max_size=4),
    rows=some.integers(1, 6),
    columns=some.integers(1, 6),
    dtype=some.sampled_from(["float32", "float16", "int8", "uint8", "int64", "bool"]),
    seed=some.integers(0, 2**32 - 1),
)
def test_each_element_is_the_peak_or_the_mean_of_its_block(shape, rows, columns, dtype, seed):
    chance = np.random.default_rng(seed)
    array = (chance.normal(size=shape) * 50).astype(dtype)
    blocks = blocks_of(shape, Grid(rows, columns))
    most = (columns, rows, LEADING_MAX, 1, 1)
    assert all(-(-size // block) <= limit for size, block, limit in zip(shape[::-1], blocks[::-1], most, strict=False))
    peak, mean = reduced(array, blocks, Reduction.PEAK), reduced(array, blocks, Reduction.MEAN)
    assert peak.dtype == array.dtype
    for place in np.ndindex(*peak.shape):
        block = array[tuple(slice(at * size, (at + 1) * size) for at, size in zip(place, blocks, strict=True))]
        wide = block.astype(np.float64)
        assert peak[place] in np.atleast_1d(block)
        assert abs(float(peak[place])) == np.abs(wide).max()
        assert np.isclose(float(mean[place]), wide.mean(), rtol=1e-2 if dtype == "float16" else 1e-5, atol=1e-5)


def test_of_integers_the_lowest_of_all_is_a_peak():
    array = np.array([[-128, 127]], np.int8)
    assert reduced(array, (1, 2), Reduction.PEAK).tolist() == [[-128]]


def test_steps_are_not_taken_together():
    spec = TensorSpec("x", "float32", (300,))
    picture = picture_of(spec, np.ones((7, 300), np.float32), Grid(4, 100), steps=True)
    assert (picture.blocks, picture.array.shape, picture.full_shape) == ((1, 3), (7, 100), (7, 300))
    none = picture_of(spec, np.ones((0, 300), np.float32), Grid(4, 100), steps=True)
    assert none.array.shape == (0, 100)


def test_large_inputs_are_shown_for_fewer_steps():
    grid = Grid(512, 512)
    assert steps_shown([TensorSpec("x", "float32", (9,))], grid) == 64
    assert steps_shown([TensorSpec("x", "float32", (128, 128))], grid) == PICTURE_ELEMENTS_MAX // 128**2
    assert steps_shown([TensorSpec("x", "float32", (4096, 4096))], grid) == 1


def test_tensors_are_chosen_by_name_or_role():
    specs = [
        MEMORY,
        StateSpec("r0", "float32", (4,), "read_weighting"),
        StateSpec("r1", "float32", (4,), "read_weighting"),
    ]
    assert chosen(specs, []) == chosen(specs, ["*"]) == (0, 1, 2)
    assert chosen(specs, ["read_weighting"]) == (1, 2)
    assert chosen(specs, ["r1", "memory"]) == (0, 2)
    with pytest.raises(
        InvalidInput, match=r"tensors: expected names or roles of .*'read_weighting'.*, got \['usage'\]"
    ):
        chosen(specs, ["usage", "memory"])
