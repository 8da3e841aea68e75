"""The tasks as other programs encode them: their trained weights know no other encoding.

What is asked is the same; markers, their channels and the channels out differ. Each class says how.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ntm_models.tasks.associative_recall import AssociativeRecall
from ntm_models.tasks.copy import Copy
from ntm_models.tasks.episode import Episodes
from ntm_models.tasks.repeat_copy import RepeatCopy
from ntm_models.tasks.task import Seed, expect_sizes


@dataclass(frozen=True)
class EndedCopy(Copy):
    """Copy, then an end marker is wanted on a channel of its own. Inputs I = outputs O = bits + 1; T = 2 L + 2."""

    lengths_shown: ClassVar[tuple[int, ...]] = (5, 10, 20, 60, 120)

    @property
    def outputs(self) -> int:
        return self.bits + 1

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        plain = super().episodes(length=length, sequences=sequences, seed=seed)
        y = np.pad(plain.y, ((0, 0), (0, 1), (0, 1)))
        y[:, -1, self.bits] = 1
        return Episodes(
            x=np.pad(plain.x, ((0, 0), (0, 1), (0, 0))), y=y, scored=np.pad(plain.scored, (0, 1), mode="edge")
        )


@dataclass(frozen=True)
class StartedCopy(Copy):
    """Copy with a start marker before it. Inputs I = bits + 2: data, start, delimiter; T = 2 L + 2."""

    lengths_shown: ClassVar[tuple[int, ...]] = (20, 60, 120)

    @property
    def inputs(self) -> int:
        return self.bits + 2

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        plain = super().episodes(length=length, sequences=sequences, seed=seed)
        x = np.pad(plain.x, ((0, 0), (1, 0), (0, 0)))
        x[:, :, [self.bits, self.bits + 1]] = x[:, :, [self.bits + 1, self.bits]]
        x[:, 0, self.bits] = 1
        return Episodes(x=x, y=np.pad(plain.y, ((0, 0), (1, 0), (0, 0))), scored=np.pad(plain.scored, (1, 0)))


@dataclass(frozen=True)
class MarkersFirstCopy(StartedCopy):
    """As `StartedCopy`, but the markers are the first two channels, and the outputs have them too, always 0.

    Inputs I = outputs O = bits + 2.
    """

    lengths_shown: ClassVar[tuple[int, ...]] = (10, 20, 30)

    @property
    def outputs(self) -> int:
        return self.bits + 2

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        last = super().episodes(length=length, sequences=sequences, seed=seed)
        return Episodes(x=np.roll(last.x, 2, axis=2), y=np.pad(last.y, ((0, 0), (0, 0), (2, 0))), scored=last.scored)


@dataclass(frozen=True)
class WideCopy(Copy):
    """Copy whose outputs have the delimiter's channel too, always 0. Inputs I = outputs O = bits + 1."""

    lengths_shown: ClassVar[tuple[int, ...]] = (5, 10)

    bits: int = 5

    @property
    def outputs(self) -> int:
        return self.bits + 1

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        plain = super().episodes(length=length, sequences=sequences, seed=seed)
        return Episodes(x=plain.x, y=np.pad(plain.y, ((0, 0), (0, 0), (0, 1))), scored=plain.scored)


@dataclass(frozen=True)
class CopySeries(WideCopy):
    """Copies one after another in one session, each as `WideCopy` has it: T = `rounds` (2 L + 1)."""

    lengths_shown: ClassVar[tuple[int, ...]] = (5,)
    length_means: ClassVar[str] = "vectors, four times new"

    rounds: int = 4

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        expect_sizes(self, length, sequences)
        many = super().episodes(length=length, sequences=sequences * self.rounds, seed=seed)
        return Episodes(
            x=many.x.reshape(sequences, -1, self.inputs),
            y=many.y.reshape(sequences, -1, self.outputs),
            scored=np.tile(many.scored, self.rounds),
        )


@dataclass(frozen=True)
class UnaryRepeatCopy(RepeatCopy):
    """Repeat copy that is told the number of repeats by as many ones, and wants no end marker.

    Channels: data, one that is 1 for R steps after the vectors, the delimiter after those; the outputs have the
    last two as well, always 0. Inputs I = outputs O = bits + 2, T = L + R + 1 + L R.
    """

    lengths_shown: ClassVar[tuple[int, ...]] = (5, 10)
    length_means: ClassVar[str] = "vectors, five times"

    repeats: int = 5

    @property
    def outputs(self) -> int:
        return self.bits + 2

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        expect_sizes(self, length, sequences)
        random = np.random.default_rng(seed)
        vectors = random.integers(0, 2, (sequences, length, self.bits)).astype(np.float32)
        delimiter = length + self.repeats
        steps = delimiter + 1 + length * self.repeats
        x = np.zeros((sequences, steps, self.inputs), np.float32)
        x[:, :length, : self.bits] = vectors
        x[:, length:delimiter, self.bits] = 1
        x[:, delimiter, self.bits + 1] = 1
        y = np.zeros((sequences, steps, self.outputs), np.float32)
        y[:, delimiter + 1 :, : self.bits] = np.tile(vectors, (1, self.repeats, 1))
        return Episodes(x=x, y=y, scored=np.arange(steps) > delimiter)


@dataclass(frozen=True)
class WideAssociativeRecall(AssociativeRecall):
    """Associative recall whose outputs have the delimiters' channels too, always 0. Inputs I = outputs O = bits + 2."""

    lengths_shown: ClassVar[tuple[int, ...]] = (2, 6, 10, 20)

    bits: int = 8

    @property
    def outputs(self) -> int:
        return self.bits + 2

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        plain = super().episodes(length=length, sequences=sequences, seed=seed)
        return Episodes(x=plain.x, y=np.pad(plain.y, ((0, 0), (0, 0), (0, 2))), scored=plain.scored)
