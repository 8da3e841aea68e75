"""The reversal task (Grefenstette et al. 2015, arXiv:1506.02516): see a sequence of random bits, then give it back from
its end. Channels and steps are those of the copy task; a memory that can go back gives it at once.
"""

from dataclasses import dataclass
from typing import ClassVar

from ntm_models.tasks.copy import Copy
from ntm_models.tasks.episode import Episodes
from ntm_models.tasks.task import Seed


@dataclass(frozen=True)
class Reversal(Copy):
    """Reversal of `bits`-bit vectors. Inputs I = bits + 1, outputs O = bits; T = 2 L + 1."""

    lengths_shown: ClassVar[tuple[int, ...]] = (5, 8, 10, 12, 20)

    bits: int = 6

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        plain = super().episodes(length=length, sequences=sequences, seed=seed)
        y = plain.y.copy()
        y[:, length + 1 :] = plain.y[:, :length:-1]
        return Episodes(x=plain.x, y=y, scored=plain.scored)
