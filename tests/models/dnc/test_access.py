"""How a DNC finds its slots, against the formulas of Graves et al. 2016 written out slowly."""

import numpy as np
import pytest
import torch

from ntm_models.dnc import access

B, R, N = 3, 2, 7


@pytest.fixture
def random():
    return np.random.default_rng(2016)


def sorted_allocation(usages):
    """The formula as it stands: go through the slots from the least used on."""
    allocation, product = np.zeros(len(usages)), 1.0
    for at in np.argsort(usages, kind="stable"):
        allocation[at] = (1 - usages[at]) * product
        product *= usages[at]
    return allocation


def test_allocation_is_the_formula_without_sorting(random):
    usages = random.uniform(size=(B, N))
    given = access.allocation(torch.from_numpy(usages))
    np.testing.assert_allclose(given, [sorted_allocation(row) for row in usages], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("noise", [0, 3e-8])
def test_of_slots_that_are_used_alike_the_first_is_free(noise, random):
    usages = torch.full((1, N), 0.25) + torch.from_numpy(noise * random.uniform(-1, 1, N)).float()
    given = access.allocation(usages)[0]
    np.testing.assert_allclose(given, [0.75 * 0.25**at for at in range(N)], rtol=1e-5)


def test_a_slot_that_was_never_used_is_taken_whole():
    given = access.allocation(torch.tensor([[1.0, 0.5, 0.0, 0.0]]))[0]
    np.testing.assert_allclose(given, [0, 0, 1, 0], atol=1e-12)


def test_usage_grows_with_writing_and_goes_with_what_is_read_and_freed():
    before, writing = torch.tensor([[0.5, 0.0, 1.0]]), torch.tensor([[0.5, 0.0, 0.0]])
    reading = torch.tensor([[[0.0, 0.0, 1.0]]])
    kept = access.usage(before, writing, reading, torch.zeros(1, 1, 1))
    freed = access.usage(before, writing, reading, torch.ones(1, 1, 1))
    np.testing.assert_allclose(kept, [[0.75, 0, 1]])
    np.testing.assert_allclose(freed, [[0.75, 0, 0]])


def test_links_follow_the_order_of_writing():
    link, precedence = torch.zeros(1, 3, 3), torch.zeros(1, 3)
    for slot in (1, 0, 2):
        writing = torch.eye(3)[slot].unsqueeze(0)
        link = access.linked(link, writing, precedence)
        precedence = access.preceding(precedence, writing)
    wanted = np.zeros((3, 3))
    wanted[0, 1] = wanted[2, 0] = 1  # 0 came after 1, and 2 after 0.
    np.testing.assert_array_equal(link[0], wanted)
    np.testing.assert_array_equal(precedence[0], [0, 0, 1])


def test_content_of_a_memory_of_tiny_numbers_has_a_direction():
    memory = torch.full((1, 4, 10), 1e-6)
    memory[0, 2] *= -1
    given = access.content_weighting(torch.ones(1, 1, 10), torch.full((1, 1, 1), 5.0), memory)[0, 0]
    assert given[2] < 1e-4
    np.testing.assert_allclose(given[[0, 1, 3]], 1 / 3, atol=1e-4)
