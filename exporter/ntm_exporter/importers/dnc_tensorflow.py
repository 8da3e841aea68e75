"""Mostafa-Samir/DNC-tensorflow: a differentiable neural computer with two layers of rectified units and one read head.

No array knows how many slots the memory had in training; a memory is served with as many as are asked for.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ntm_exporter.importers.arrays import Arrays, expect_layout
from ntm_exporter.importers.program import Program, Settings
from ntm_models.dnc import DNC, DNCOptions

# With one read head: keys of 2 M, erase and write of 2 M; 2 strengths, 3 gates, 3 modes.
LAYOUT = {
    "controller|mem_output_weights": "M O",
    "controller|layer1_W": "I+M H",
    "controller|layer1_b": "H",
    "controller|layer2_W": "H C",
    "controller|layer2_b": "C",
    "controller|interface_weights": "C 4M+8",
    "controller|nn_output_weights": "C O",
}

# What the program's own copy task was trained with.
SLOTS = 15


def convert(arrays: Arrays, settings: Settings) -> DNC:
    """The step. Raises SourceFault."""
    sizes = expect_layout(arrays, LAYOUT, of=PROGRAM.name)
    slots = SLOTS if settings.slots is None else settings.slots
    step = DNC(
        DNCOptions(
            inputs=sizes["I"], outputs=sizes["O"], layers=(sizes["H"], sizes["C"]), slots=slots, width=sizes["M"]
        )
    )  # fmt: skip
    weights = {
        "controller.layers.0.weight": arrays["controller|layer1_W"].T,
        "controller.layers.0.bias": arrays["controller|layer1_b"],
        "controller.layers.1.weight": arrays["controller|layer2_W"].T,
        "controller.layers.1.bias": arrays["controller|layer2_b"],
        "interface.weight": arrays["controller|interface_weights"].T,
        "interface.bias": np.zeros(arrays["controller|interface_weights"].shape[1]),
        "output.weight": arrays["controller|nn_output_weights"].T,
        "read_output.weight": arrays["controller|mem_output_weights"].T,
    }
    step.load_state_dict({name: _tensor(value) for name, value in weights.items()})
    return step.eval()


def _tensor(value: NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(value, dtype=np.float32))


PROGRAM = Program(
    name="dnc-tensorflow",
    repository="https://github.com/Mostafa-Samir/DNC-tensorflow",
    licence="MIT, Copyright (c) 2016 Mostafa-Samir",
    tasks={"copy": "copy-wide", "copy-series": "copy-series"},
    convert=convert,
    free_slots=True,
    # Strengths of hundreds multiply the rounding of a cosine, and a read multiplies that by memories of tens: torch
    # and the engine are each as far from the exact value as from each other.
    tolerance=1e-3,
)
