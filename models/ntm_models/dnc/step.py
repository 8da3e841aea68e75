"""The differentiable neural computer as one pure step: inputs and state in, outputs and next state out.

Rules of this file: nothing is kept on `self` but weights; no weight knows the number of slots, so a trained memory is
served with as many as are wanted; there is no loop over the batch or the slots.

One step, in this order, with the equations of Graves et al. 2016 (Nature 538:471, Methods):
1. the controller sees the input and the previous read vectors, and its output is projected to the interface;
2. usage follows from what the step before wrote and read; the write weighting is between the free slots and those
   that have the key, and the memory is erased and added to;
3. link and precedence take the write in; each read weighting is between backward, content and forward;
4. the output is a logistic function of what the controller and the new read vectors say.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ntm_models.dnc import access
from ntm_models.dnc.controllers import CONTROLLERS, Controller
from ntm_models.trainable import Tensors, TrainableStep

# Of the memory, the weightings and the read vectors: not zero, where a cosine would have no direction.
START = 1e-6

# The first biases of two parts of the interface, free gates and write gate: a training begins with a memory that lets
# go of nothing and takes little. Where what is read is freed at once, a controller learns to write to it again with
# every blank step, and does not unlearn it.
GATES_START = {6: -3.0, 8: -2.0}

ROLES = {
    "memory": "memory",
    "usage": "usage",
    "precedence": "precedence",
    "link": "link",
    "write_weighting": "write_weighting",
    "read_weighting": "read_weighting",
    "read_vector": "read_vector",
    "controller_h": "controller",
    "controller_c": "controller",
}

# Of each state tensor: an export may leave it to sessions how many slots they have.
AXES = {
    "memory": ("slots", ""),
    "usage": ("slots",),
    "precedence": ("slots",),
    "link": ("slots", "slots"),
    "write_weighting": ("", "slots"),
    "read_weighting": ("", "slots"),
}


@dataclass(frozen=True)
class DNCOptions:
    """Sizes of a DNC: inputs I, outputs O, the controller and the units of its layers, slots N, width M, heads R."""

    inputs: int
    outputs: int
    controller: str = "feed-forward"
    layers: tuple[int, ...] = (128, 256)
    slots: int = 16
    width: int = 10
    read_heads: int = 1

    def __post_init__(self) -> None:
        if self.controller not in CONTROLLERS:
            raise ValueError(f"controller: expected one of {', '.join(CONTROLLERS)}, got {self.controller!r}")
        if not self.layers or min(self.layers) < 1:
            raise ValueError(f"layers: expected one or more of at least 1, got {list(self.layers)}")
        for name in ("inputs", "outputs", "slots", "width", "read_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")


class DNC(TrainableStep):
    """A DNC step with one write head. State of one session: memory `[N, M]`, usage `[N]`, precedence `[N]`, link
    `[N, N]`, write_weighting `[1, N]`, read_weighting `[R, N]`, read_vector `[R, M]`, and the controller's own tensors.
    """

    family = "dnc"
    options_kind = DNCOptions
    roles: Mapping[str, str] = ROLES
    axes: Mapping[str, tuple[str, ...]] = AXES

    def __init__(self, options: DNCOptions) -> None:
        super().__init__()
        self.options = o = options
        reads = o.read_heads * o.width
        self.controller: Controller = CONTROLLERS[o.controller](o.inputs + reads, o.layers)
        # Read keys and strengths; write key and strength, erase, write vector; gates: free, allocation, write; modes.
        self.parts = [reads, o.read_heads, o.width, 1, o.width, o.width, o.read_heads, 1, 1, 3 * o.read_heads]
        self.interface = nn.Linear(self.controller.size, sum(self.parts))
        with torch.no_grad():
            self.interface.bias.zero_()
            for part, start in GATES_START.items():
                self.interface.bias.split(self.parts)[part].fill_(start)
        self.output = nn.Linear(self.controller.size, o.outputs, bias=False)
        self.read_output = nn.Linear(reads, o.outputs, bias=False)

    def initial_state(self) -> dict[str, Tensor]:
        """The state of a session that made no step, without a batch axis."""
        o = self.options
        return {
            "memory": torch.full((o.slots, o.width), START),
            "usage": torch.zeros(o.slots),
            "precedence": torch.zeros(o.slots),
            "link": torch.zeros(o.slots, o.slots),
            "write_weighting": torch.full((1, o.slots), START),
            "read_weighting": torch.full((o.read_heads, o.slots), START),
            "read_vector": torch.full((o.read_heads, o.width), START),
            **{name: torch.zeros(shape) for name, shape in self.controller.state_shapes.items()},
        }

    def logits(self, inputs: Tensors, state: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """inputs `x [B, I]`, state with a batch axis; see TrainableStep."""
        o = self.options
        seen = torch.cat([inputs["x"], state["read_vector"].flatten(1)], dim=1)
        h, controller_state = self.controller(seen, {name: state[name] for name in self.controller.state_shapes})
        (
            read_keys, read_strengths, write_key, write_strength, erase, add, free_gates, allocation_gate, write_gate,
            modes,
        ) = self.interface(h).split(self.parts, dim=1)  # fmt: skip

        used = access.usage(
            state["usage"],
            state["write_weighting"].squeeze(1),
            state["read_weighting"],
            torch.sigmoid(free_gates).unsqueeze(2),
        )
        by_content = access.content_weighting(write_key.unsqueeze(1), access.strength(write_strength), state["memory"])
        toward_free = torch.sigmoid(allocation_gate)
        writing = torch.sigmoid(write_gate) * (
            toward_free * access.allocation(used) + (1 - toward_free) * by_content.squeeze(1)
        )
        erased = 1 - writing.unsqueeze(2) * torch.sigmoid(erase).unsqueeze(1)
        memory = state["memory"] * erased + writing.unsqueeze(2) * add.unsqueeze(1)

        link = access.linked(state["link"], writing, state["precedence"])
        forward, backward = (state["read_weighting"] @ way for way in (link.transpose(1, 2), link))
        keys = read_keys.unflatten(1, (o.read_heads, o.width))
        content = access.content_weighting(keys, access.strength(read_strengths), memory)
        shares = torch.softmax(modes.unflatten(1, (o.read_heads, 3)), dim=2).unsqueeze(3)
        reading = shares[:, :, 0] * backward + shares[:, :, 1] * content + shares[:, :, 2] * forward
        read_vector = reading @ memory
        return self.output(h) + self.read_output(read_vector.flatten(1)), {
            "memory": memory,
            "usage": used,
            "precedence": access.preceding(state["precedence"], writing),
            "link": link,
            "write_weighting": writing.unsqueeze(1),
            "read_weighting": reading,
            "read_vector": read_vector,
            **controller_state,
        }
