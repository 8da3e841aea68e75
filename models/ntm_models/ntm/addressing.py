"""The addressing mechanism and the memory operations of the Neural Turing Machine.

Pure functions of tensors, batched over sessions and heads at once. Equation numbers are those of
Graves, Wayne, Danihelka 2014, "Neural Turing Machines" (arXiv:1410.5401).

Letters: B sessions in the batch, H heads, N slots of the memory, M width of a slot, S shift offsets.
"""

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

# Keeps the cosine of a zero vector defined. Large enough that an exporter's constant folding does
# not take it for zero (below 1e-7 some do), small beside the product of two trained norms.
COSINE_EPSILON = 1e-6

# Keeps log(0) out of the sharpening. The same bound holds as for COSINE_EPSILON.
SHARPEN_EPSILON = 1e-6

# Of keys and a memory, with an epsilon: `[B, H, M]`, `[B, N, M]` to `[B, H, N]`.
Similarity = Callable[[Tensor, Tensor, float], Tensor]


def cosine_similarity(keys: Tensor, memory: Tensor, epsilon: float = COSINE_EPSILON) -> Tensor:
    """Cosine similarity of each key and each slot, eq. 6. keys `[B, H, M]`, memory `[B, N, M]`; returns `[B, H, N]`."""
    products = keys @ memory.transpose(1, 2)
    key_norms: Tensor = torch.linalg.vector_norm(keys, dim=2, keepdim=True)
    slot_norms: Tensor = torch.linalg.vector_norm(memory, dim=2).unsqueeze(1)
    return products / (key_norms * slot_norms + epsilon)


def cosine_similarity_root(keys: Tensor, memory: Tensor, epsilon: float = COSINE_EPSILON) -> Tensor:
    """As `cosine_similarity`, with the epsilon under the root: a slot of small numbers is like nothing."""
    products = keys @ memory.transpose(1, 2)
    key_squares = keys.square().sum(dim=2, keepdim=True)
    slot_squares = memory.square().sum(dim=2).unsqueeze(1)
    return products / torch.sqrt(key_squares * slot_squares + epsilon)


def content_weighting(
    keys: Tensor,
    strengths: Tensor,
    memory: Tensor,
    similarity: Similarity = cosine_similarity,
    epsilon: float = COSINE_EPSILON,
) -> Tensor:
    """Weightings by content, eq. 5 with the cosine similarity of eq. 6.

    keys `[B, H, M]`, strengths (beta) `[B, H, 1]`, memory `[B, N, M]`; returns `[B, H, N]`.
    """
    return torch.softmax(strengths * similarity(keys, memory, epsilon), dim=2)


def interpolate(gates: Tensor, content: Tensor, previous: Tensor) -> Tensor:
    """Content weighting against the previous one, eq. 7. gates (g) `[B, H, 1]`, the rest `[B, H, N]`."""
    return gates * content + (1 - gates) * previous


def shift_index(slots: int, offsets: tuple[int, ...], *, circular: bool = True) -> Tensor:
    """Which slot each shift offset brings to slot i: `[N, S]`, entry `(i - offset) mod N`.

    Not circular, what would come from beyond an end is entry N: a slot that `beyond` adds.
    """
    rows = torch.arange(slots).unsqueeze(1)
    index = rows - torch.tensor(offsets).unsqueeze(0)
    if circular:
        return index % slots
    return index.masked_fill((index < 0) | (index >= slots), slots)


def beyond(weightings: Tensor) -> Tensor:
    """Weightings with one more slot that nothing attends to. `[B, H, N]`; returns `[B, H, N + 1]`."""
    return functional.pad(weightings, (0, 1))


def shift(weightings: Tensor, shift_weightings: Tensor, index: Tensor) -> Tensor:
    """Circular convolution with the shift weighting, eq. 8.

    weightings `[B, H, N]`, shift_weightings (s) `[B, H, S]`, index from `shift_index`; returns `[B, H, N]`.
    A gather and a product, because a grouped convolution over the batch cannot be exported.
    """
    return (weightings[:, :, index] @ shift_weightings.unsqueeze(3)).squeeze(3)


def sharpen(weightings: Tensor, exponents: Tensor, epsilon: float = SHARPEN_EPSILON) -> Tensor:
    """Sharpening, eq. 9, as a softmax of logarithms. exponents (gamma) `[B, H, 1]`, weightings `[B, H, N]`.

    `w ** gamma / sum(w ** gamma)` is the same function, but underflows to 0/0 in float32 for a
    large gamma.
    """
    return torch.softmax(exponents * torch.log(weightings + epsilon), dim=2)


def sharpen_power(weightings: Tensor, exponents: Tensor, epsilon: float = SHARPEN_EPSILON) -> Tensor:
    """Sharpening, eq. 9, as it stands, with an epsilon below. Shapes as of `sharpen`.

    What is spread over all slots fades under a large gamma, and the sum of a weighting is then less than one. Weights
    that were trained so may count on it.
    """
    powers = weightings**exponents
    return powers / (powers.sum(dim=2, keepdim=True) + epsilon)


def read(weightings: Tensor, memory: Tensor) -> Tensor:
    """Read vectors, eq. 2. weightings `[B, R, N]`, memory `[B, N, M]`; returns `[B, R, M]`."""
    return weightings @ memory


def write(memory: Tensor, weightings: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    """Erase, eq. 3, then add, eq. 4.

    memory `[B, N, M]`, weightings `[B, W, N]`, erase and add `[B, W, M]`; returns `[B, N, M]`.
    Heads erase together: the product of their factors does not depend on their order.
    """
    transposed = weightings.transpose(1, 2)
    if weightings.shape[1] == 1:
        kept = 1 - transposed @ erase
    else:
        # A product of a few, not one `prod`: its gradient, which must mind zeros, takes longer than the whole step.
        factors = (1 - weightings.unsqueeze(3) * erase.unsqueeze(2)).unbind(1)
        kept = reduce(torch.mul, factors)
    return memory * kept + transposed @ add
