"""Layers of long short-term memory without any other memory: what a memory is measured against."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ntm_models.trainable import SequenceStep, Tensors


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


class StackedLSTM(SequenceStep):
    """A step of stacked LSTM layers; each sees the input and the layer below, the output sees them all.

    State of one session: h and c, `[L, C]` each; the first is the hyperbolic tangent of what was learned.
    The shortcuts are those of Graves 2013, "Generating sequences with recurrent neural networks"
    (arXiv:1308.0850), section 2, whose networks Graves et al. 2014 compare with.
    """

    family = "lstm"
    options_kind = StackedLSTMOptions
    roles: Mapping[str, str] = {"h": "controller", "c": "controller"}

    def __init__(self, options: StackedLSTMOptions) -> None:
        super().__init__()
        self.options = o = options
        widths = layer_widths(o.inputs, o.layers, o.size)
        self.gates = nn.ModuleList(nn.Linear(width, 4 * o.size) for width in widths)
        self.output = nn.Linear(o.layers * o.size, o.outputs)
        self.first_h = nn.Parameter(torch.zeros(o.layers, o.size))
        self.first_c = nn.Parameter(torch.zeros(o.layers, o.size))

    def initial_state(self) -> dict[str, Tensor]:
        """The state of a session that made no step, without a batch axis."""
        return {"h": torch.tanh(self.first_h), "c": torch.tanh(self.first_c)}

    def logits(self, inputs: Tensors, state: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """inputs `x [B, I]`, state with a batch axis; see TrainableStep."""
        h, c = stacked(self.gates, inputs["x"], state["h"], state["c"])
        return self.output(h.flatten(1)), {"h": h, "c": c}

    def sequence_logits(self, inputs: Tensors) -> Tensor:
        """inputs `x [B, T, I]`; see SequenceStep.

        No layer sees one above it, so each can go through the whole sequence before the next: torch has that as one
        operation, several times as fast as step after step.
        """
        x, first, size = inputs["x"], self.initial_state(), self.options.size
        below: list[Tensor] = []
        for gates, h, c in zip(self.gates, first["h"], first["c"], strict=True):
            seen = torch.cat([x, *below[-1:]], dim=2)
            weight, bias = (_as_torch_orders(one, size) for one in gates.parameters())
            of_inputs, of_itself = weight.split([seen.shape[2], size], dim=1)
            weights = [of_inputs, of_itself, bias, torch.zeros_like(bias)]
            start = [one.expand(1, len(x), size).contiguous() for one in (h, c)]
            below.append(torch.lstm(seen, start, weights, True, 1, 0.0, True, False, True)[0])
        logits: Tensor = self.output(torch.cat(below, dim=2))
        return logits


def layer_widths(inputs: int, layers: int, size: int) -> list[int]:
    """What each layer of `stacked` sees: the input, the layer below where there is one, and itself."""
    return [inputs + (size if layer else 0) + size for layer in range(layers)]


def stacked(gates: nn.ModuleList, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """One step of the layers. gates: of each layer from what it sees to `4C`; x `[B, I]`, h and c `[B, L, C]`; returns
    the next h and c.
    """
    size = h.shape[2]
    below: list[Tensor] = []
    cells: list[Tensor] = []
    for of_layer, before_h, before_c in zip(gates, h.unbind(1), c.unbind(1), strict=True):
        seen = torch.cat([x, *below[-1:], before_h], dim=1)
        sigmoids, candidate = of_layer(seen).split([3 * size, size], dim=1)
        input_gate, forget_gate, output_gate = torch.sigmoid(sigmoids).chunk(3, dim=1)
        cells.append(forget_gate * before_c + input_gate * torch.tanh(candidate))
        below.append(output_gate * torch.tanh(cells[-1]))
    return torch.stack(below, dim=1), torch.stack(cells, dim=1)


def _as_torch_orders(gates: Tensor, size: int) -> Tensor:
    """Rows of the input, forget and output gate and the candidate, the last two changed places. `[4 C, ...]`"""
    first, output_gate, candidate = gates.split([2 * size, size, size])
    return torch.cat([first, candidate, output_gate])
