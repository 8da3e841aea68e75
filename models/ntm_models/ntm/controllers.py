"""Controllers: the networks that drive the heads, each a pure function of its input and its own state.

A controller has `size` (C, the width of what it emits), and `state_shapes`, the names and shapes of
the tensors that it carries from step to step; they are empty for a feed-forward controller.
"""

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


class FeedForward(nn.Module):
    """One hidden layer of rectified units. What it remembers, it must put into the memory."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.state_shapes: dict[str, tuple[int, ...]] = {}
        self.hidden = nn.Linear(inputs, size)

    def forward(self, x: Tensor, _state: State) -> tuple[Tensor, State]:
        """x `[B, I]`, no state; emits `[B, C]`."""
        return torch.relu(self.hidden(x)), {}


class LSTM(nn.Module):
    """Long short-term memory (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000)."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.state_shapes: dict[str, tuple[int, ...]] = {"controller_h": (size,), "controller_c": (size,)}
        # One product for all four gates and both operands: it is the step's largest matrix.
        self.gates = nn.Linear(inputs + size, 4 * size)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x `[B, I]`, state h and c `[B, C]`; emits the new h."""
        both = torch.cat([x, state["controller_h"]], dim=1)
        sigmoids, candidate = self.gates(both).split([3 * self.size, self.size], dim=1)
        input_gate, forget_gate, output_gate = torch.sigmoid(sigmoids).chunk(3, dim=1)
        c = forget_gate * state["controller_c"] + input_gate * torch.tanh(candidate)
        h = output_gate * torch.tanh(c)
        return h, {"controller_h": h, "controller_c": c}


class GRU(nn.Module):
    """Gated recurrent unit (Cho et al. 2014), the reset gate applied before the recurrent product."""

    def __init__(self, inputs: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.state_shapes: dict[str, tuple[int, ...]] = {"controller_h": (size,)}
        self.gates = nn.Linear(inputs + size, 2 * size)
        self.candidate = nn.Linear(inputs + size, size)

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x `[B, I]`, state h `[B, C]`; emits the new h."""
        h = state["controller_h"]
        update, reset = torch.sigmoid(self.gates(torch.cat([x, h], dim=1))).chunk(2, dim=1)
        candidate = torch.tanh(self.candidate(torch.cat([x, reset * h], dim=1)))
        h = update * h + (1 - update) * candidate
        return h, {"controller_h": h}


Controller = FeedForward | LSTM | GRU

CONTROLLERS: dict[str, type[Controller]] = {"feed-forward": FeedForward, "lstm": LSTM, "gru": GRU}
