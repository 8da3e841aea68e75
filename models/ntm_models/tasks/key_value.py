"""A store of keys and values: told which value a key has, now and then again with another value, and asked for one.

Channels: 1 at a step that tells, 1 at a step that asks, `key_bits` of the key, `bits` of the value, which are 0 where a
key is asked for. Wanted at a step that asks is the value that the key was told last. A session has `keys` keys of its
own. A length of n takes T = n steps, the first of which tells and the second of which asks.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from ntm_models.tasks.episode import Episodes
from ntm_models.tasks.task import Seed, expect_sizes


@dataclass(frozen=True)
class KeyValueStore:
    """Values of `bits` bits. Inputs I = 2 + key_bits + bits, outputs O = bits."""

    length_min: ClassVar[int] = 2
    lengths_shown: ClassVar[tuple[int, ...]] = (10, 20, 50, 100)
    length_means: ClassVar[str] = "steps that tell or ask"

    bits: int = 4
    key_bits: int = 4
    keys: int = 4

    @property
    def inputs(self) -> int:
        return 2 + self.key_bits + self.bits

    @property
    def outputs(self) -> int:
        return self.bits

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        """Random sessions of `length` steps. The same seed gives the same sessions."""
        expect_sizes(self, length, sequences)
        random = np.random.default_rng(seed)
        rows = np.arange(sequences)
        all_keys = np.tile(np.arange(2**self.key_bits), (sequences, 1))
        of_session = random.permuted(all_keys, axis=1)[:, : self.keys]
        key_patterns = (of_session[:, :, np.newaxis] >> np.arange(self.key_bits)) & 1
        asks = random.random((sequences, length)) < 0.5
        asks[:, 0], asks[:, 1] = False, True
        x = np.zeros((sequences, length, self.inputs), np.float32)
        y = np.zeros((sequences, length, self.bits), np.float32)
        told = np.zeros((sequences, self.keys), np.bool_)
        values = np.zeros((sequences, self.keys, self.bits), np.float32)
        for at in range(length):
            # Any key may be told, and one that was told may be asked for.
            allowed = told | ~asks[:, at, np.newaxis]
            key = np.where(allowed, random.random(allowed.shape), -1).argmax(axis=1)
            telling, asking = rows[~asks[:, at]], rows[asks[:, at]]
            values[telling, key[telling]] = random.integers(0, 2, (len(telling), self.bits))
            told[telling, key[telling]] = True
            x[telling, at, 0], x[asking, at, 1] = 1, 1
            x[:, at, 2 : 2 + self.key_bits] = key_patterns[rows, key]
            x[telling, at, 2 + self.key_bits :] = values[telling, key[telling]]
            y[asking, at] = values[asking, key[asking]]
        return Episodes(x=x, y=y, scored=asks)

    def varied(self, _random: np.random.Generator) -> Self:
        return self
