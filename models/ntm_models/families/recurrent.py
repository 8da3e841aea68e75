"""Stacks of torch's own recurrent cells as pure steps: what is trained with `nn.LSTM` or `nn.GRU` is served with these.

The cells are `nn.LSTMCell` (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000) and
`nn.GRUCell` (Cho et al. 2014, with the reset gate after the recurrent product, as torch and cuDNN have it). Layer l of
an `nn.LSTM` or `nn.GRU` has the same four parameters as `cells.l` here, under names that end in `_l<l>`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ntm_models.trainable import Tensors, TrainableStep, expect_at_least_one

CELLS: dict[str, type[nn.LSTMCell | nn.GRUCell]] = {"lstm": nn.LSTMCell, "gru": nn.GRUCell}


@dataclass(frozen=True)
class RecurrentOptions:
    """Sizes: inputs I, outputs O, layers L, units of each layer C; cell: lstm or gru."""

    inputs: int
    outputs: int
    cell: str = "gru"
    layers: int = 2
    size: int = 32

    def __post_init__(self) -> None:
        if self.cell not in CELLS:
            raise ValueError(f"cell: expected one of {', '.join(CELLS)}, got {self.cell!r}")
        expect_at_least_one(self, "inputs", "outputs", "layers", "size")


class RecurrentCells(TrainableStep):
    """A step of stacked cells. State of one session: h `[L, C]`, and of an LSTM c `[L, C]`; zeros at first."""

    family = "recurrent-cells"
    options_kind = RecurrentOptions
    roles: Mapping[str, str] = {"h": "controller", "c": "controller"}

    def __init__(self, options: RecurrentOptions) -> None:
        super().__init__()
        self.options = o = options
        cell = CELLS[o.cell]
        self.cells = nn.ModuleList(cell(o.size if layer else o.inputs, o.size) for layer in range(o.layers))
        self.output = nn.Linear(o.size, o.outputs)

    def initial_state(self) -> dict[str, Tensor]:
        """The state of a session that made no step, without a batch axis."""
        names = ("h", "c") if self.options.cell == "lstm" else ("h",)
        return {name: torch.zeros(self.options.layers, self.options.size) for name in names}

    def logits(self, inputs: Tensors, state: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """inputs `x [B, I]`, state with a batch axis; see TrainableStep."""
        told, layers = inputs["x"], []
        for layer, cell in enumerate(self.cells):
            if isinstance(cell, nn.LSTMCell):
                layers.append(cell(told, (state["h"][:, layer], state["c"][:, layer])))
            else:
                layers.append((cell(told, state["h"][:, layer]),))
            told = layers[-1][0]
        tensors = [torch.stack(of_layers, dim=1) for of_layers in zip(*layers, strict=True)]
        return self.output(told), dict(zip(("h", "c"), tensors, strict=False))
