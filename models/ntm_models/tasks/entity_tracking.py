"""Entity tracking: a world of actors who go from place to place, alone or in pairs, and questions where one of them is.

A step has a statement, "A went to P" or "A and B went to P" with one of several verbs, and a question, "where is C?",
of somebody whom the statement does not name but an earlier one did: what is told in a step answers nothing in it. It is
the world of the first stories of Weston et al. 2015 (arXiv:1502.05698). Words are numbers, 0 is none. A length of n is
n statements, T = n; with nobody to ask for, as at first, there is no question and nothing is scored.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from ntm_models.tasks.episode import Episodes
from ntm_models.tasks.task import Seed, expect_sizes


@dataclass(frozen=True)
class EntityTracking:
    """Actors and places. Inputs x, the words of a statement `[4]`, and question `[2]`; outputs O = places."""

    length_min: ClassVar[int] = 3
    lengths_shown: ClassVar[tuple[int, ...]] = (10, 20, 50, 100)
    length_means: ClassVar[str] = "statements"

    actors: int = 5
    places: int = 6
    verbs: int = 3
    pairs_share: float = 0.3

    @property
    def inputs(self) -> int:
        return 4

    @property
    def asked(self) -> int:
        return 2

    @property
    def outputs(self) -> int:
        return self.places

    @property
    def vocabulary(self) -> int:
        return 2 + self.actors + self.places + self.verbs

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        """Random stories of `length` statements. The same seed gives the same stories."""
        expect_sizes(self, length, sequences)
        random = np.random.default_rng(seed)
        where = 1  # The word "where"; then actors, places and verbs.
        actor, place = where + 1, where + 1 + self.actors
        verb = place + self.places
        x = np.zeros((sequences, length, self.inputs), np.int64)
        question = np.zeros((sequences, length, self.asked), np.int64)
        y = np.zeros((sequences, length, self.places), np.float32)
        stands_at = np.full((sequences, self.actors), -1)
        rows = np.arange(sequences)
        first = np.zeros(sequences, np.int64)
        for at in range(length):
            who = random.permuted(np.tile(np.arange(self.actors), (sequences, 1)), axis=1)[:, :2]
            paired = random.random(sequences) < self.pairs_share
            if at == 1:  # Somebody new goes alone, so that there is somebody to ask for from here on.
                who[:, 0] = (first + random.integers(1, self.actors, sequences)) % self.actors
                paired[:] = False
            first = who[:, 0]
            to = random.integers(0, self.places, sequences)
            x[:, at, 0] = actor + who[:, 0]
            x[:, at, 1] = np.where(paired, actor + who[:, 1], 0)
            x[:, at, 2] = verb + random.integers(0, self.verbs, sequences)
            x[:, at, 3] = place + to
            stands_at[rows, who[:, 0]] = to
            stands_at[rows[paired], who[paired, 1]] = to[paired]
            # Of those that can be asked for, the one with the largest of random numbers.
            askable = stands_at >= 0
            askable[rows, who[:, 0]] = False
            askable[rows[paired], who[paired, 1]] = False
            asked = np.where(askable, random.random(askable.shape), -1).argmax(axis=1)
            some = askable.any(axis=1)
            question[some, at] = np.stack([np.full(sequences, where), actor + asked], axis=1)[some]
            y[rows[some], at, stands_at[rows, asked][some]] = 1
        return Episodes(
            x=x, y=y, scored=np.asarray(y.any(axis=2), np.bool_), classes=True, others={"question": question}
        )

    def varied(self, _random: np.random.Generator) -> Self:
        return self
