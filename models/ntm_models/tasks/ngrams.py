"""The dynamic N-grams task (Graves et al. 2014, section 4.4): predict the next bit of a source that is new each time.

A source is a table: for each of the 2 ** context words of `context` bits the probability that a 1 follows, drawn
from Beta(1/2, 1/2) for each sequence. One channel in, the bit of this step; one out, the probability that the
next one is 1. L bits take T = L - 1 steps; the first `context` bits are fair, and no prediction of them counts.
"""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ntm_models.tasks.episode import Episodes, FloatArray
from ntm_models.tasks.task import Seed, expect_sizes

CONTEXT = 5


@dataclass(frozen=True)
class DynamicNGrams:
    """Bits of a source with 5 bits of context: a 6-gram source. Inputs I = 1, outputs O = 1.

    context: how many of them, the last ones, the source heeds. The optimal estimator does not know it.
    context_min: a training draws it for each batch, from so many to `context`.
    """

    length_min: ClassVar[int] = CONTEXT + 1
    lengths_shown: ClassVar[tuple[int, ...]] = (50, 100, 200)
    length_means: ClassVar[str] = "bits"

    context: int = CONTEXT
    context_min: int = CONTEXT

    def __post_init__(self) -> None:
        for name in ("context", "context_min"):
            if not 0 <= getattr(self, name) <= CONTEXT:
                raise ValueError(f"{name}: expected 0 to {CONTEXT}, got {getattr(self, name)}")

    @property
    def inputs(self) -> int:
        return 1

    @property
    def outputs(self) -> int:
        return 1

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        """Sequences of `length` bits, each of its own source. The same seed gives the same sequences."""
        expect_sizes(self, length, sequences)
        random = np.random.default_rng(seed)
        tables = np.tile(random.beta(0.5, 0.5, (sequences, 2**self.context)), 2 ** (CONTEXT - self.context))
        chances = random.random((sequences, length))
        bits = np.zeros((sequences, length), np.int64)
        bits[:, :CONTEXT] = chances[:, :CONTEXT] < 0.5
        rows = np.arange(sequences)
        for at in range(CONTEXT, length):
            bits[:, at] = chances[:, at] < tables[rows, _words(bits[:, at - CONTEXT : at])]
        x = bits[:, :-1, np.newaxis].astype(np.float32)
        return Episodes(
            x=x,
            y=bits[:, 1:, np.newaxis].astype(np.float32),
            scored=np.arange(length - 1) >= CONTEXT - 1,
            optimal=optimal_estimates(x),
        )

    def varied(self, random: np.random.Generator) -> Self:
        if self.context_min >= self.context:
            return self
        return replace(self, context=int(random.integers(self.context_min, self.context + 1)))


def optimal_estimates(x: FloatArray) -> FloatArray:
    """The Bayesian estimate of each next bit, (N1 + 1/2) / (N1 + N0 + 1), eq. 10; N1 and N0 count the ones and
    zeros that followed the same context in the same sequence so far. x `[B, T, 1]`; returns `[B, T, 1]`, one
    half where there is no context yet.
    """
    bits = x[:, :, 0].astype(np.int64)
    sequences, steps = bits.shape
    rows = np.arange(sequences)
    counts = np.zeros((sequences, 2**CONTEXT, 2))
    estimates = np.full((sequences, steps, 1), 0.5, np.float32)
    for at in range(CONTEXT - 1, steps):
        if at >= CONTEXT:
            counts[rows, _words(bits[:, at - CONTEXT : at]), bits[:, at]] += 1
        seen = counts[rows, _words(bits[:, at - CONTEXT + 1 : at + 1])]
        estimates[:, at, 0] = (seen[:, 1] + 0.5) / (seen.sum(axis=1) + 1)
    return estimates


def _words(bits: NDArray[np.int64]) -> NDArray[np.int64]:
    """The number of each context `[B, 5]`, its first bit the highest; returns `[B]`."""
    return np.asarray(bits @ (1 << np.arange(CONTEXT - 1, -1, -1)), dtype=np.int64)
