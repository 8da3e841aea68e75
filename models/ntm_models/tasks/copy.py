"""The copy task (Graves et al. 2014, section 4.1): see a sequence of random bits, then give it back.

Channels: `bits` data channels, then one that is 1 at the delimiter. A sequence of length L takes
T = 2 L + 1 steps: L vectors, the delimiter, and L blank steps during which the copy is wanted.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from ntm_models.tasks.episode import Episodes
from ntm_models.tasks.task import Seed, expect_sizes


@dataclass(frozen=True)
class Copy:
    """Copy of `bits`-bit vectors. Inputs I = bits + 1, outputs O = bits."""

    length_min: ClassVar[int] = 1
    lengths_shown: ClassVar[tuple[int, ...]] = (10, 20, 40, 60, 80, 120)
    length_means: ClassVar[str] = "vectors"

    bits: int = 8

    @property
    def inputs(self) -> int:
        return self.bits + 1

    @property
    def outputs(self) -> int:
        return self.bits

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        """Random sequences of one length. The same seed gives the same sequences."""
        expect_sizes(self, length, sequences)
        random = np.random.default_rng(seed)
        vectors = random.integers(0, 2, (sequences, length, self.bits)).astype(np.float32)
        steps = 2 * length + 1
        x = np.zeros((sequences, steps, self.inputs), np.float32)
        x[:, :length, : self.bits] = vectors
        x[:, length, self.bits] = 1
        y = np.zeros((sequences, steps, self.bits), np.float32)
        y[:, length + 1 :] = vectors
        scored = np.arange(steps) > length
        return Episodes(x=x, y=y, scored=scored)

    def varied(self, _random: np.random.Generator) -> Self:
        return self
