"""A stack of diagonal state-space layers as one pure step (S4D: Gu et al. 2022, "On the Parameterization and
Initialization of Diagonal State Space Models", arXiv:2206.11893).

Of each of H channels a layer has N complex numbers of state, each with its conjugate left out:

    x' = exp(dt A) x + B u,    y = 2 Re(C x') + D u

with A = -exp(a) + i w, which never grows, B by the zero-order hold (exp(dt A) - 1) / A, and steps dt of a width that
each channel learns. A starts as S4D-Lin has it, -1/2 + i pi n. Then GELU, a linear layer over the channels, and what
came in is added. Complex numbers are pairs of real ones, because neither a graph nor a session has complex tensors.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ntm_models.trainable import Tensors, TrainableStep, expect_at_least_one

# Of the first dt, log-uniformly: how many samples a state remembers, from ten to a hundred.
STEP_MIN, STEP_MAX = 0.01, 0.1


@dataclass(frozen=True)
class StateSpaceOptions:
    """Sizes: inputs I, outputs O, layers L, channels H, complex numbers of state N for each channel."""

    inputs: int
    outputs: int
    layers: int = 2
    channels: int = 16
    states: int = 8

    def __post_init__(self) -> None:
        expect_at_least_one(self, "inputs", "outputs", "layers", "channels", "states")


class DiagonalLayer(nn.Module):
    """One layer: H single-input single-output systems of N states, mixed by a linear layer."""

    def __init__(self, channels: int, states: int) -> None:
        super().__init__()
        steps = torch.rand(channels) * (math.log(STEP_MAX) - math.log(STEP_MIN)) + math.log(STEP_MIN)
        self.step = nn.Parameter(steps.unsqueeze(1))
        self.decay = nn.Parameter(torch.full((channels, states), math.log(0.5)))
        self.frequency = nn.Parameter(math.pi * torch.arange(states).repeat(channels, 1).float())
        self.c = nn.Parameter(torch.randn(channels, states, 2) * 0.5**0.5)
        self.d = nn.Parameter(torch.randn(channels))
        self.mix = nn.Linear(channels, channels)

    def forward(self, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """u `[B, H]`, state x `[B, H, N, 2]`; returns as many channels and the next state."""
        step, decay = torch.exp(self.step), torch.exp(self.decay)
        kept, angle = torch.exp(-decay * step), self.frequency * step
        turned_re, turned_im = kept * torch.cos(angle), kept * torch.sin(angle)
        # (exp(dt A) - 1) / A, times the conjugate of A above and below.
        below = decay.square() + self.frequency.square()
        b_re = (-(turned_re - 1) * decay + turned_im * self.frequency) / below
        b_im = (-turned_im * decay - (turned_re - 1) * self.frequency) / below
        re, im = x.unbind(3)
        driven = u.unsqueeze(2)
        re, im = (
            turned_re * re - turned_im * im + b_re * driven,
            turned_re * im + turned_im * re + b_im * driven,
        )
        c_re, c_im = self.c.unbind(2)
        y = 2 * (c_re * re - c_im * im).sum(dim=2) + self.d * u
        return u + self.mix(functional.gelu(y)), torch.stack([re, im], dim=3)


class StateSpace(TrainableStep):
    """A step of stacked S4D layers. State of one session: modes `[L, H, N, 2]`, real and imaginary parts last."""

    family = "state-space"
    options_kind = StateSpaceOptions
    roles: Mapping[str, str] = {"modes": "controller"}

    def __init__(self, options: StateSpaceOptions) -> None:
        super().__init__()
        self.options = o = options
        self.embed = nn.Linear(o.inputs, o.channels)
        self.layers = nn.ModuleList(DiagonalLayer(o.channels, o.states) for _ in range(o.layers))
        self.output = nn.Linear(o.channels, o.outputs)

    def initial_state(self) -> dict[str, Tensor]:
        """The state of a session that made no step, without a batch axis."""
        o = self.options
        return {"modes": torch.zeros(o.layers, o.channels, o.states, 2)}

    def logits(self, inputs: Tensors, state: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """inputs `x [B, I]`, state with a batch axis; see TrainableStep."""
        channels, following = self.embed(inputs["x"]), []
        for layer, before in zip(self.layers, state["modes"].unbind(1), strict=True):
            channels, after = layer(channels, before)
            following.append(after)
        return self.output(channels), {"modes": torch.stack(following, dim=1)}
