"""Multi-turn retrieval: an item is looked for in turns, each with an item that is shown and what is said of it.

An item is `attributes` bits. At each turn one item is shown, and the feedback says what is wanted: an item like this
one, like the one wanted at the turn before, or like the one wanted at the first turn; but with one or two attributes
that are named as said. Inputs: `x`, the attributes of the item that is shown; `feedback`, three channels that say
like which one, then for each attribute whether it is named, then the values of those. The wanted output is the
attributes of the item wanted now: where all of them are right, it is found among all that there are. L turns take
T = L steps, and each one counts.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from ntm_models.tasks.episode import Episodes
from ntm_models.tasks.task import Seed, expect_sizes

# Like which item: the one shown, the one wanted before, the one wanted first; and how often each is said.
THIS, BEFORE, FIRST = range(3)
SAID = (0.2, 0.5, 0.3)

NAMED_MAX = 2


@dataclass(frozen=True)
class Retrieval:
    """Which item is wanted. Inputs I = attributes, feedback F = 3 + 2 attributes, outputs O = attributes."""

    length_min: ClassVar[int] = 1
    lengths_shown: ClassVar[tuple[int, ...]] = (3, 6, 12)
    length_means: ClassVar[str] = "turns"

    attributes: int = 8

    @property
    def inputs(self) -> int:
        return self.attributes

    @property
    def feedback(self) -> int:
        """Channels of the second input, F."""
        return len(SAID) + 2 * self.attributes

    @property
    def outputs(self) -> int:
        return self.attributes

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        """Random conversations of `length` turns. The same seed gives the same ones."""
        expect_sizes(self, length, sequences)
        random = np.random.default_rng(seed)
        size = (sequences, length, self.attributes)
        shown, values = (random.integers(0, 2, size).astype(np.float32) for _ in range(2))
        named = (random.random(size).argsort(axis=2) < random.integers(1, NAMED_MAX + 1, (sequences, length, 1))) * 1.0
        like = random.choice(len(SAID), (sequences, length), p=SAID)
        like[:, 0] = THIS
        y = np.zeros(size, np.float32)
        for at in range(length):
            candidates = np.stack([shown[:, at], y[:, max(at - 1, 0)], y[:, 0]])
            chosen = candidates[like[:, at], np.arange(sequences)]
            y[:, at] = np.where(named[:, at] > 0, values[:, at], chosen)
        feedback = np.concatenate([np.eye(len(SAID))[like], named, named * values], axis=2).astype(np.float32)
        return Episodes(x=shown, y=y, scored=np.ones(length, np.bool_), others={"feedback": feedback})

    def varied(self, _random: np.random.Generator) -> Self:
        return self
