"""Sightings: frames of a few tokens, each a thing seen at a place; say of the thing asked for where it was seen last.

A token has `2 + things + place_bits` channels: one that is 1 where a thing is seen, one that is 1 where a thing is
asked for, which thing, and where it is. A frame has `tokens` tokens in any order: one asks, each of the others shows
a thing that no other token of the frame shows, or is blank. The answer is wanted in the same frame: a bit that is 1
where the thing was ever seen, and the place where it was seen last, this frame's sighting included; zeros for one
that was never seen. L frames take T = L steps, and each one counts.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from ntm_models.tasks.episode import Episodes
from ntm_models.tasks.task import Seed, expect_sizes

# How many of the tokens that do not ask are blank, on average.
BLANK_SHARE = 0.4


@dataclass(frozen=True)
class Sightings:
    """Where things were seen last. Inputs: x `[tokens, I]`, I = 2 + things + place_bits, outputs O = 1 + place_bits."""

    length_min: ClassVar[int] = 1
    lengths_shown: ClassVar[tuple[int, ...]] = (10, 30, 100)
    length_means: ClassVar[str] = "frames"

    things: int = 6
    place_bits: int = 3
    tokens: int = 4

    @property
    def inputs(self) -> int:
        """Channels of one token."""
        return 2 + self.things + self.place_bits

    @property
    def outputs(self) -> int:
        return 1 + self.place_bits

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        """Random sequences of `length` frames. The same seed gives the same sequences."""
        expect_sizes(self, length, sequences)
        random = np.random.default_rng(seed)
        frames = np.zeros((sequences, length, self.tokens, self.inputs), np.float32)
        y = np.zeros((sequences, length, self.outputs), np.float32)
        known = np.zeros((sequences, self.things, self.outputs), np.float32)
        rows = np.arange(sequences)
        for at in range(length):
            shown = random.permuted(np.tile(np.arange(self.things), (sequences, 1)), axis=1)
            order = random.permuted(np.tile(np.arange(self.tokens), (sequences, 1)), axis=1)
            for nth in range(self.tokens - 1):
                seen = rows[random.random(sequences) >= BLANK_SHARE]
                thing, token = shown[seen, nth], order[seen, nth]
                place = random.integers(0, 2, (len(seen), self.place_bits))
                frames[seen, at, token, 0] = 1
                frames[seen, at, token, 2 + thing] = 1
                frames[seen, at, token, 2 + self.things :] = place
                known[seen, thing, 0] = 1
                known[seen, thing, 1:] = place
            asked = random.integers(0, self.things, sequences)
            frames[rows, at, order[:, -1], 1] = 1
            frames[rows, at, order[:, -1], 2 + asked] = 1
            y[:, at] = known[rows, asked]
        return Episodes(x=frames, y=y, scored=np.ones(length, np.bool_))

    def varied(self, _random: np.random.Generator) -> Self:
        return self
