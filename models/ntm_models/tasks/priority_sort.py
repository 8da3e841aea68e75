"""The priority sort task (Graves et al. 2014, section 4.5): see vectors with priorities, give the highest in order.

Channels in: `bits` data channels, the priority, drawn evenly from [-1, 1], and one that is 1 at the delimiter.
L vectors take T = L + 1 + K steps: the vectors, the delimiter, and blank steps during which the K = 4 L / 5
of highest priority are wanted, the highest first: 16 of 20.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from ntm_models.tasks.episode import Episodes
from ntm_models.tasks.task import Seed, expect_sizes


@dataclass(frozen=True)
class PrioritySort:
    """Sort of `bits`-bit vectors. Inputs I = bits + 2, outputs O = bits."""

    length_min: ClassVar[int] = 2
    lengths_shown: ClassVar[tuple[int, ...]] = (5, 10, 20)
    length_means: ClassVar[str] = "vectors"

    bits: int = 8

    @property
    def inputs(self) -> int:
        return self.bits + 2

    @property
    def outputs(self) -> int:
        return self.bits

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        """Random sequences of one length. The same seed gives the same sequences."""
        expect_sizes(self, length, sequences)
        random = np.random.default_rng(seed)
        vectors = random.integers(0, 2, (sequences, length, self.bits)).astype(np.float32)
        priorities = random.uniform(-1, 1, (sequences, length)).astype(np.float32)
        kept = length * 4 // 5
        order = np.argsort(-priorities, axis=1, kind="stable")[:, :kept]
        steps = length + 1 + kept
        x = np.zeros((sequences, steps, self.inputs), np.float32)
        x[:, :length, : self.bits] = vectors
        x[:, :length, self.bits] = priorities
        x[:, length, self.bits + 1] = 1
        y = np.zeros((sequences, steps, self.bits), np.float32)
        y[:, length + 1 :] = np.take_along_axis(vectors, order[:, :, np.newaxis], axis=1)
        return Episodes(x=x, y=y, scored=np.arange(steps) > length)

    def varied(self, _random: np.random.Generator) -> Self:
        return self
