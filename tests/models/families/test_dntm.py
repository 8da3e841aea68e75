"""A dynamic Neural Turing Machine: how it finds slots, and what it leaves alone."""

import numpy as np
import pytest
import torch

from ntm_models.families.dntm import DNTM, DNTMOptions, argmax, soft

N = 5


def step_of(addressing):
    torch.manual_seed(1)
    return DNTM(
        DNTMOptions(
            inputs=3, outputs=2, controller_size=6, slots=N, address_width=2, width=4, addressing=addressing
        )
    ).eval()  # fmt: skip


def some_state(step, rows):
    random = torch.Generator().manual_seed(2)
    return {name: torch.rand(rows, *value.shape, generator=random) for name, value in step.initial_state().items()}


@pytest.mark.parametrize("addressing", ["soft", "argmax"])
def test_a_step_is_its_formulas(addressing):
    step = step_of(addressing)
    state, x = some_state(step, 1), torch.rand(1, 3)
    with torch.no_grad():
        outputs, following = step({"x": x}, state)

        def similar(key, strength):
            norms = np.linalg.norm(cells, axis=1) * np.linalg.norm(key)
            return (1 + np.log1p(np.exp(strength))) * (cells @ key) / (norms + 1e-6)

        def weighted(z):
            return np.eye(N)[z.argmax()] if addressing == "argmax" else np.exp(z) / np.exp(z).sum()

        memory, usage = state["memory"][0].numpy(), state["usage"][0].numpy()
        cells = np.concatenate([step.addresses.numpy(), memory], axis=1)
        given = step.read_head(torch.cat([x, state["controller_h"]], dim=1))[0].numpy()
        reading = weighted(similar(given[:-1], given[-1]))
        read = torch.tensor(reading @ cells, dtype=torch.float32)[None]
        h, _ = step.controller(torch.cat([x, read], dim=1), {"controller_h": state["controller_h"]})
        parts = step.write_head(torch.cat([x, h], dim=1)).split(step.parts, dim=1)
        key, strength, minded, erase, own = (each[0].numpy() for each in parts)
        found = similar(key, strength[0])
        writing = weighted(found - usage / (1 + np.exp(-minded)))
        candidate = torch.relu(step.candidate(h) + torch.sigmoid(torch.tensor(own)) * step.candidate_input(x))
        wanted = memory.copy()
        for slot in range(1, N):  # The first is none.
            kept = 1 - writing[slot] / (1 + np.exp(-erase))
            wanted[slot] = kept * memory[slot] + writing[slot] * candidate[0].numpy()
        y = torch.sigmoid(step.output(torch.cat([h, read], dim=1)))
    np.testing.assert_allclose(following["memory"][0], wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(following["usage"][0], 0.1 * usage + 0.9 * found, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(following["read_weighting"][0, 0], reading, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(following["write_weighting"][0, 0], writing, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(outputs["y"], y, rtol=1e-4, atol=1e-5)


def test_argmax_gives_ones_and_zeros_and_learns_as_soft_does():
    logits = torch.randn(4, N, generator=torch.Generator().manual_seed(3), requires_grad=True)
    hard = argmax(logits)
    assert torch.equal(hard, torch.eye(N)[logits.argmax(dim=1)])
    values = torch.arange(1.0, N + 1)
    (of_hard,) = torch.autograd.grad((hard * values).sum(), logits)
    (of_soft,) = torch.autograd.grad((soft(logits) * values).sum(), logits)
    torch.testing.assert_close(of_hard, of_soft)


def test_the_weights_of_one_addressing_are_those_of_the_other():
    step_of("argmax").load_state_dict(step_of("soft").state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": 1}, "slots: expected at least 2, as the first is none, got 1"),
        ({"addressing": "hard"}, "addressing: expected one of soft, argmax, got 'hard'"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        DNTMOptions(inputs=3, outputs=2, **options)
