"""The repeat copy task (Graves et al. 2014, section 4.2): see a sequence and a number, give it back so often.

Channels in: `bits` data channels, one that is 1 at the delimiter, one that holds the number of repeats at the
delimiter, scaled to mean 0 and variance 1 over 1 to 10. Channels out: `bits`, then the end marker. L vectors
and R repeats take T = L + 1 + L R + 1 steps: the vectors, the delimiter, R copies, and the end marker alone.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from ntm_models.tasks.episode import Episodes
from ntm_models.tasks.task import Seed, expect_sizes

# Of a number drawn evenly from 1 to 10, as in the paper: a scale of its own, whatever a model was trained on.
REPEATS_MEAN, REPEATS_DEVIATION = 5.5, 8.25**0.5


@dataclass(frozen=True)
class RepeatCopy:
    """Copies of `bits`-bit vectors, `repeats` times. Inputs I = bits + 2, outputs O = bits + 1.

    A training draws the repeats of each batch from `repeats_min` to `repeats`; or where they are mixed, those of each
    sequence: it is scored up to its own end marker, and blank from there to where `repeats` would end. What tells the
    ninth repeat from the tenth is then in one batch, not in the drift from one to the next.
    """

    length_min: ClassVar[int] = 1
    lengths_shown: ClassVar[tuple[int, ...]] = (5, 10, 15, 20)
    length_means: ClassVar[str] = "vectors, ten times"

    bits: int = 8
    repeats: int = 10
    repeats_min: int = 1
    mixed: bool = False

    def __post_init__(self) -> None:
        for name in ("repeats", "repeats_min"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")

    @property
    def inputs(self) -> int:
        return self.bits + 2

    @property
    def outputs(self) -> int:
        return self.bits + 1

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        """Random sequences of one length, all with the task's repeats or each with its own. The same seed gives the
        same sequences.
        """
        expect_sizes(self, length, sequences)
        random = np.random.default_rng(seed)
        vectors = random.integers(0, 2, (sequences, length, self.bits)).astype(np.float32)
        repeats = np.full(sequences, self.repeats)
        if self.mixed:
            repeats = random.integers(self._fewest, self.repeats + 1, sequences)
        ends = length + 1 + length * repeats
        steps = length + 1 + length * self.repeats + 1
        at = np.arange(steps)
        x = np.zeros((sequences, steps, self.inputs), np.float32)
        x[:, :length, : self.bits] = vectors
        x[:, length, self.bits] = 1
        x[:, length, self.bits + 1] = (repeats - REPEATS_MEAN) / REPEATS_DEVIATION
        y = np.zeros((sequences, steps, self.outputs), np.float32)
        y[:, length + 1 : -1, : self.bits] = np.tile(vectors, (1, self.repeats, 1))
        y[at >= ends[:, np.newaxis]] = 0
        y[at == ends[:, np.newaxis], self.bits] = 1
        scored = (at > length) & (at <= ends[:, np.newaxis])
        return Episodes(x=x, y=y, scored=scored if self.mixed else scored[0])

    def varied(self, random: np.random.Generator) -> Self:
        return self if self.mixed else replace(self, repeats=int(random.integers(self._fewest, self.repeats + 1)))

    @property
    def _fewest(self) -> int:
        return min(self.repeats_min, self.repeats)
