"""The diagonal state-space step against complex arithmetic and against its own convolution."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from ntm_models.families.state_space import DiagonalLayer, StateSpace, StateSpaceOptions


@pytest.fixture
def layer():
    torch.manual_seed(5)
    return DiagonalLayer(3, 4).double()


def discretised(layer):
    """exp(dt A), B by the zero-order hold, C and D, in complex numbers."""
    weights = {name: value.detach().numpy() for name, value in layer.state_dict().items()}
    a, dt = -np.exp(weights["decay"]) + 1j * weights["frequency"], np.exp(weights["step"])
    kept = np.exp(a * dt)
    return kept, (kept - 1) / a, weights["c"][..., 0] + 1j * weights["c"][..., 1], weights["d"]


def test_a_step_is_the_recurrence_in_complex_numbers(layer):
    kept, b, c, d = discretised(layer)
    random = np.random.default_rng(2)
    u, x = random.normal(size=3), random.normal(size=(3, 4)) + 1j * random.normal(size=(3, 4))
    after = kept * x + b * u[:, np.newaxis]
    y = torch.tensor(2 * (c * after).real.sum(axis=1) + d * u)
    wanted = torch.tensor(u) + layer.mix(functional.gelu(y))

    given, state = layer(torch.tensor(u[None]), torch.tensor(np.stack([x.real, x.imag], axis=-1)[None]))
    torch.testing.assert_close(given[0], wanted)
    np.testing.assert_allclose(state.detach().numpy()[0], np.stack([after.real, after.imag], axis=-1))


def test_steps_one_by_one_are_the_convolution_that_such_layers_are_trained_with(layer):
    kept, b, c, d = discretised(layer)
    u = np.random.default_rng(3).normal(size=(20, 3))
    kernel = np.stack([2 * (c * kept**at * b).real.sum(axis=1) for at in range(20)])
    y = np.stack([sum(kernel[back] * u[at - back] for back in range(at + 1)) + d * u[at] for at in range(20)])
    wanted = torch.tensor(u) + layer.mix(functional.gelu(torch.tensor(y)))
    state, given = torch.zeros(1, 3, 4, 2, dtype=torch.double), []
    for at in range(20):
        out, state = layer(torch.tensor(u[at : at + 1]), state)
        given.append(out[0])
    torch.testing.assert_close(torch.stack(given), wanted)


def test_whatever_its_weights_a_state_fades_without_input():
    torch.manual_seed(1)
    step = StateSpace(StateSpaceOptions(inputs=1, outputs=1, layers=1, channels=2, states=3))
    with torch.no_grad():
        for parameter in step.parameters():
            parameter.mul_(3)
        step.embed.bias.zero_()
        state = {"modes": torch.ones(1, 1, 2, 3, 2)}
        for _ in range(200):
            before, (_, state) = state["modes"].norm(), step({"x": torch.zeros(1, 1)}, state)
            assert state["modes"].norm() < before


def test_a_size_below_one_is_refused():
    with pytest.raises(ValueError, match="states: expected at least 1, got 0"):
        StateSpaceOptions(inputs=1, outputs=1, states=0)
