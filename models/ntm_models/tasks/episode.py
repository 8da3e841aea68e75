"""Episodes: what every task's generator returns and every scorer takes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

# A probability is counted as no nearer to 0 or 1 than float32 can tell it from them: no cost is infinite.
PROBABILITY_MIN = 2.0**-24


@dataclass(frozen=True)
class Episodes:
    """B sequences of T steps each, all of one length.

    x `[B, T, ...]` is the input, of any dtype and shape, and others `[B, T, ...]` are those beside it, by name; y
    `[B, T, O]` the wanted outputs; scored `[T]` marks the steps whose outputs count, or `[B, T]` where that differs
    from sequence to sequence. optimal `[B, T, O]` are the best outputs that anybody could give, where y is drawn
    by chance; None where y can be known.

    classes: the O outputs of a step are one answer, the probabilities of O classes, and its y is 1 at the right one
    and 0 elsewhere. Otherwise each output is a bit of its own.

    initial_state: what each session is given when it opens, in place of the model's own, `[B, ...]` by the names of
    state tensors.
    """

    x: NDArray[Any]
    y: FloatArray
    scored: NDArray[np.bool_]
    optimal: FloatArray | None = None
    classes: bool = False
    others: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    initial_state: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def inputs(self) -> dict[str, NDArray[Any]]:
        """Every input by its name, `[B, T, ...]`."""
        return {"x": self.x, **self.others}

    @property
    def steps(self) -> int:
        """T."""
        return int(self.x.shape[1])

    @property
    def unit(self) -> str:
        """What a score counts: wrong bits, or wrong answers."""
        return "answers" if self.classes else "bits"

    def score(self, outputs: FloatArray) -> NDArray[np.float64]:
        """What should be small, of each sequence: the wrong bits or answers, or where y is drawn by chance the bits
        of cost beyond that of the optimal outputs. outputs `[B, T, O]`; returns `[B]`.
        """
        if self.optimal is None:
            return self.wrong(outputs).astype(np.float64)
        return self.cost_bits(outputs) - self.cost_bits(self.optimal)

    def wrong(self, outputs: FloatArray) -> NDArray[np.int64]:
        """Wrong bits, or of classes wrong answers, of each sequence. outputs `[B, T, O]`; returns `[B]`."""
        if not self.classes:
            return self.wrong_bits(outputs)
        self._expect_shape(outputs)
        # What is not a number is no answer; of equals none is the highest.
        given = np.where(np.isnan(outputs), -np.inf, outputs)
        right_one = np.where(self.y > 0.5, given, -np.inf).max(axis=2)
        others = np.where(self.y > 0.5, -np.inf, given).max(axis=2)
        wrong = ~(right_one > others) & self._counted()
        return np.asarray(wrong.sum(axis=1), dtype=np.int64)

    def undecided(self, outputs: FloatArray, within: float) -> NDArray[np.int64]:
        """How many bits or answers of each sequence lie so near to the threshold that another program's last digits
        may turn them. outputs `[B, T, O]`; returns `[B]`.
        """
        self._expect_shape(outputs)
        if self.classes:
            first = np.sort(outputs, axis=2)
            near = (first[:, :, -1] - first[:, :, -2] <= within)[:, :, np.newaxis]
        else:
            near = np.abs(outputs - 0.5) <= within
        return np.asarray((near & self._counted()[:, :, np.newaxis]).sum(axis=(1, 2)), dtype=np.int64)

    def wrong_bits(self, outputs: FloatArray) -> NDArray[np.int64]:
        """Wrong bits of each sequence at threshold 0.5. outputs `[B, T, O]`; returns `[B]`.

        An output that is not a number counts as wrong.
        """
        self._expect_shape(outputs)
        right = np.where(self.y > 0.5, outputs > 0.5, outputs <= 0.5)
        return np.asarray((~right & self._counted()[:, :, np.newaxis]).sum(axis=(1, 2)), dtype=np.int64)

    def cost_bits(self, outputs: FloatArray) -> NDArray[np.float64]:
        """Bits that it takes to tell each sequence's y to whoever has the outputs: the sum of -log2 of the
        probabilities that they gave it. outputs `[B, T, O]`; returns `[B]`.

        An output that is not a number costs as much as one that was as wrong as can be.
        """
        self._expect_shape(outputs)
        given = outputs.astype(np.float64)
        wanted = self.y > 0.5
        probability = np.where(wanted, given, 1.0 if self.classes else 1 - given)
        probability = np.where(np.isnan(probability), 0, probability)
        bits = -np.log2(np.clip(probability, PROBABILITY_MIN, 1))
        return np.asarray((bits * self._counted()[:, :, np.newaxis]).sum(axis=(1, 2)), dtype=np.float64)

    def _counted(self) -> NDArray[np.bool_]:
        """Which steps count, `[B, T]`."""
        return np.broadcast_to(self.scored, self.y.shape[:2])

    def _expect_shape(self, outputs: FloatArray) -> None:
        if outputs.shape != self.y.shape:
            raise ValueError(f"outputs: expected shape {self.y.shape}, got {outputs.shape}")
