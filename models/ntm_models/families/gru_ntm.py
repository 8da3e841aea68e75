"""A GRU before a Neural Turing Machine, as one pure step (Panggabean et al. 2024, "Intelligent DoS and DDoS detection:
a hybrid GRU-NTM approach to network security", arXiv:2504.07478).

One step, in this order:
1. a gated recurrent unit sees the input and what it was itself: the short-term pattern (Cho et al. 2014,
   arXiv:1406.1078, eq. 5 to 8);
2. a Neural Turing Machine sees the unit's state and its own memory: the long-term pattern (Graves et al. 2014, eq. 2
   to 9; see `ntm_models/ntm/step.py`);
3. the outputs are those of the Neural Turing Machine.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ntm_models.ntm import NTM, NTMOptions
from ntm_models.ntm.controllers import GRU
from ntm_models.ntm.step import ROLES
from ntm_models.trainable import Tensors, TrainableStep, expect_at_least_one


@dataclass(frozen=True)
class GRUNTMOptions:
    """Sizes: inputs I, outputs O, units of the GRU G; of the NTM: units of its controller, slots N, width M."""

    inputs: int
    outputs: int
    gru_size: int = 24
    controller_size: int = 32
    slots: int = 16
    width: int = 8

    def __post_init__(self) -> None:
        expect_at_least_one(self, "inputs", "outputs", "gru_size", "controller_size", "slots", "width")


class GRUNTM(TrainableStep):
    """A GRU-NTM step. State of one session: gru_h `[G]`, and the NTM's: memory `[N, M]`, read_weighting and
    write_weighting `[1, N]`, read_vector `[1, M]`.
    """

    family = "gru-ntm"
    options_kind = GRUNTMOptions
    roles: Mapping[str, str] = {"gru_h": "controller", **ROLES}

    def __init__(self, options: GRUNTMOptions) -> None:
        super().__init__()
        self.options = o = options
        self.gru = GRU(o.inputs, o.gru_size)
        self.ntm = NTM(
            NTMOptions(o.gru_size, o.outputs, controller_size=o.controller_size, slots=o.slots, width=o.width)
        )
        self.first_h = nn.Parameter(torch.zeros(o.gru_size))

    def initial_state(self) -> dict[str, Tensor]:
        """The state of a session that made no step, without a batch axis: learned, but for the memory."""
        return {"gru_h": torch.tanh(self.first_h), **self.ntm.initial_state()}

    def logits(self, inputs: Tensors, state: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """inputs `x [B, I]`, state with a batch axis; see TrainableStep."""
        h, _ = self.gru(inputs["x"], {"controller_h": state["gru_h"]})
        logits, following = self.ntm.logits({"x": h}, state)
        return logits, {"gru_h": h, **following}
