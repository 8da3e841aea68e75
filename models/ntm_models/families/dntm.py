"""The dynamic Neural Turing Machine (Gulcehre et al. 2016, arXiv:1607.00036), with soft and with argmax addressing.

A slot has an address, which is learned and stays, and a content, which is the session's. One step, in this order:
1. the read head finds its slots by a key that is compared with address and content together, and reads
   both;
2. a GRU sees the input and what was read;
3. the write head finds its slots likewise, away from those that it found lately (least recently used), and
   erases and adds; the first slot is none, for a step that has nothing to write (NO-OP);
4. the output is a logistic function of the controller's state and what was read.

`argmax` takes the likeliest slot alone, as the discrete model of the paper does in use. It learns
with the gradient of the soft weighting, straight through (Bengio et al. 2013, arXiv:1308.3432), where the paper
samples and learns with REINFORCE: sampling has no place in a pure step.

Ours: both heads see the input too, and the read head the controller's last state, so that a question is answered in its
own step; both begin with the same key of an input, and sharply, so that what is written there is found there.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ntm_models.ntm import addressing
from ntm_models.ntm.controllers import GRU
from ntm_models.trainable import Tensors, TrainableStep, expect_at_least_one

# What the strengths of both heads, and the share of usage that is minded, begin at, before their functions.
STRENGTH_START, MINDED_START = 4.0, -3.0

# How much of the last usage stays in the next one: v of the least recently used addressing.
USAGE_KEPT = 0.1


def soft(logits: Tensor) -> Tensor:
    """Weightings over all slots. `[B, N]` both."""
    return torch.softmax(logits, dim=1)


def argmax(logits: Tensor) -> Tensor:
    """1 at the likeliest slot and 0 elsewhere, with the gradient of `soft`. `[B, N]` both."""
    weighting = torch.softmax(logits, dim=1)
    likeliest = logits.argmax(dim=1, keepdim=True) == torch.arange(logits.shape[1], device=logits.device)
    return likeliest.to(logits.dtype) + (weighting - weighting.detach())


ADDRESSINGS: dict[str, Callable[[Tensor], Tensor]] = {"soft": soft, "argmax": argmax}


@dataclass(frozen=True)
class DNTMOptions:
    """Sizes: inputs I, outputs O, units of the controller C, slots N, widths of an address A and a content M."""

    inputs: int
    outputs: int
    controller_size: int = 48
    slots: int = 16
    address_width: int = 8
    width: int = 16
    addressing: str = "soft"

    def __post_init__(self) -> None:
        expect_at_least_one(self, "inputs", "outputs", "controller_size", "address_width", "width")
        if self.slots < 2:
            raise ValueError(f"slots: expected at least 2, as the first is none, got {self.slots}")
        if self.addressing not in ADDRESSINGS:
            raise ValueError(f"addressing: expected one of {', '.join(ADDRESSINGS)}, got {self.addressing!r}")


class DNTM(TrainableStep):
    """A step of a D-NTM. State of one session: memory `[N, M]`, the contents, usage `[N]`, read_weighting and
    write_weighting `[1, N]`, and controller_h `[C]`.
    """

    family = "dntm"
    options_kind = DNTMOptions
    roles = {
        "memory": "memory",
        "usage": "usage",
        "read_weighting": "read_weighting",
        "write_weighting": "write_weighting",
        "controller_h": "controller",
    }
    writable: Tensor

    def __init__(self, options: DNTMOptions) -> None:
        super().__init__()
        self.options = o = options
        self.weighted = ADDRESSINGS[o.addressing]
        cell = o.address_width + o.width
        self.addresses = nn.Parameter(torch.randn(o.slots, o.address_width))
        self.read_head = nn.Linear(o.inputs + o.controller_size, cell + 1)
        self.controller = GRU(o.inputs + cell, o.controller_size)
        # Key, strength, the share of usage that is minded, erase, and the gate of the input's own part.
        self.parts = [cell, 1, 1, o.width, 1]
        self.write_head = nn.Linear(o.inputs + o.controller_size, sum(self.parts))
        self.candidate = nn.Linear(o.controller_size, o.width)
        self.candidate_input = nn.Linear(o.inputs, o.width, bias=False)
        self.output = nn.Linear(o.controller_size + cell, o.outputs)
        self.register_buffer("writable", (torch.arange(o.slots) > 0).float(), persistent=False)

        self._begin_with_one_key(cell)

    @torch.no_grad()
    def _begin_with_one_key(self, cell: int) -> None:
        """The same key of both heads for an input, whatever the controller says, and sharp weightings."""
        for head in (self.read_head, self.write_head):
            head.weight[:cell, self.options.inputs :] = 0
            head.bias[cell] = STRENGTH_START
        self.write_head.weight[:cell] = self.read_head.weight[:cell]
        self.write_head.bias[:cell] = self.read_head.bias[:cell]
        self.write_head.bias[cell + 1] = MINDED_START

    def initial_state(self) -> dict[str, Tensor]:
        o = self.options
        return {
            "memory": torch.zeros(o.slots, o.width),
            "usage": torch.zeros(o.slots),
            "read_weighting": torch.zeros(1, o.slots),
            "write_weighting": torch.zeros(1, o.slots),
            "controller_h": torch.zeros(o.controller_size),
        }

    def logits(self, inputs: Tensors, state: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        x, memory, h = inputs["x"], state["memory"], state["controller_h"]
        key, strength = self.read_head(torch.cat([x, h], dim=1)).split([self.parts[0], 1], dim=1)
        cells = self._cells(memory)
        reading = self.weighted(_similarities(key, strength, cells))
        read = (reading.unsqueeze(1) @ cells).squeeze(1)

        h, controller_state = self.controller(torch.cat([x, read], dim=1), {"controller_h": h})
        given = self.write_head(torch.cat([x, h], dim=1))
        key, strength, minded, erase, own = given.split(self.parts, dim=1)
        found = _similarities(key, strength, cells)
        writing = self.weighted(found - torch.sigmoid(minded) * state["usage"])
        candidate = torch.relu(self.candidate(h) + torch.sigmoid(own) * self.candidate_input(x))
        effective = (writing * self.writable).unsqueeze(1)
        following = addressing.write(memory, effective, torch.sigmoid(erase).unsqueeze(1), candidate.unsqueeze(1))
        return self.output(torch.cat([h, read], dim=1)), {
            "memory": following,
            "usage": USAGE_KEPT * state["usage"] + (1 - USAGE_KEPT) * found,
            "read_weighting": reading.unsqueeze(1),
            "write_weighting": writing.unsqueeze(1),
            **controller_state,
        }

    def _cells(self, memory: Tensor) -> Tensor:
        """Address and content of every slot. memory `[B, N, M]`; returns `[B, N, A + M]`."""
        return torch.cat([self.addresses.expand(memory.shape[0], -1, -1), memory], dim=2)


def _similarities(key: Tensor, strength: Tensor, cells: Tensor) -> Tensor:
    """A key against every slot, times its strength: z there. key `[B, A + M]`, strength `[B, 1]`; `[B, N]`."""
    cosines = addressing.cosine_similarity(key.unsqueeze(1), cells).squeeze(1)
    return (1 + functional.softplus(strength)) * cosines
