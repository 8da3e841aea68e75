"""A recipe that trains in well under a second, as entries and as a recipe."""

import copy

import pytest
import torch

from ntm_models.recipe import parse_recipe

torch.set_num_threads(1)  # The tests run side by side, and only one thread promises the same bits.

TINY = {
    "name": "tiny",
    "family": "ntm",
    "task": "copy",
    "seed": 3,
    "model": {"controller": "feed-forward", "controller_size": 8, "slots": 6, "width": 4},
    "training": {
        "steps": 12,
        "batch": 2,
        "length_min": 1,
        "length_max": 2,
        "learning_rate": 1e-2,
        "clip_norm": 10.0,
    },
    "selection": {"every": 5, "lengths": [2, 3], "sequences": 2},
}


@pytest.fixture
def entries():
    """The tiny recipe as a test may change it."""
    return copy.deepcopy(TINY)


@pytest.fixture
def tiny():
    return parse_recipe(TINY)
