"""Controllers of a DNC: the networks that drive the interface, each a pure function of its input and its own state.

A controller has `size` (what it emits), and `state_shapes`, the names and shapes of the tensors that it carries from
step to step; they are empty for a feed-forward controller. Its layers are given by their numbers of units.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from ntm_models.lstm import layer_widths, stacked

State = dict[str, Tensor]


class FeedForward(nn.Module):
    """Layers of rectified units, each on the one below. What it remembers, it must put into the memory."""

    def __init__(self, inputs: int, layers: tuple[int, ...]) -> None:
        super().__init__()
        self.size = layers[-1]
        self.state_shapes: dict[str, tuple[int, ...]] = {}
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise([inputs, *layers]))

    def forward(self, x: Tensor, _state: State) -> tuple[Tensor, State]:
        """x `[B, I]`, no state; emits `[B, C]`, the last layer."""
        h = x
        for layer in self.layers:
            h = torch.relu(layer(h))
        return h, {}


class LSTM(nn.Module):
    """Layers of long short-term memory, all of one size: each sees the input and the layer below, and all of them are
    emitted (Graves et al. 2016, Methods, "Controller network").
    """

    def __init__(self, inputs: int, layers: tuple[int, ...]) -> None:
        super().__init__()
        if len(set(layers)) > 1:
            raise ValueError(f"layers: expected layers of one size for an LSTM, got {list(layers)}")
        self.size = sum(layers)
        shape = (len(layers), layers[0])
        self.state_shapes: dict[str, tuple[int, ...]] = {"controller_h": shape, "controller_c": shape}
        self.gates = nn.ModuleList(nn.Linear(width, 4 * shape[1]) for width in layer_widths(inputs, *shape))

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x `[B, I]`, state h and c `[B, L, C]`; emits the new h of all layers, `[B, L C]`."""
        h, c = stacked(self.gates, x, state["controller_h"], state["controller_c"])
        return h.flatten(1), {"controller_h": h, "controller_c": c}


Controller = FeedForward | LSTM

CONTROLLERS: dict[str, type[Controller]] = {"feed-forward": FeedForward, "lstm": LSTM}
