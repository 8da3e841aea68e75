"""The Neural Turing Machine as one pure step: inputs and state in, outputs and next state out.

Rules of this file: nothing is kept on `self` but weights; every head's parameters come from one
projection; all heads are addressed in one tensor; there is no loop over the batch or the heads.

One step, in this order, with the equations of Graves et al. 2014 (arXiv:1410.5401):
1. the controller sees the input and the previous read vectors;
2. every head emits key, strength, gate, shift weighting and exponent, and is addressed on the memory
   as it was (eq. 5 to 9);
3. the read heads read that memory (eq. 2), the write heads erase and add (eq. 3 and 4);
4. the output is a logistic function of the controller's output and the new read vectors.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ntm_models.ntm import addressing
from ntm_models.ntm.controllers import CONTROLLERS, Controller

SHIFT_OFFSETS = (-1, 0, 1)

# The memory's constant first content: it converges fastest of those that Collier and Beel 2018
# (arXiv:1807.08518) compared.
MEMORY_START = 1e-6

# Roles tell a server what a state tensor means, for pictures and tools; they do not change the step.
ROLES = {
    "memory": "memory",
    "read_weighting": "read_weighting",
    "write_weighting": "write_weighting",
    "read_vector": "read_vector",
    "controller_h": "controller",
    "controller_c": "controller",
}


@dataclass(frozen=True)
class NTMOptions:
    """Sizes of an NTM: inputs I, outputs O, slots N, width M, heads R and W, controller size C."""

    inputs: int
    outputs: int
    controller: str = "feed-forward"
    controller_size: int = 100
    slots: int = 128
    width: int = 20
    read_heads: int = 1
    write_heads: int = 1

    def __post_init__(self) -> None:
        if self.controller not in CONTROLLERS:
            raise ValueError(f"controller: expected one of {', '.join(CONTROLLERS)}, got {self.controller!r}")
        for name in ("inputs", "outputs", "controller_size", "slots", "width", "read_heads", "write_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")


class NTM(nn.Module):
    """An NTM step. State of one session: memory `[N, M]`, read_weighting `[R, N]`,
    write_weighting `[W, N]`, read_vector `[R, M]`, and the controller's own tensors.
    """

    family = "ntm"
    roles = ROLES
    shift_index: Tensor

    def __init__(self, options: NTMOptions) -> None:
        super().__init__()
        self.options = o = options
        heads = o.read_heads + o.write_heads
        self.controller: Controller = CONTROLLERS[o.controller](o.inputs + o.read_heads * o.width, o.controller_size)
        # Per head: key M, strength 1, gate 1, exponent 1, shift weighting S; per write head: erase M, add M.
        self.parts = [heads * o.width, heads, heads, heads, heads * len(SHIFT_OFFSETS), *[o.write_heads * o.width] * 2]
        self.heads = nn.Linear(o.controller_size, sum(self.parts))
        self.output = nn.Linear(o.controller_size + o.read_heads * o.width, o.outputs)
        self.register_buffer("shift_index", addressing.shift_index(o.slots, SHIFT_OFFSETS), persistent=False)
        self.first_weightings = nn.Parameter(torch.randn(heads, o.slots))
        self.first_read = nn.Parameter(torch.randn(o.read_heads, o.width))
        self.first_controller = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(shape)) for name, shape in self.controller.state_shapes.items()}
        )

    def initial_state(self) -> dict[str, Tensor]:
        """The state of a session that made no step, without a batch axis: learned, but for the memory."""
        o = self.options
        weightings = torch.softmax(self.first_weightings, dim=1)
        return {
            "memory": torch.full((o.slots, o.width), MEMORY_START),
            "read_weighting": weightings[: o.read_heads],
            "write_weighting": weightings[o.read_heads :],
            "read_vector": torch.tanh(self.first_read),
            # In the order of the steps to come; a ParameterDict has one of its own.
            **{name: torch.tanh(self.first_controller[name]) for name in self.controller.state_shapes},
        }

    def forward(
        self, inputs: Mapping[str, Tensor], state: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """inputs `x [B, I]`, state with a batch axis; returns outputs `y [B, O]` in (0, 1) and the next state."""
        logits, following = self.logits(inputs["x"], state)
        return {"y": torch.sigmoid(logits)}, following

    def logits(self, x: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The step before its last logistic function: what a stable cross-entropy wants."""
        o = self.options
        memory = state["memory"]
        seen = torch.cat([x, state["read_vector"].flatten(1)], dim=1)
        h, controller_state = self.controller(seen, {name: state[name] for name in self.controller.state_shapes})

        keys, strengths, gates, exponents, shifts, erase, add = self.heads(h).split(self.parts, dim=1)
        heads = o.read_heads + o.write_heads
        previous = torch.cat([state["read_weighting"], state["write_weighting"]], dim=1)
        content = addressing.content_weighting(
            torch.tanh(keys).unflatten(1, (heads, o.width)), functional.softplus(strengths).unsqueeze(2), memory
        )
        gated = addressing.interpolate(torch.sigmoid(gates).unsqueeze(2), content, previous)
        shift_weightings = torch.softmax(shifts.unflatten(1, (heads, len(SHIFT_OFFSETS))), dim=2)
        shifted = addressing.shift(gated, shift_weightings, self.shift_index)
        weightings = addressing.sharpen(shifted, 1 + functional.softplus(exponents).unsqueeze(2))
        read_weighting, write_weighting = weightings.split([o.read_heads, o.write_heads], dim=1)

        read_vector = addressing.read(read_weighting, memory)
        written = addressing.write(
            memory,
            write_weighting,
            torch.sigmoid(erase).unflatten(1, (o.write_heads, o.width)),
            torch.tanh(add).unflatten(1, (o.write_heads, o.width)),
        )
        logits = self.output(torch.cat([h, read_vector.flatten(1)], dim=1))
        return logits, {
            "memory": written,
            "read_weighting": read_weighting,
            "write_weighting": write_weighting,
            "read_vector": read_vector,
            **controller_state,
        }
