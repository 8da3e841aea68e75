"""Episodes: what every task's generator returns and every scorer takes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

# A probability is counted as no nearer to 0 or 1 than float32 can tell it from them: no cost is infinite.
PROBABILITY_MIN = 2.0**-24


@dataclass(frozen=True)
class Episodes:
    """B sequences of T steps each, all of one length.

    x `[B, T, I]` are the inputs; y `[B, T, O]` the wanted outputs; scored `[T]` marks the steps whose
    outputs count. optimal `[B, T, O]` are the best outputs that anybody could give, where y is drawn
    by chance; None where y can be known.
    """

    x: FloatArray
    y: FloatArray
    scored: NDArray[np.bool_]
    optimal: FloatArray | None = None

    def score(self, outputs: FloatArray) -> NDArray[np.float64]:
        """What should be small, of each sequence, in bits: the wrong ones, or where y is drawn by chance the
        cost beyond that of the optimal outputs. outputs `[B, T, O]`; returns `[B]`.
        """
        if self.optimal is None:
            return self.wrong_bits(outputs).astype(np.float64)
        return self.cost_bits(outputs) - self.cost_bits(self.optimal)

    def wrong_bits(self, outputs: FloatArray) -> NDArray[np.int64]:
        """Wrong bits of each sequence at threshold 0.5. outputs `[B, T, O]`; returns `[B]`.

        An output that is not a number counts as wrong.
        """
        self._expect_shape(outputs)
        given = outputs[:, self.scored]
        wanted = self.y[:, self.scored] > 0.5
        right = np.where(wanted, given > 0.5, given <= 0.5)
        return np.asarray((~right).sum(axis=(1, 2)), dtype=np.int64)

    def cost_bits(self, outputs: FloatArray) -> NDArray[np.float64]:
        """Bits that it takes to tell each sequence's y to whoever has the outputs: the sum of -log2 of the
        probabilities that they gave it. outputs `[B, T, O]`; returns `[B]`.

        An output that is not a number costs as much as one that was as wrong as can be.
        """
        self._expect_shape(outputs)
        given = outputs[:, self.scored].astype(np.float64)
        probability = np.where(self.y[:, self.scored] > 0.5, given, 1 - given)
        probability = np.where(np.isnan(probability), 0, probability)
        bits = -np.log2(np.clip(probability, PROBABILITY_MIN, 1))
        return np.asarray(bits.sum(axis=(1, 2)), dtype=np.float64)

    def _expect_shape(self, outputs: FloatArray) -> None:
        if outputs.shape != self.y.shape:
            raise ValueError(f"outputs: expected shape {self.y.shape}, got {outputs.shape}")
