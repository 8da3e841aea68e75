"""Steps to export: one that keeps the contract, for tests to break in one place each."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ntm_exporter.source import Source, TaskExample
from ntm_models.ntm import NTM, NTMOptions
from ntm_models.tasks import Copy


class Cell(nn.Module):
    """x `[3]` in, y `[4]` out, h `[4]` kept."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.GRUCell(3, 4)

    def initial_state(self) -> dict[str, Any]:
        return {"h": torch.zeros(4)}

    def forward(self, inputs: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Any:
        h = self.following(inputs["x"], state["h"])
        return {"y": h}, {"h": h}

    def following(self, x: Tensor, h: Tensor) -> Tensor:
        return self.cell(x, h)

    def example_inputs(self, steps: int, seed: int) -> dict[str, Any]:
        return {"x": np.random.default_rng(seed).normal(size=(steps, 3)).astype(np.float32)}


def source_of(step: Any, **changes: Any) -> Source:
    """A step of a test as the exporter's source."""
    return replace(Source(name="cell", step=step, example_inputs=step.example_inputs), **changes)


def ntm_source(controller: str, **options: Any) -> Source:
    """A small NTM with random weights on the copy task of three bits."""
    torch.manual_seed(0)
    task = Copy(bits=3)
    sizes = {"controller_size": 12, "slots": 10, "width": 6, **options}
    step = NTM(NTMOptions(inputs=task.inputs, outputs=task.outputs, controller=controller, **sizes)).eval()
    return Source(name="ntm", step=step, example_inputs=TaskExample(task), family="ntm", task="copy")
