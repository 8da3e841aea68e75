"""The cascaded-memory Neural Turing Machine as one pure step (Pal et al. 2023, "FashionNTM: Multi-turn Fashion Image
Retrieval via Cascaded Memory", arXiv:2308.10170).

A stage for each input, and each a Neural Turing Machine with a memory and heads of its own (Graves et al. 2014, eq. 2
to 9; see `ntm_models/ntm/step.py`). The first sees what is shown; the second sees what is said of it, and what the
first gave in the same step. The outputs are those of the last stage. So what is shown and what is said of it are
remembered apart, and the later memory is written with the earlier one in view.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ntm_models.ntm import NTM, NTMOptions
from ntm_models.ntm.step import ROLES
from ntm_models.trainable import Tensors, TrainableStep, expect_at_least_one

# The inputs, in the order of their stages; the state tensors of a stage begin with its input's name.
SHOWN, SAID = "x", "feedback"


@dataclass(frozen=True)
class CascadedOptions:
    """Sizes: channels of what is shown I and of what is said of it F, outputs O, what the first stage passes on; of
    each stage the kind and units of its controller, slots N, width M, read heads R.
    """

    inputs: int
    feedback: int
    outputs: int
    passed_on: int = 16
    controller: str = "gru"
    controller_size: int = 32
    slots: int = 8
    width: int = 12
    read_heads: int = 1

    def __post_init__(self) -> None:
        expect_at_least_one(self, "passed_on")
        _stage(self, self.inputs, self.passed_on)
        _stage(self, self.feedback, self.outputs)


class CascadedNTM(TrainableStep):
    """A cascaded-memory NTM step. State of one session, for the stages `x` and `feedback`: `x_memory [N, M]`,
    `x_read_weighting [R, N]`, `x_write_weighting [1, N]`, `x_read_vector [R, M]`, the controller's own; and so on.
    """

    family = "cascaded-ntm"
    options_kind = CascadedOptions
    roles: Mapping[str, str] = {f"{stage}_{name}": role for stage in (SHOWN, SAID) for name, role in ROLES.items()}

    def __init__(self, options: CascadedOptions) -> None:
        super().__init__()
        self.options = o = options
        self.shown = NTM(_stage(o, o.inputs, o.passed_on))
        self.said = NTM(_stage(o, o.feedback + o.passed_on, o.outputs))

    def initial_state(self) -> dict[str, Tensor]:
        """The state of a session that made no step, without a batch axis: learned, but for the memories."""
        return _named(SHOWN, self.shown.initial_state()) | _named(SAID, self.said.initial_state())

    def logits(self, inputs: Tensors, state: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """inputs `x [B, I]` and `feedback [B, F]`, state with a batch axis; see TrainableStep."""
        passed, shown = self.shown.logits({"x": inputs[SHOWN]}, _of_stage(SHOWN, state))
        seen = torch.cat([inputs[SAID], torch.tanh(passed)], dim=1)
        logits, said = self.said.logits({"x": seen}, _of_stage(SAID, state))
        return logits, _named(SHOWN, shown) | _named(SAID, said)


def _stage(o: CascadedOptions, inputs: int, outputs: int) -> NTMOptions:
    """The sizes of one stage. Raises ValueError."""
    return NTMOptions(
        inputs, outputs, controller=o.controller, controller_size=o.controller_size, slots=o.slots, width=o.width,
        read_heads=o.read_heads,
    )  # fmt: skip


def _named(stage: str, state: Tensors) -> dict[str, Tensor]:
    return {f"{stage}_{name}": value for name, value in state.items()}


def _of_stage(stage: str, state: Tensors) -> dict[str, Tensor]:
    prefix = f"{stage}_"
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
