"""Copy with re-use of memory (Graves et al. 2016, Methods, "Dynamic memory allocation"): one copy after another.

A session is a series of copies, and nothing starts anew between them. Each is as the copy task has it: L vectors of
`bits` bits, the delimiter, and L blank steps during which the copy is wanted. A memory has to let go of what was given
back: all vectors together are more than it has slots. No vector is all zeros: a controller that keeps nothing could not
tell it from a blank step.

A length counts the copies. C copies of L vectors take T = C (2 L + 1) steps.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from ntm_models.tasks.episode import Episodes
from ntm_models.tasks.task import Seed, expect_sizes


@dataclass(frozen=True)
class CopyReuse:
    """Copies of `vectors` vectors of `bits` bits, one after another. Inputs I = bits + 1, outputs O = bits.

    A training draws the vectors of each batch from 1 to `vectors`.
    """

    length_min: ClassVar[int] = 1
    lengths_shown: ClassVar[tuple[int, ...]] = (1, 4, 10, 40, 100)
    length_means: ClassVar[str] = "copies of five vectors in one session"

    bits: int = 8
    vectors: int = 5

    def __post_init__(self) -> None:
        if self.vectors < 1:
            raise ValueError(f"vectors: expected at least 1, got {self.vectors}")

    @property
    def inputs(self) -> int:
        return self.bits + 1

    @property
    def outputs(self) -> int:
        return self.bits

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        """Random sessions of `length` copies, all of the task's vectors. The same seed gives the same sequences."""
        expect_sizes(self, length, sequences)
        random = np.random.default_rng(seed)
        numbers = random.integers(1, 2**self.bits, (sequences, length, self.vectors, 1))
        vectors = (numbers >> np.arange(self.bits) & 1).astype(np.float32)
        steps = 2 * self.vectors + 1
        x = np.zeros((sequences, length, steps, self.inputs), np.float32)
        x[:, :, : self.vectors, : self.bits] = vectors
        x[:, :, self.vectors, self.bits] = 1
        y = np.zeros((sequences, length, steps, self.bits), np.float32)
        y[:, :, self.vectors + 1 :] = vectors
        return Episodes(
            x=x.reshape(sequences, -1, self.inputs),
            y=y.reshape(sequences, -1, self.outputs),
            scored=np.tile(np.arange(steps) > self.vectors, length),
        )

    def varied(self, random: np.random.Generator) -> Self:
        return replace(self, vectors=int(random.integers(1, self.vectors + 1)))
