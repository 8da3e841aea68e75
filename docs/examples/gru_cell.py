"""A recurrent cell of one's own, as `ntm-export` takes it: torch and numpy, nothing of ntm-serve.

ntm-export gru_cell.py:build --weights w.pt --name gru --out models
"""

import numpy as np
import torch
from torch import nn


class GRUCell(nn.Module):
    """Three readings in, the next one's estimate out; what was seen is kept in a state of 16 numbers."""

    # What tools may show beside the name. All three are optional.
    family = "gru"
    task = "forecast"
    roles = {"h": "controller"}

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(3, 16)
        self.readout = nn.Linear(16, 3)

    def initial_state(self):
        """One session's state before its first step: no batch axis."""
        return {"h": torch.zeros(16)}

    def forward(self, inputs, state):
        """One step of B sessions: everything that it remembers comes in, and goes out, as state."""
        h = self.cell(inputs["readings"], state["h"])
        return {"estimate": self.readout(h)}, {"h": h}

    def example_inputs(self, steps, seed):
        """A run that the cell will really meet: here, three noisy waves. One session, no batch axis."""
        random = np.random.default_rng(seed)
        phase = random.uniform(0, 2 * np.pi, 3)
        waves = np.sin(np.arange(steps)[:, None] / 7 + phase)
        return {"readings": (waves + random.normal(0, 0.1, (steps, 3))).astype(np.float32)}


def build():
    """What the command calls; it loads the weights into what this returns."""
    return GRUCell()
