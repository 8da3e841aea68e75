"""Speakers: hear one of several known speakers without being told which, and write down what is said.

A speaker has a voice, `voice` numbers of -1 or 1, and an accent, `sounds` bits. A frame has the voice with noise,
which is too much for a single frame to tell the speakers apart, and the `sounds` bits of what is said, of which the
accent turns some round. What is said, with nothing turned round, is wanted at each step after the first `UNSCORED`.
Whoever does not know the speakers cannot say one bit of it. They are a memory of `speakers` rows, each a voice and an
accent (-1 or 1 for 0 or 1), that is known when the session opens: the state `speakers [N, voice + sounds]`.
L frames take T = L steps.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from ntm_models.tasks.episode import Episodes
from ntm_models.tasks.task import Seed, expect_sizes

# Of each number of a voice, in one frame.
NOISE = 1.2

# Until then nobody can know who speaks.
UNSCORED = 8


@dataclass(frozen=True)
class Speakers:
    """What is said by one of several speakers. Inputs I = voice + sounds, outputs O = sounds."""

    length_min: ClassVar[int] = UNSCORED + 1
    lengths_shown: ClassVar[tuple[int, ...]] = (16, 32, 100)
    length_means: ClassVar[str] = "frames"

    speakers: int = 8
    voice: int = 8
    sounds: int = 4

    @property
    def width(self) -> int:
        """Of a row of the memory, M."""
        return self.voice + self.sounds

    @property
    def inputs(self) -> int:
        return self.voice + self.sounds

    @property
    def outputs(self) -> int:
        return self.sounds

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        """Random utterances of `length` frames, each with speakers of its own. The same seed gives the same ones."""
        expect_sizes(self, length, sequences)
        random = np.random.default_rng(seed)
        # Every two voices of a session differ in two numbers or more: all but the last are unlike, it is their parity.
        voices = random.random((sequences, 2 ** (self.voice - 1))).argsort(axis=1)[:, : self.speakers, np.newaxis]
        numbers = voices >> np.arange(self.voice - 1) & 1
        accents = random.integers(0, 2, (sequences, self.speakers, self.sounds))
        memory = np.concatenate([numbers, numbers.sum(axis=2, keepdims=True) % 2, accents], axis=2) * 2 - 1
        speaking = memory[np.arange(sequences), random.integers(0, self.speakers, sequences)][:, np.newaxis]
        said = random.integers(0, 2, (sequences, length, self.sounds))
        voice = speaking[:, :, : self.voice] + random.normal(0, NOISE, (sequences, length, self.voice))
        heard = said ^ (speaking[:, :, self.voice :] > 0)
        return Episodes(
            x=np.concatenate([voice, heard], axis=2).astype(np.float32),
            y=said.astype(np.float32),
            scored=np.arange(length) >= UNSCORED,
            initial_state={"speakers": memory.astype(np.float32)},
        )

    def varied(self, _random: np.random.Generator) -> Self:
        return self
