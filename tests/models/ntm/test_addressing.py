"""Each operation of the memory against its formula in the paper, and its behaviour at the edges."""

import numpy as np
import pytest
import torch

from models import literal
from ntm_models.ntm import addressing

B, H, N, M = 3, 2, 7, 5
OFFSETS = (-1, 0, 1)

# The epsilons of the module are no part of the paper's formulas.
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


@pytest.fixture
def random():
    return np.random.default_rng(20141020)


def weightings_of(random, *shape):
    return random.dirichlet(np.ones(shape[-1]), shape[:-1])


def per_head(function, *arrays):
    """The literal function for every session and head."""
    return np.array([[function(*(array[b, h] for array in arrays)) for h in range(H)] for b in range(B)])


def test_content_weighting_is_equation_5_with_the_cosine_of_equation_6(random):
    keys, memory = random.normal(size=(B, H, M)), random.normal(size=(B, N, M))
    strengths = random.uniform(0.1, 20, (B, H, 1))

    given = addressing.content_weighting(*map(torch.from_numpy, (keys, strengths, memory)))

    shared = np.repeat(memory[:, None], H, axis=1)
    wanted = per_head(lambda k, s, m: literal.content_weighting(k, s[0], m), keys, strengths, shared)
    np.testing.assert_allclose(given, wanted, **CLOSE)


@pytest.mark.parametrize("zero", ["key", "memory"])
def test_a_zero_vector_is_similar_to_nothing(zero, random):
    keys = torch.zeros(1, 1, M) if zero == "key" else torch.ones(1, 1, M)
    memory = torch.zeros(1, N, M) if zero == "memory" else torch.from_numpy(random.normal(size=(1, N, M))).float()
    given = addressing.content_weighting(keys, torch.full((1, 1, 1), 5.0), memory)
    np.testing.assert_allclose(given, np.full((1, 1, N), 1 / N), rtol=1e-6)


def test_interpolation_is_equation_7(random):
    gates = random.uniform(size=(B, H, 1))
    content, previous = weightings_of(random, B, H, N), weightings_of(random, B, H, N)
    given = addressing.interpolate(*map(torch.from_numpy, (gates, content, previous)))
    wanted = per_head(lambda g, c, p: literal.interpolate(g[0], c, p), gates, content, previous)
    np.testing.assert_allclose(given, wanted, **CLOSE)


@pytest.mark.parametrize("offsets", [OFFSETS, (0, 1), (-2, -1, 0, 1, 2)])
def test_shift_is_the_circular_convolution_of_equation_8(offsets, random):
    weightings, shifts = weightings_of(random, B, H, N), weightings_of(random, B, H, len(offsets))
    index = addressing.shift_index(N, offsets)
    given = addressing.shift(torch.from_numpy(weightings), torch.from_numpy(shifts), index)
    wanted = per_head(lambda w, s: literal.shift(w, s, offsets), weightings, shifts)
    np.testing.assert_allclose(given, wanted, **CLOSE)


@pytest.mark.parametrize(("offset", "slot", "then"), [(1, 2, 3), (-1, 2, 1), (0, 2, 2), (1, N - 1, 0), (-1, 0, N - 1)])
def test_a_shift_by_one_moves_a_focus_to_the_next_slot_and_round_the_end(offset, slot, then):
    focus, shifts = torch.zeros(1, 1, N), torch.zeros(1, 1, 3)
    focus[0, 0, slot] = shifts[0, 0, OFFSETS.index(offset)] = 1
    moved = addressing.shift(focus, shifts, addressing.shift_index(N, OFFSETS))
    assert moved[0, 0].argmax() == then
    assert moved[0, 0, then] == 1


def test_sharpening_is_equation_9(random):
    weightings, exponents = weightings_of(random, B, H, N), random.uniform(1, 10, (B, H, 1))
    given = addressing.sharpen(torch.from_numpy(weightings), torch.from_numpy(exponents))
    wanted = per_head(lambda w, g: literal.sharpen(w, g[0]), weightings, exponents)
    np.testing.assert_allclose(given, wanted, **CLOSE)


def test_sharpening_with_a_large_exponent_stays_finite_where_the_powers_underflow():
    weightings = torch.full((1, 1, 128), 1 / 128, requires_grad=True)
    assert ((1 / torch.tensor(128.0)) ** 75) == 0  # The formula as it stands would be 0 / 0.

    sharpened = addressing.sharpen(weightings, torch.full((1, 1, 1), 75.0))
    sharpened[0, 0, 0].backward()

    np.testing.assert_allclose(sharpened.detach(), np.full((1, 1, 128), 1 / 128), rtol=1e-5)
    assert weightings.grad.isfinite().all()


def test_sharpening_a_focus_with_zeros_beside_it_keeps_it():
    focus = torch.zeros(1, 1, N)
    focus[0, 0, 3] = 1
    np.testing.assert_allclose(addressing.sharpen(focus, torch.full((1, 1, 1), 2.0)), focus, atol=1e-6)


def test_reading_is_equation_2(random):
    weightings, memory = weightings_of(random, B, H, N), random.normal(size=(B, N, M))
    given = addressing.read(torch.from_numpy(weightings), torch.from_numpy(memory))
    wanted = per_head(literal.read, weightings, np.repeat(memory[:, None], H, axis=1))
    np.testing.assert_allclose(given, wanted, **CLOSE)


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_writing_erases_by_equation_3_and_adds_by_equation_4_for_every_head(heads, random):
    memory, weightings = random.normal(size=(B, N, M)), weightings_of(random, B, heads, N)
    erases, adds = random.uniform(size=(B, heads, M)), random.normal(size=(B, heads, M))
    given = addressing.write(*map(torch.from_numpy, (memory, weightings, erases, adds)))
    wanted = [literal.write(*session) for session in zip(memory, weightings, erases, adds, strict=True)]
    np.testing.assert_allclose(given, wanted, **CLOSE)


def test_a_focused_write_with_a_full_erase_replaces_one_slot_and_leaves_the_others(random):
    memory, add = torch.from_numpy(random.normal(size=(1, N, M))), torch.from_numpy(random.normal(size=(1, 1, M)))
    focus = torch.zeros(1, 1, N, dtype=torch.float64)
    focus[0, 0, 2] = 1
    written = addressing.write(memory, focus, torch.ones_like(add), add)
    assert torch.equal(written[0, 2], add[0, 0])
    others = [slot for slot in range(N) if slot != 2]
    assert torch.equal(written[0, others], memory[0, others])
