"""Dyck words: say after each bracket whether those so far are balanced.

One channel in, 0 opens and 1 closes; one out, 1 where the prefix is a Dyck word: as many closed as opened, and
never more closed than opened on the way. A length of n takes T = 2 n steps, and each one counts.

Half of the sequences are Dyck words, each as likely as any other (the cycle lemma of Dvoretzky and Motzkin
1947). The others are such words with a few brackets turned round, the early ones more often, so that they go wrong
at any place and each way to begin is seen; bits drawn by coin alone go wrong at the first step half of the time and
would teach and test little.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ntm_models.tasks.episode import Episodes
from ntm_models.tasks.task import Seed, expect_sizes

# How many brackets of a sequence that is no Dyck word are turned round, at most.
TURNED_MAX = 3


@dataclass(frozen=True)
class DyckWords:
    """Which prefixes are Dyck words. Inputs I = 1, outputs O = 1."""

    length_min: ClassVar[int] = 1
    lengths_shown: ClassVar[tuple[int, ...]] = (5, 10, 20, 40, 100)
    length_means: ClassVar[str] = "pairs of brackets"

    @property
    def inputs(self) -> int:
        return 1

    @property
    def outputs(self) -> int:
        return 1

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        """Random sequences of `length` pairs of brackets. The same seed gives the same sequences."""
        expect_sizes(self, length, sequences)
        random = np.random.default_rng(seed)
        brackets = dyck_words(random, length=length, sequences=sequences)
        turned = random.integers(1, TURNED_MAX + 1, sequences) * (random.random(sequences) < 0.5)
        for nth in range(TURNED_MAX):
            rows = np.flatnonzero(turned > nth)
            at = (2 * length * random.random(len(rows)) ** 2).astype(np.int64)
            brackets[rows, at] = 1 - brackets[rows, at]
        return Episodes(
            x=brackets[:, :, np.newaxis].astype(np.float32),
            y=are_dyck_words(brackets)[:, :, np.newaxis].astype(np.float32),
            scored=np.ones(2 * length, np.bool_),
        )

    def varied(self, _random: np.random.Generator) -> Self:
        return self


def dyck_words(random: np.random.Generator, *, length: int, sequences: int) -> NDArray[np.int64]:
    """Dyck words of `length` pairs, each as likely as any other: `[B, 2 * length]`, 0 opens and 1 closes.

    A shuffled row of n opening and n + 1 closing brackets has one rotation that stays at or above zero until
    its last bracket: the one that starts after its first lowest point. What is before that bracket is the word.
    """
    rows = np.tile(np.repeat([0, 1], [length, length + 1]), (sequences, 1))
    rows = random.permuted(rows, axis=1)
    lowest = np.cumsum(1 - 2 * rows, axis=1).argmin(axis=1)
    at = (lowest[:, np.newaxis] + 1 + np.arange(2 * length)) % (2 * length + 1)
    return np.asarray(np.take_along_axis(rows, at, axis=1), dtype=np.int64)


def are_dyck_words(brackets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Of each prefix of each sequence whether it is a Dyck word. brackets `[B, T]`; returns `[B, T]`."""
    open_ones = np.cumsum(1 - 2 * brackets, axis=1)
    sound = np.minimum.accumulate(open_ones, axis=1) >= 0
    return np.asarray(sound & (open_ones == 0), dtype=np.bool_)
