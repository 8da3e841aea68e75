"""Tones: hear a sum of tones in noise, one sample at a step, and say which of the known ones are in it.

One channel in, the sample; one out for each tone of `PERIODS`, 1 where it sounds. Each sounds or not by coin, with a
loudness and a phase of its own, for the whole sequence. L samples take T = L steps; the first `UNSCORED`, a few
turns of the slowest tone, do not count.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from ntm_models.tasks.episode import Episodes
from ntm_models.tasks.task import Seed, expect_sizes

# In samples for one turn.
PERIODS = (3.0, 5.0, 8.0, 13.0)
LOUDNESS = (0.7, 1.3)
NOISE = 0.5
UNSCORED = 32


@dataclass(frozen=True)
class Tones:
    """Which tones sound. Inputs I = 1, outputs O = 4."""

    length_min: ClassVar[int] = UNSCORED + 1
    lengths_shown: ClassVar[tuple[int, ...]] = (40, 64, 256)
    length_means: ClassVar[str] = "samples"

    @property
    def inputs(self) -> int:
        return 1

    @property
    def outputs(self) -> int:
        return len(PERIODS)

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        """Random sounds of `length` samples. The same seed gives the same ones."""
        expect_sizes(self, length, sequences)
        random = np.random.default_rng(seed)
        size = (sequences, 1, len(PERIODS))
        sounding = random.integers(0, 2, size)
        turns = np.arange(length)[:, np.newaxis] / np.array(PERIODS) + random.random(size)
        tones = sounding * random.uniform(*LOUDNESS, size) * np.sin(2 * np.pi * turns)
        x = tones.sum(axis=2, keepdims=True) + random.normal(0, NOISE, (sequences, length, 1))
        y = np.repeat(sounding, length, axis=1).astype(np.float32)
        return Episodes(x=x.astype(np.float32), y=y, scored=np.arange(length) >= UNSCORED)

    def varied(self, _random: np.random.Generator) -> Self:
        return self
