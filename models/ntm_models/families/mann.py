"""The memory-augmented network with least-recently-used access (Santoro et al. 2016, arXiv:1605.06065).

One step, in this order, with the equations there:
1. an LSTM sees the input, the label of the input before, and the previous read vectors; each head gets a key, a
   strength, a gate and what to write of it;
2. each head writes between what it read last and a slot that is least used, which was emptied before;
3. it reads by content, and usage fades and takes both in;
4. the output is the probability of each class.

Ours: with several heads the first takes the least used slot, the second the next one, so that they do not write over
each other; usage begins as a ramp, so that no two slots are equal; what is written is not the key that is read by, as
that would find itself first; and the similarity has a strength (Graves et al. 2014, eq. 5), without which no weighting
over many slots is sharp.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ntm_models.ntm import addressing
from ntm_models.ntm.controllers import LSTM
from ntm_models.trainable import ClassifyingStep, Tensors, expect_at_least_one

# The first content: not zero, where a cosine would have no direction.
MEMORY_START = 1e-6

# The usage of the last slot at first, below what any step leaves.
USAGE_START = 1e-3


@dataclass(frozen=True)
class MANNOptions:
    """Sizes: inputs I, outputs O (classes), units of the controller C, slots N, width M, heads R; usage_decay is
    gamma, the part of its usage that a slot keeps at each step.
    """

    inputs: int
    outputs: int
    controller_size: int = 64
    slots: int = 32
    width: int = 16
    heads: int = 1
    usage_decay: float = 0.95

    def __post_init__(self) -> None:
        expect_at_least_one(self, "inputs", "outputs", "controller_size", "slots", "width", "heads")
        if self.heads > self.slots:
            raise ValueError(f"heads: expected at most one for each slot, {self.slots}, got {self.heads}")
        if not 0 < self.usage_decay < 1:
            raise ValueError(f"usage_decay: expected a number between 0 and 1, got {self.usage_decay}")


class MANN(ClassifyingStep):
    """A step with least-recently-used access. Inputs: x `[I]`, and label, an integer: the class of the x before, or
    anything below 0 where there is none. State of one session: memory `[N, M]`, usage `[N]`, read_weighting `[R, N]`,
    read_vector `[R, M]`, controller_h and controller_c `[C]`.
    """

    family = "mann"
    options_kind = MANNOptions
    roles = {
        "memory": "memory",
        "usage": "usage",
        "read_weighting": "read_weighting",
        "read_vector": "read_vector",
        "controller_h": "controller",
        "controller_c": "controller",
    }
    classes: Tensor
    ranks: Tensor

    def __init__(self, options: MANNOptions) -> None:
        super().__init__()
        self.options = o = options
        reads = o.heads * o.width
        self.controller = LSTM(o.inputs + o.outputs + reads, o.controller_size)
        # Of each head the key, what it writes, the strength, and the gate alpha between the two places.
        self.parts = [reads, reads, o.heads, o.heads]
        self.heads = nn.Linear(o.controller_size, sum(self.parts))
        self.output = nn.Linear(o.controller_size + reads, o.outputs)
        self.register_buffer("classes", torch.arange(o.outputs), persistent=False)
        self.register_buffer("ranks", torch.arange(o.slots), persistent=False)

    def initial_state(self) -> dict[str, Tensor]:
        o = self.options
        return {
            "memory": torch.full((o.slots, o.width), MEMORY_START),
            "usage": torch.linspace(0, USAGE_START, o.slots),
            "read_weighting": torch.full((o.heads, o.slots), 1 / o.slots),
            "read_vector": torch.zeros(o.heads, o.width),
            **{name: torch.zeros(shape) for name, shape in self.controller.state_shapes.items()},
        }

    def logits(self, inputs: Tensors, state: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        o = self.options
        label = (inputs["label"].unsqueeze(1) == self.classes).to(inputs["x"].dtype)
        seen = torch.cat([inputs["x"], label, state["read_vector"].flatten(1)], dim=1)
        h, controller_state = self.controller(seen, {name: state[name] for name in self.controller.state_shapes})
        keys, added, strengths, gates = self.heads(h).split(self.parts, dim=1)
        keys, added = (torch.tanh(each).unflatten(1, (o.heads, o.width)) for each in (keys, added))

        # Which slot is the r-th least used: 1 there and 0 elsewhere, [B, R, N].
        least = torch.topk(state["usage"], o.heads, dim=1, largest=False).indices
        least_used = (least.unsqueeze(2) == self.ranks).to(keys.dtype)
        gate = torch.sigmoid(gates).unsqueeze(2)
        write_weighting = gate * state["read_weighting"] + (1 - gate) * least_used
        emptied = state["memory"] * (1 - least_used.sum(dim=1).unsqueeze(2))
        memory = emptied + write_weighting.transpose(1, 2) @ added

        strength = 1 + functional.softplus(strengths).unsqueeze(2)
        read_weighting = addressing.content_weighting(keys, strength, memory)
        read_vector = addressing.read(read_weighting, memory)
        usage = o.usage_decay * state["usage"] + (read_weighting + write_weighting).sum(dim=1)
        return self.output(torch.cat([h, read_vector.flatten(1)], dim=1)), {
            "memory": memory,
            "usage": usage,
            "read_weighting": read_weighting,
            "read_vector": read_vector,
            **controller_state,
        }
