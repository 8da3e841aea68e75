"""The Neural Turing Machine as one pure step: inputs and state in, outputs and next state out.

Rules of this file: nothing is kept on `self` but weights; every head's parameters come from one
projection; all heads are addressed in one tensor; there is no loop over the batch or the heads.

One step, in this order, with the equations of Graves et al. 2014 (arXiv:1410.5401):
1. the controller sees the input and the previous read vectors;
2. every head emits key, strength, gate, shift weighting and exponent, and is addressed on the memory
   as it was (eq. 5 to 9);
3. the read heads read that memory (eq. 2), the write heads erase and add (eq. 3 and 4);
4. the output is a logistic function of the controller's output and the new read vectors.

What other programs do differently is `NTMOptions.form`.
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from ntm_models.ntm import addressing
from ntm_models.ntm.controllers import CONTROLLERS, Controller
from ntm_models.ntm.form import ACTIVATIONS, OURS, SHARPENINGS, SIMILARITIES, Form
from ntm_models.trainable import Tensors, TrainableStep

SHIFT_OFFSETS = (-1, 0, 1)

# The memory's constant first content: it converges fastest of those that Collier and Beel 2018
# (arXiv:1807.08518) compared.
MEMORY_START = 1e-6

# Of a memory that is learned, the deviation of its first content: slots that differ can be told apart by content
# from the first step on.
MEMORY_DEVIATION = 0.5

# What a fresh head that shall begin with one kind of addressing has in its biases: a gate that is open or shut to
# content, and a shift weighting that stays or moves on.
CONTENT, SHIFT = "content", "shift"
BEGIN_GATE = BEGIN_SHIFT = 3.0

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
    """Sizes of an NTM: inputs I, outputs O, slots N, width M, heads R and W, controller size C; and its form.

    heads_begin: of each head, the read heads first, how it addresses the memory before it has learned anything:
    `content` looks things up, `shift` moves on by one slot a step. Empty, all do a little of everything. What a task
    needs of its heads is found sooner so, or at all. content_strength: of the keys of those that begin with content:
    with less, a weighting is so even that thousands of batches pass before a key means anything.
    """

    inputs: int
    outputs: int
    controller: str = "feed-forward"
    controller_size: int = 100
    slots: int = 128
    width: int = 20
    read_heads: int = 1
    write_heads: int = 1
    form: Form = OURS
    heads_begin: tuple[str, ...] = ()
    content_strength: float = 10.0

    def __post_init__(self) -> None:
        if self.controller not in CONTROLLERS:
            raise ValueError(f"controller: expected one of {', '.join(CONTROLLERS)}, got {self.controller!r}")
        for name in ("inputs", "outputs", "controller_size", "slots", "width", "read_heads", "write_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        heads = self.read_heads + self.write_heads
        if len(self.heads_begin) not in (0, heads) or not {*self.heads_begin} <= {CONTENT, SHIFT}:
            raise ValueError(
                f"heads_begin: expected {CONTENT} or {SHIFT} of each of {heads} heads, got {list(self.heads_begin)}"
            )
        if self.form.heads_see == "cell" and self.controller != "lstm":
            raise ValueError(f"form.heads_see: cell: expected the controller lstm, got {self.controller}")


class NTM(TrainableStep):
    """An NTM step. State of one session: memory `[N, M]`, read_weighting `[R, N]`,
    write_weighting `[W, N]`, read_vector `[R, M]`, and the controller's own tensors.
    """

    family = "ntm"
    options_kind = NTMOptions
    roles = ROLES
    shift_index: Tensor

    def __init__(self, options: NTMOptions) -> None:
        super().__init__()
        self.options = o = options
        self.activations = {part: ACTIVATIONS[name] for part, name in asdict(o.form.activations).items()}
        heads, reads = o.read_heads + o.write_heads, o.read_heads * o.width
        self.controller: Controller = CONTROLLERS[o.controller](o.inputs + reads, o.controller_size)
        # Per head: key M, strength 1, gate 1, exponent 1, shift weighting S; per write head: erase M, add M.
        written = 1 if o.form.activations.erase == "one" else 2
        self.parts = [heads * o.width, heads, heads, heads, heads * len(SHIFT_OFFSETS)]
        self.parts += [o.write_heads * o.width] * written
        self.heads = nn.Linear(o.controller_size, sum(self.parts))
        self.output = nn.Linear(o.controller_size + (0 if o.form.output_sees == "controller" else reads), o.outputs)
        self._bias_heads()
        index = addressing.shift_index(o.slots, SHIFT_OFFSETS, circular=o.form.shift == "circular")
        self.register_buffer("shift_index", index, persistent=False)
        if o.form.start == "given":
            shapes = self._state_shapes()
            self.first_state = nn.ParameterDict({name: nn.Parameter(torch.zeros(shapes[name])) for name in shapes})
            return
        self.first_weightings = nn.Parameter(torch.randn(heads, o.slots))
        self.first_read = nn.Parameter(torch.randn(o.read_heads, o.width))
        if o.form.memory == "learned":
            self.first_memory = nn.Parameter(MEMORY_DEVIATION * torch.randn(o.slots, o.width))
        self.first_controller = nn.ParameterDict(
            {name: nn.Parameter(torch.zeros(shape)) for name, shape in self.controller.state_shapes.items()}
        )

    def _bias_heads(self) -> None:
        _, strengths, gates, _, shifts, *_ = self.heads.bias.detach().split(self.parts)
        shifts = shifts.unflatten(0, (-1, len(SHIFT_OFFSETS)))
        for head, begin in enumerate(self.options.heads_begin):
            if begin == CONTENT:
                strengths[head] += self.options.content_strength
            gates[head] += BEGIN_GATE if begin == CONTENT else -BEGIN_GATE
            shifts[head, SHIFT_OFFSETS.index(0 if begin == CONTENT else 1)] += BEGIN_SHIFT

    def initial_state(self) -> dict[str, Tensor]:
        """The state of a session that made no step, without a batch axis: learned, but for the memory; or given."""
        o = self.options
        if o.form.start == "given":
            return {name: self.first_state[name] for name in self._state_shapes()}
        weightings = torch.softmax(self.first_weightings, dim=1)
        return {
            "memory": self.first_memory if o.form.memory == "learned" else torch.full((o.slots, o.width), MEMORY_START),
            "read_weighting": weightings[: o.read_heads],
            "write_weighting": weightings[o.read_heads :],
            "read_vector": torch.tanh(self.first_read),
            # In the order of the steps to come; a ParameterDict has one of its own.
            **{name: torch.tanh(self.first_controller[name]) for name in self.controller.state_shapes},
        }

    def _state_shapes(self) -> dict[str, tuple[int, ...]]:
        o = self.options
        return {
            "memory": (o.slots, o.width),
            "read_weighting": (o.read_heads, o.slots),
            "write_weighting": (o.write_heads, o.slots),
            "read_vector": (o.read_heads, o.width),
            **self.controller.state_shapes,
        }

    def logits(self, inputs: Tensors, state: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """inputs `x [B, I]`, state with a batch axis; see TrainableStep."""
        o, form, activated = self.options, self.options.form, self.activations
        memory = state["memory"]
        seen = torch.cat([inputs["x"], state["read_vector"].flatten(1)], dim=1)
        h, controller_state = self.controller(seen, {name: state[name] for name in self.controller.state_shapes})

        projected = self.heads(controller_state["controller_c"] if form.heads_see == "cell" else h)
        keys, strengths, gates, exponents, shifts, *written = projected.split(self.parts, dim=1)
        heads = o.read_heads + o.write_heads
        previous = torch.cat([state["read_weighting"], state["write_weighting"]], dim=1)
        content = addressing.content_weighting(
            activated["key"](keys).unflatten(1, (heads, o.width)),
            activated["strength"](strengths).unsqueeze(2),
            memory,
            SIMILARITIES[form.similarity],
            form.similarity_epsilon,
        )
        gated = addressing.interpolate(activated["gate"](gates).unsqueeze(2), content, previous)
        shift_weightings = activated["shift"](shifts.unflatten(1, (heads, len(SHIFT_OFFSETS))))
        around = gated if form.shift == "circular" else addressing.beyond(gated)
        shifted = addressing.shift(around, shift_weightings, self.shift_index)
        weightings = SHARPENINGS[form.sharpening](
            shifted, activated["exponent"](exponents).unsqueeze(2), form.sharpening_epsilon
        )
        read_weighting, write_weighting = weightings.split([o.read_heads, o.write_heads], dim=1)

        # Where nothing is learned of erasing, `written` is the add alone, and its shape is all that erasing needs.
        following = addressing.write(
            memory,
            write_weighting,
            activated["erase"](written[0]).unflatten(1, (o.write_heads, o.width)),
            activated["add"](written[-1]).unflatten(1, (o.write_heads, o.width)),
        )
        read_vector = addressing.read(read_weighting, memory if form.reads == "before-write" else following)
        told = h if form.output_sees == "controller" else torch.cat([h, read_vector.flatten(1)], dim=1)
        return self.output(told), {
            "memory": following,
            "read_weighting": read_weighting,
            "write_weighting": write_weighting,
            "read_vector": read_vector,
            **controller_state,
        }
