"""One step module over whole sequences, the plain way: what many side by side are compared with."""

import torch
from torch import Tensor

from ntm_models.ntm import NTM


def initial_batch(step: NTM, sequences: int) -> dict[str, Tensor]:
    """The initial state for B sessions: each tensor with a leading batch axis."""
    return {name: value.expand(sequences, *value.shape) for name, value in step.initial_state().items()}


def rollout_logits(step: NTM, x: Tensor) -> Tensor:
    """Logits of every step from the initial state. x `[B, T, I]`; returns `[B, T, O]`."""
    state = initial_batch(step, x.shape[0])
    logits = []
    for at in range(x.shape[1]):
        now, state = step.logits({"x": x[:, at]}, state)
        logits.append(now)
    return torch.stack(logits, dim=1)
