"""What a step module is, so that recipes can train it: the contract of every family.

Rules of a family: nothing is kept on `self` but weights and constants; no loop over the batch; the next state has the
names, dtypes and shapes of the state; options are a frozen dataclass that refuses what cannot be.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

Tensors = Mapping[str, Tensor]


class TrainableStep(nn.Module, ABC):
    """A pure step with weights: `(inputs, state) -> (outputs, next state)`, each `[B, ...]` by its name.

    options_kind: the dataclass that `__init__` takes. An option that the task has an attribute of the same name for is
    the task's to decide. roles: what state tensors mean, for tools. axes: the names of those axes of state tensors
    whose size no weight knows, so that it can be another where the model is served; "" for those that stay.
    """

    family: ClassVar[str]
    options_kind: ClassVar[type[Any]]
    roles: Mapping[str, str]
    axes: Mapping[str, tuple[str, ...]] = {}

    @abstractmethod
    def initial_state(self) -> dict[str, Tensor]:
        """The state of a session that made no step, without a batch axis."""

    @abstractmethod
    def logits(self, inputs: Tensors, state: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """The step before its last function: what a stable cross-entropy wants. Returns `[B, O]`, next state."""

    def forward(self, inputs: Tensors, state: Tensors) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Inputs and state with a batch axis; returns outputs `y [B, O]` in (0, 1) and the next state."""
        logits, following = self.logits(inputs, state)
        return {"y": self.activated(logits)}, following

    @staticmethod
    def activated(logits: Tensor) -> Tensor:
        """Outputs from logits `[..., O]`: the probability of each bit."""
        return torch.sigmoid(logits)


class SequenceStep(TrainableStep):
    """A step that can take a whole sequence faster than step after step."""

    @abstractmethod
    def sequence_logits(self, inputs: Tensors) -> Tensor:
        """`logits` of every step from the initial state. Inputs `[B, T, ...]`; returns `[B, T, O]`."""


class ClassifyingStep(TrainableStep):
    """A step whose outputs are the probabilities of O classes."""

    @staticmethod
    def activated(logits: Tensor) -> Tensor:
        """Outputs from logits `[..., O]`: probabilities that add up to one."""
        return torch.softmax(logits, dim=-1)


def expect_at_least_one(options: object, *names: str) -> None:
    """Refuse options of which a size is below 1. Raises ValueError."""
    for name in names:
        if getattr(options, name) < 1:
            raise ValueError(f"{name}: expected at least 1, got {getattr(options, name)}")
