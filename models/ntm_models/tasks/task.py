"""What a task is: a seeded generator of episodes, and what of it a card shows.

Rules of this package: numpy alone; the same seed gives the same episodes; a task is a frozen value whose
fields are its sizes.
"""

from typing import ClassVar, Protocol, Self

import numpy as np

from ntm_models.tasks.episode import Episodes

Seed = int | tuple[int, ...]


class Task(Protocol):
    """A task. Its episodes of one length have the same number of steps T.

    length_min: the shortest that there is. lengths_shown: those that a card tells the score of.
    length_means: what a length counts.
    """

    length_min: ClassVar[int]
    lengths_shown: ClassVar[tuple[int, ...]]
    length_means: ClassVar[str]

    @property
    def inputs(self) -> int:
        """Input channels, I."""

    @property
    def outputs(self) -> int:
        """Output channels, O."""

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        """Random episodes of one length. Raises ValueError."""

    def varied(self, random: np.random.Generator) -> Self:
        """The task as one batch of a training has it: what a length leaves open is drawn."""


def expect_sizes(task: Task, length: int, sequences: int) -> None:
    """Raises ValueError where there are no such episodes."""
    if length < task.length_min or sequences < 1:
        raise ValueError(
            f"expected a length of at least {task.length_min} and sequences of at least 1, got {length} and {sequences}"
        )
