"""How a differentiable neural computer finds its slots: by content, by what is free, by the order of writing.

Pure functions of tensors, batched over sessions. Graves et al. 2016, "Hybrid computing using a neural network with
dynamic external memory", Nature 538:471, Methods.

Letters: B sessions in the batch, R read heads, N slots of the memory, M width of a slot. There is one write head.
"""

import torch
from torch import Tensor
from torch.nn import functional

# Below this square a vector is not made longer to have length 1. A memory that starts as 1e-6 has to stay above it.
SQUARE_MIN = 1e-12

# Usages are compared in steps of 1 / 65536. Slots that were never written have the same usage but for the rounding of a
# softmax, and programs round its last elements differently: each would find another slot to be the free one. Steps and
# not a distance, because who is equal to whom must not depend on who is between them.
USAGE_STEPS = 2.0**16

# Keeps log(0) out of a product that is taken by logarithms; what is multiplied by it is gone.
USAGE_MIN = 1e-30

# Kernels add and take logarithms of up to so many numbers at once, and of those left over at an end of a row one by
# one, with other last bits. Rows of a multiple of it have none left over, so a session's bits do not depend on its
# place in the batch.
LANES = 16


def strength(raw: Tensor) -> Tensor:
    """Strengths (beta) of at least 1, "oneplus". `[B, H]`; returns `[B, H, 1]`."""
    heads = raw.shape[1]
    return 1 + functional.softplus(_whole(raw))[:, :heads].unsqueeze(2)


def content_weighting(keys: Tensor, strengths: Tensor, memory: Tensor) -> Tensor:
    """Weightings by cosine similarity. keys `[B, H, M]`, strengths (beta) `[B, H, 1]`, memory `[B, N, M]`; returns
    `[B, H, N]`.
    """
    products = keys @ memory.transpose(1, 2)
    return torch.softmax(strengths * products * _over_length(keys) * _over_length(memory).transpose(1, 2), dim=2)


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

    The slots are sorted by usage, and the product is one of logarithms: sorting takes a quarter of the time that asking
    each pair does at N = 256. The place of a slot is part of what is sorted by, because a sort of equals has no order
    that every program keeps.
    """
    slots = usages.shape[1]
    places = torch.arange(slots, device=usages.device)
    compared = torch.round(usages * USAGE_STEPS).to(torch.int64) * slots + places
    order = torch.topk(compared, slots, dim=1, largest=False).indices
    by_usage = usages.gather(1, order)
    lesser = functional.pad(by_usage.clamp(min=USAGE_MIN)[:, :-1], (1, _missing(slots)), value=1.0)
    # By their places: of a slice torch would ask whether it takes all, and make a graph for one answer.
    products = torch.exp(torch.cumsum(torch.log(lesser), dim=1)).index_select(1, places)
    free = (1 - by_usage) * products
    return torch.zeros_like(usages).scatter(1, order, free)


def linked(previous: Tensor, writing: Tensor, precedence: Tensor) -> Tensor:
    """Which slot was written after which: L[i, j] says that i came after j. previous `[B, N, N]`, writing and
    precedence of the step before `[B, N]`; returns `[B, N, N]`.
    """
    after, before = writing.unsqueeze(2), writing.unsqueeze(1)
    link = (1 - after - before) * previous + after * precedence.unsqueeze(1)
    return link * (1 - torch.eye(writing.shape[1], device=writing.device))


def preceding(previous: Tensor, writing: Tensor) -> Tensor:
    """The degree to which each slot was the last one written (p). `[B, N]` each."""
    return (1 - _whole(writing).sum(dim=1, keepdim=True)) * previous + writing


def _over_length(vectors: Tensor) -> Tensor:
    """What makes vectors have length 1: `[B, H, M]` to `[B, H, 1]`."""
    return torch.rsqrt(_whole(vectors).square().sum(dim=2, keepdim=True).clamp(min=SQUARE_MIN))


def _whole(rows: Tensor) -> Tensor:
    """The last axis with zeros up to a multiple of LANES."""
    return functional.pad(rows, (0, _missing(rows.shape[-1])))


def _missing(size: int) -> int:
    """How many numbers a row lacks to be a multiple of LANES. Where its size is free in a graph it is one at least:
    torch would make a graph either of the sizes that lack none or of those that do.
    """
    if type(size) is not int:  # A torch.SymInt.
        return (size // LANES + 1) * LANES - size
    return -size % LANES
