"""An attention-based speaker memory before a small encoder, as one pure step (Sari et al. 2020, "Unsupervised Speaker
Adaptation using Attention-based Speaker Memory for End-to-End ASR", arXiv:2002.06165).

The memory holds a vector for each known speaker and is read only: it is given when a session opens, and every step
passes it on as it is. One step, in this order:
1. the encoder, a gated recurrent unit, hears the frame;
2. a key is made of what the encoder has heard so far, and compared with every speaker: the read weighting is a
   softmax of the cosines, sharpened by a strength (Graves et al. 2014, eq. 5 and 6);
3. the M-vector is what that weighting reads (Graves et al. 2014, eq. 2); it stands beside the frame in the layers
   that give the output, which so adapt to the speaker without being told who it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ntm_models.ntm import addressing
from ntm_models.ntm.controllers import GRU
from ntm_models.trainable import Tensors, TrainableStep, expect_at_least_one


@dataclass(frozen=True)
class SpeakerMemoryOptions:
    """Sizes: inputs I, outputs O, speakers N, width M of a speaker's vector, units of the encoder E and of the hidden
    layer before the outputs.
    """

    inputs: int
    outputs: int
    speakers: int
    width: int
    encoder_size: int = 32
    hidden_size: int = 48

    def __post_init__(self) -> None:
        expect_at_least_one(self, "inputs", "outputs", "speakers", "width", "encoder_size", "hidden_size")


class SpeakerMemory(TrainableStep):
    """A speaker memory's step. State of one session: speakers `[N, M]`, which no step changes, encoder_h `[E]`, and
    read_weighting `[1, N]`, which is kept to be looked at.
    """

    family = "speaker-memory"
    options_kind = SpeakerMemoryOptions
    roles: Mapping[str, str] = {"speakers": "memory", "encoder_h": "controller", "read_weighting": "read_weighting"}

    def __init__(self, options: SpeakerMemoryOptions) -> None:
        super().__init__()
        self.options = o = options
        self.encoder = GRU(o.inputs, o.encoder_size)
        self.key = nn.Linear(o.encoder_size, o.width + 1)
        self.hidden = nn.Linear(o.inputs + o.width + o.encoder_size, o.hidden_size)
        self.output = nn.Linear(o.hidden_size, o.outputs)

    def initial_state(self) -> dict[str, Tensor]:
        """The state of a session that made no step and was given no speakers, without a batch axis."""
        o = self.options
        return {
            "speakers": torch.zeros(o.speakers, o.width),
            "encoder_h": torch.zeros(o.encoder_size),
            "read_weighting": torch.full((1, o.speakers), 1 / o.speakers),
        }

    def logits(self, inputs: Tensors, state: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """inputs `x [B, I]`, state with a batch axis; see TrainableStep."""
        h, _ = self.encoder(inputs["x"], {"controller_h": state["encoder_h"]})
        key, strength = self.key(h).split([self.options.width, 1], dim=1)
        weighting = addressing.content_weighting(
            key.unsqueeze(1), 1 + functional.softplus(strength).unsqueeze(2), state["speakers"]
        )
        m_vector = addressing.read(weighting, state["speakers"]).squeeze(1)
        hidden = torch.relu(self.hidden(torch.cat([inputs["x"], m_vector, h], dim=1)))
        return self.output(hidden), {"speakers": state["speakers"], "encoder_h": h, "read_weighting": weighting}
