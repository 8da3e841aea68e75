"""Episodes: what every task's generator returns and every scorer takes."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Episodes:
    """B sequences of T steps each, all of one length.

    x `[B, T, I]` are the inputs; y `[B, T, O]` the wanted outputs; scored `[T]` marks the steps whose
    outputs count.
    """

    x: FloatArray
    y: FloatArray
    scored: NDArray[np.bool_]

    def wrong_bits(self, outputs: FloatArray) -> NDArray[np.int64]:
        """Wrong bits of each sequence at threshold 0.5. outputs `[B, T, O]`; returns `[B]`.

        An output that is not a number counts as wrong.
        """
        if outputs.shape != self.y.shape:
            raise ValueError(f"outputs: expected shape {self.y.shape}, got {outputs.shape}")
        given = outputs[:, self.scored]
        wanted = self.y[:, self.scored] > 0.5
        right = np.where(wanted, given > 0.5, given <= 0.5)
        return np.asarray((~right).sum(axis=(1, 2)), dtype=np.int64)
