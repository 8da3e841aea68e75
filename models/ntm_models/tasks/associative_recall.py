"""The associative recall task (Graves et al. 2014, section 4.3): see items, be asked for the one after another.

An item is `vectors` vectors of `bits` bits. Channels: `bits` data channels, one that is 1 before each item, one
that is 1 before and after the query. L items take T = L (vectors + 1) + (vectors + 2) + vectors steps: each item
after its delimiter, the query between its two, and blank steps during which the item after the query is wanted.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from ntm_models.tasks.episode import Episodes
from ntm_models.tasks.task import Seed, expect_sizes


@dataclass(frozen=True)
class AssociativeRecall:
    """Recall of items. Inputs I = bits + 2, outputs O = bits. The last item is never the query."""

    length_min: ClassVar[int] = 2
    lengths_shown: ClassVar[tuple[int, ...]] = (2, 6, 10, 12, 15, 20)
    length_means: ClassVar[str] = "items"

    bits: int = 6
    vectors: int = 3

    @property
    def inputs(self) -> int:
        return self.bits + 2

    @property
    def outputs(self) -> int:
        return self.bits

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        """Random sequences of `length` items. The same seed gives the same sequences."""
        expect_sizes(self, length, sequences)
        random = np.random.default_rng(seed)
        items = random.integers(0, 2, (sequences, length, self.vectors, self.bits)).astype(np.float32)
        asked = random.integers(0, length - 1, sequences)
        rows = np.arange(sequences)
        query = length * (self.vectors + 1)
        answer = query + self.vectors + 2
        steps = answer + self.vectors
        x = np.zeros((sequences, steps, self.inputs), np.float32)
        shown = x[:, :query].reshape(sequences, length, self.vectors + 1, self.inputs)
        shown[:, :, 0, self.bits] = 1
        shown[:, :, 1:, : self.bits] = items
        x[:, :query] = shown.reshape(sequences, query, self.inputs)
        x[:, [query, answer - 1], self.bits + 1] = 1
        x[:, query + 1 : answer - 1, : self.bits] = items[rows, asked]
        y = np.zeros((sequences, steps, self.bits), np.float32)
        y[:, answer:] = items[rows, asked + 1]
        return Episodes(x=x, y=y, scored=np.arange(steps) >= answer)

    def varied(self, _random: np.random.Generator) -> Self:
        return self
