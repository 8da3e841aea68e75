"""How a differentiable neural computer finds its slots: by content, by what is free, by the order of writing.

Pure functions of tensors, batched over sessions. Graves et al. 2016, "Hybrid computing using a neural network with
dynamic external memory", Nature 538:471, Methods.

Letters: B sessions in the batch, R read heads, N slots of the memory, M width of a slot. There is one write head.
"""

import torch
from torch import Tensor

# Below this square a vector is not made longer to have length 1. A memory that starts as 1e-6 has to stay above it.
SQUARE_MIN = 1e-12

# Usages are compared in steps of 1 / 65536. Slots that were never written have the same usage but for the rounding of a
# softmax, and programs round its last elements differently: each would find another slot to be the free one. Steps and
# not a distance, because who is equal to whom must not depend on who is between them.
USAGE_STEPS = 2.0**16

# Keeps log(0) out of a product that is taken by logarithms; what is multiplied by it is gone.
USAGE_MIN = 1e-30


def content_weighting(keys: Tensor, strengths: Tensor, memory: Tensor) -> Tensor:
    """Weightings by cosine similarity. keys `[B, H, M]`, strengths (beta) `[B, H, 1]`, memory `[B, N, M]`; returns
    `[B, H, N]`.
    """
    return torch.softmax(strengths * (_unit(keys) @ _unit(memory).transpose(1, 2)), dim=2)


def usage(previous: Tensor, writing: Tensor, reading: Tensor, free_gates: Tensor) -> Tensor:
    """What is in use: what was written, but for what was read and then freed.

    previous (u) and writing `[B, N]`, reading `[B, R, N]`, all of the step before; free_gates (f) `[B, R, 1]`; returns
    `[B, N]`.
    """
    retention = (1 - free_gates * reading).prod(dim=1)
    return (previous + writing - previous * writing) * retention


def allocation(usages: Tensor) -> Tensor:
    """The free slot that is used least, softly: a[i] = (1 - u[i]) times the product of all lesser u. Of equals the
    first is the lesser one. usages `[B, N]`; returns `[B, N]`.

    Who is less is asked of each pair instead of sorting, and the product is one of logarithms: neither sorts nor
    running products of a free batch can be relied on in ONNX.
    """
    slots = torch.arange(usages.shape[1], device=usages.device)
    compared = torch.round(usages * USAGE_STEPS)
    mine, others = compared.unsqueeze(2), compared.unsqueeze(1)
    earlier = slots.unsqueeze(0) < slots.unsqueeze(1)
    lesser = (others < mine) | ((others == mine) & earlier)
    logs = torch.log(usages.clamp(min=USAGE_MIN)).unsqueeze(1)
    return (1 - usages) * torch.exp((lesser * logs).sum(dim=2))


def linked(previous: Tensor, writing: Tensor, precedence: Tensor) -> Tensor:
    """Which slot was written after which: L[i, j] says that i came after j. previous `[B, N, N]`, writing and
    precedence of the step before `[B, N]`; returns `[B, N, N]`.
    """
    after, before = writing.unsqueeze(2), writing.unsqueeze(1)
    link = (1 - after - before) * previous + after * precedence.unsqueeze(1)
    return link * (1 - torch.eye(writing.shape[1], device=writing.device))


def preceding(previous: Tensor, writing: Tensor) -> Tensor:
    """The degree to which each slot was the last one written (p). `[B, N]` each."""
    return (1 - writing.sum(dim=1, keepdim=True)) * previous + writing


def _unit(vectors: Tensor) -> Tensor:
    return vectors * torch.rsqrt(vectors.square().sum(dim=2, keepdim=True).clamp(min=SQUARE_MIN))
