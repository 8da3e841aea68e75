"""Few-shot labels (the task of Santoro et al. 2016, section 2, on classes that are drawn anew).

A session has `outputs` classes, each a random pattern of `inputs` signs that nobody has seen before. A step shows an
example of one, its pattern with noise, and the label of the example before: what a label means is known to the session
alone, and the label of an x only after x was answered. Wanted is the class of x, wherever that class was shown before
and its label has come. A length of n shows each class n times, in random order: T = `outputs` n steps.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from ntm_models.tasks.episode import Episodes
from ntm_models.tasks.task import Seed, expect_sizes

# Of the label where there is none: before the first example.
NO_LABEL = -1


@dataclass(frozen=True)
class FewShotLabels:
    """Classes of a session. Inputs x `[I]` and label, an integer; outputs O = classes. noise: its deviation."""

    length_min: ClassVar[int] = 2
    lengths_shown: ClassVar[tuple[int, ...]] = (2, 4, 6, 10)
    length_means: ClassVar[str] = "examples of each class"

    inputs: int = 12
    outputs: int = 3
    noise: float = 0.2

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        """Random sessions of `length` examples of each class. The same seed gives the same sessions."""
        expect_sizes(self, length, sequences)
        random = np.random.default_rng(seed)
        patterns = random.choice([-1.0, 1.0], (sequences, self.outputs, self.inputs))
        shown = np.tile(np.repeat(np.arange(self.outputs), length), (sequences, 1))
        shown = random.permuted(shown, axis=1)
        rows = np.arange(sequences)[:, np.newaxis]
        x = patterns[rows, shown] + random.normal(0, self.noise, (*shown.shape, self.inputs))
        before = np.concatenate([np.full((sequences, 1), NO_LABEL), shown[:, :-1]], axis=1)
        y = np.eye(self.outputs, dtype=np.float32)[shown]
        earlier = np.cumsum(y, axis=1) - y
        return Episodes(
            x=x.astype(np.float32),
            y=y,
            scored=np.take_along_axis(earlier, shown[:, :, np.newaxis], axis=2)[:, :, 0] > 0,
            classes=True,
            others={"label": before.astype(np.int64)},
        )

    def varied(self, _random: np.random.Generator) -> Self:
        return self
