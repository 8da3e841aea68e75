"""The Lie-access Neural Turing Machine (Yang and Rush 2017, arXiv:1611.02854), with the group of shifts.

Memory is what was written at places of a key space, and heads move there. One step, in this order:
1. an LSTM sees the input and the previous read vector; each head gets a shift, a gate and a place of its own;
2. a head starts between its last place and the one that it was given, as the gate says, and is moved by the shift, an
   element of the group of translations of the plane: its inverse leads back;
3. the write head puts down a place, a value and a strength, which stay as they are;
4. the read head takes every value by its strength over the square of its distance (InvNorm; Yang 2016,
   arXiv:1602.08671);
5. the output is a logistic function of the controller's output and the new read vector.

Ours: the memory of the paper grows with every step. This one is a ring: it has room for so many entries, and the newest
takes the place of the oldest, which an integer of the state points to.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ntm_models.ntm.controllers import LSTM
from ntm_models.trainable import Tensors, TrainableStep, expect_at_least_one

# The places are points of a plane.
PLANE = 2

# What a squared distance is at least, so that a head that stands on an entry does not divide by nothing.
DISTANCE_SQUARED_MIN = 1e-2

# What the weights add up to at least: where nothing was written yet, nothing is read.
WEIGHT_MIN = 1e-6


@dataclass(frozen=True)
class LANTMOptions:
    """Sizes: inputs I, outputs O, units of the controller C, entries N of the ring, width M of a value."""

    inputs: int
    outputs: int
    controller_size: int = 50
    entries: int = 64
    width: int = 16

    def __post_init__(self) -> None:
        expect_at_least_one(self, "inputs", "outputs", "controller_size", "entries", "width")


class LANTM(TrainableStep):
    """A step of a Lie-access NTM. State of one session: memory `[N, M]`, the values, places `[N, 2]`, strengths `[N]`,
    write_pointer, the integer of the entry to come, read_place and write_place `[2]`, read_vector `[1, M]`,
    controller_h and controller_c `[C]`.
    """

    family = "lantm"
    options_kind = LANTMOptions
    roles = {
        "memory": "memory",
        "places": "address",
        "strengths": "usage",
        "write_pointer": "pointer",
        "read_place": "head",
        "write_place": "head",
        "read_vector": "read_vector",
        "controller_h": "controller",
        "controller_c": "controller",
    }
    numbers: Tensor

    def __init__(self, options: LANTMOptions) -> None:
        super().__init__()
        self.options = o = options
        self.controller = LSTM(o.inputs + o.width, o.controller_size)
        # Shifts, places and gates of both heads, the read head first; the value and the strength of what is written.
        self.parts = [2 * PLANE, 2 * PLANE, 2, o.width, 1]
        self.heads = nn.Linear(o.controller_size, sum(self.parts))
        self.output = nn.Linear(o.controller_size + o.width, o.outputs)
        self.register_buffer("numbers", torch.arange(o.entries), persistent=False)

    def initial_state(self) -> dict[str, Tensor]:
        o = self.options
        return {
            "memory": torch.zeros(o.entries, o.width),
            "places": torch.zeros(o.entries, PLANE),
            "strengths": torch.zeros(o.entries),
            "write_pointer": torch.zeros((), dtype=torch.int64),
            "read_place": torch.zeros(PLANE),
            "write_place": torch.zeros(PLANE),
            "read_vector": torch.zeros(1, o.width),
            **{name: torch.zeros(shape) for name, shape in self.controller.state_shapes.items()},
        }

    def logits(self, inputs: Tensors, state: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        o = self.options
        seen = torch.cat([inputs["x"], state["read_vector"].flatten(1)], dim=1)
        h, controller_state = self.controller(seen, {name: state[name] for name in self.controller.state_shapes})
        shifts, given, gates, value, strength = self.heads(h).split(self.parts, dim=1)
        last = torch.cat([state["read_place"], state["write_place"]], dim=1).unflatten(1, (2, PLANE))
        moved = _moved(last, given.unflatten(1, (2, PLANE)), gates.unsqueeze(2), shifts.unflatten(1, (2, PLANE)))
        read_place, write_place = moved.unbind(1)

        now = self.numbers == state["write_pointer"].unsqueeze(1)
        places = torch.where(now.unsqueeze(2), write_place.unsqueeze(1), state["places"])
        memory = torch.where(now.unsqueeze(2), torch.tanh(value).unsqueeze(1), state["memory"])
        strengths = torch.where(now, torch.sigmoid(strength), state["strengths"])

        weighting = inverse_norm(read_place, places, strengths)
        read = (weighting.unsqueeze(1) @ memory).squeeze(1)
        return self.output(torch.cat([h, read], dim=1)), {
            "memory": memory,
            "places": places,
            "strengths": strengths,
            "write_pointer": (state["write_pointer"] + 1) % o.entries,
            "read_place": read_place,
            "write_place": write_place,
            "read_vector": read.unsqueeze(1),
            **controller_state,
        }


def inverse_norm(place: Tensor, places: Tensor, strengths: Tensor) -> Tensor:
    """InvNorm: weights by strength over squared distance. place `[B, 2]`, places `[B, N, 2]`, strengths `[B, N]`;
    returns `[B, N]`, which add up to one, or to nothing where no entry has a strength.
    """
    squares = (places - place.unsqueeze(1)).square().sum(dim=2)
    weights = strengths / (squares + DISTANCE_SQUARED_MIN)
    return weights / torch.clamp(weights.sum(dim=1, keepdim=True), min=WEIGHT_MIN)


def _moved(last: Tensor, given: Tensor, gates: Tensor, shifts: Tensor) -> Tensor:
    """Where heads stand after a step: `[B, heads, 2]` each, gates `[B, heads, 1]`. A shift is at most one an axis."""
    gate = torch.sigmoid(gates)
    return gate * given + (1 - gate) * last + torch.tanh(shifts)
