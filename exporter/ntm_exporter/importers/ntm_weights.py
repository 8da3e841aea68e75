"""From the parts of an NTM that programs store apart to the one step module, with its weights and its first state.

Letters: inputs I, outputs O, controller size C, slots N, width M. A projection is `weight [out, in]` and `bias [out]`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ntm_models.ntm import NTM, NTMOptions

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Projection:
    """weight `[out, in]`, bias `[out]`."""

    weight: Numbers
    bias: Numbers

    def reversed(self) -> "Projection":
        """The same rows from the last to the first: a shift weighting told from +1 to -1 for one from -1 to +1."""
        return Projection(self.weight[::-1], self.bias[::-1])


@dataclass(frozen=True)
class Head:
    """The projections of one head's address: key M, strength 1, gate 1, shift weighting 3 from offset -1 on,
    exponent 1. An offset of 1 moves a focus to the next slot.
    """

    key: Projection
    strength: Projection
    gate: Projection
    shift: Projection
    exponent: Projection


@dataclass(frozen=True)
class NTMWeights:
    """controller: as its module's state_dict. heads: read heads, then write heads. erase: None where nothing is
    learned of it. first: the state of a session that made no step, by name.
    """

    controller: Mapping[str, Numbers]
    heads: Sequence[Head]
    erase: Projection | None
    add: Projection
    output: Projection
    first: Mapping[str, Numbers]


def ntm_of(options: NTMOptions, weights: NTMWeights) -> NTM:
    """The step with its weights. `options.form.start` is `given`."""
    heads = weights.heads
    rows = [
        *(one.key for one in heads), *(one.strength for one in heads), *(one.gate for one in heads),
        *(one.exponent for one in heads), *(one.shift for one in heads),
        *([] if weights.erase is None else [weights.erase]), weights.add,
    ]  # fmt: skip
    step = NTM(options)
    step.load_state_dict(
        {
            **{f"controller.{name}": _tensor(value) for name, value in weights.controller.items()},
            "heads.weight": _tensor(np.concatenate([one.weight for one in rows])),
            "heads.bias": _tensor(np.concatenate([one.bias for one in rows])),
            "output.weight": _tensor(weights.output.weight),
            "output.bias": _tensor(weights.output.bias),
            **{f"first_state.{name}": _tensor(value) for name, value in weights.first.items()},
        }
    )
    return step.eval()


def torch_lstm(ih: Projection, hh: Projection) -> dict[str, Numbers]:
    """Our LSTM from torch's, whose rows are the gates input, forget, candidate, output, `[4C, I+M]` and `[4C, C]`;
    ours has the candidate last.
    """
    weight, bias = np.concatenate([ih.weight, hh.weight], axis=1), ih.bias + hh.bias
    order = (0, 1, 3, 2)
    gates, biases = np.split(weight, 4), np.split(bias, 4)
    return {
        "gates.weight": np.concatenate([gates[at] for at in order]),
        "gates.bias": np.concatenate([biases[at] for at in order]),
    }


def hard_sigmoid(z: Numbers) -> Numbers:
    return np.clip(0.2 * z + 0.5, 0, 1)


def sigmoid(z: Numbers) -> Numbers:
    return np.asarray(1 / (1 + np.exp(-z)))


def softmax(z: Numbers) -> Numbers:
    powers = np.exp(z - z.max())
    return np.asarray(powers / powers.sum())


def _tensor(value: Numbers) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))
