"""Layers of long short-term memory without any other memory: what a memory is measured against."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class StackedLSTMOptions:
    """Sizes: inputs I, outputs O, layers L, units of each layer C. Graves et al. 2014 has 3 layers, table 3."""

    inputs: int
    outputs: int
    layers: int = 3
    size: int = 128

    def __post_init__(self) -> None:
        for name in ("inputs", "outputs", "layers", "size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")


class StackedLSTM(nn.Module):
    """A step of stacked LSTM layers; each sees the input and the layer below, the output sees them all.

    State of one session: h and c, `[L, C]` each; the first is the hyperbolic tangent of what was learned.
    The shortcuts are those of Graves 2013, "Generating sequences with recurrent neural networks"
    (arXiv:1308.0850), section 2, whose networks Graves et al. 2014 compare with.
    """

    family = "lstm"
    roles: Mapping[str, str] = {"h": "controller", "c": "controller"}

    def __init__(self, options: StackedLSTMOptions) -> None:
        super().__init__()
        self.options = o = options
        widths = [o.inputs + (o.size if layer else 0) + o.size for layer in range(o.layers)]
        self.gates = nn.ModuleList(nn.Linear(width, 4 * o.size) for width in widths)
        self.output = nn.Linear(o.layers * o.size, o.outputs)
        self.first_h = nn.Parameter(torch.zeros(o.layers, o.size))
        self.first_c = nn.Parameter(torch.zeros(o.layers, o.size))

    def initial_state(self) -> dict[str, Tensor]:
        """The state of a session that made no step, without a batch axis."""
        return {"h": torch.tanh(self.first_h), "c": torch.tanh(self.first_c)}

    def forward(
        self, inputs: Mapping[str, Tensor], state: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """inputs `x [B, I]`, state with a batch axis; returns outputs `y [B, O]` in (0, 1) and the next state."""
        logits, following = self.logits(inputs["x"], state)
        return {"y": torch.sigmoid(logits)}, following

    def logits(self, x: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The step before its last logistic function."""
        below: list[Tensor] = []
        cells: list[Tensor] = []
        before_h, before_c = state["h"].unbind(1), state["c"].unbind(1)
        for gates, h, c in zip(self.gates, before_h, before_c, strict=True):
            seen = torch.cat([x, *below[-1:], h], dim=1)
            sigmoids, candidate = gates(seen).split([3 * self.options.size, self.options.size], dim=1)
            input_gate, forget_gate, output_gate = torch.sigmoid(sigmoids).chunk(3, dim=1)
            cells.append(forget_gate * c + input_gate * torch.tanh(candidate))
            below.append(output_gate * torch.tanh(cells[-1]))
        logits = self.output(torch.cat(below, dim=1))
        return logits, {"h": torch.stack(below, dim=1), "c": torch.stack(cells, dim=1)}

    def sequence_logits(self, x: Tensor) -> Tensor:
        """`logits` of every step from the initial state. x `[B, T, I]`; returns `[B, T, O]`.

        No layer sees one above it, so each can go through the whole sequence before the next: torch has that as one
        operation, several times as fast as step after step.
        """
        first, size, rows = self.initial_state(), self.options.size, x.shape[0]
        below: list[Tensor] = []
        for gates, h, c in zip(self.gates, first["h"], first["c"], strict=True):
            seen = torch.cat([x, *below[-1:]], dim=2)
            weight, bias = (_as_torch_orders(one, size) for one in gates.parameters())
            of_inputs, of_itself = weight.split([seen.shape[2], size], dim=1)
            weights = [of_inputs, of_itself, bias, torch.zeros_like(bias)]
            start = [one.expand(1, rows, size).contiguous() for one in (h, c)]
            below.append(torch.lstm(seen, start, weights, True, 1, 0.0, True, False, True)[0])
        logits: Tensor = self.output(torch.cat(below, dim=2))
        return logits


def _as_torch_orders(gates: Tensor, size: int) -> Tensor:
    """Rows of the input, forget and output gate and the candidate, the last two changed places. `[4 C, ...]`"""
    first, output_gate, candidate = gates.split([2 * size, size, size])
    return torch.cat([first, candidate, output_gate])
