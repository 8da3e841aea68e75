"""What a task is: a seeded generator of episodes, and what of it a card shows.

Rules of this package: numpy alone; the same seed gives the same episodes; a task is a frozen value whose
fields are its sizes.
"""

from typing import ClassVar, Protocol, Self

import numpy as np

from ntm_models.tasks.episode import Episodes

# The name that every task's wanted outputs go by.
OUTPUT = "y"

Seed = int | tuple[int, ...]


class Task(Protocol):
    """A task. Its episodes of one length have the same number of steps T, and all the same dtypes and shapes of a step.

    What a step module must know of a task stands in attributes of the same names as the module's options: `inputs` and
    `outputs`, and of some tasks more, such as a `vocabulary`.

    What sessions are given when they open does not depend on the length. Where they are given something, an episode has
    at least as many steps as its length says.

    length_min: the shortest that there is. lengths_shown: those that a card tells the score of.
    length_means: what a length counts.
    """

    length_min: ClassVar[int]
    lengths_shown: ClassVar[tuple[int, ...]]
    length_means: ClassVar[str]

    @property
    def inputs(self) -> int:
        """Input channels, I; of words their number in a step."""

    @property
    def outputs(self) -> int:
        """Output channels or classes, O."""

    def episodes(self, *, length: int, sequences: int, seed: Seed) -> Episodes:
        """Random episodes of one length. Raises ValueError."""

    def varied(self, random: np.random.Generator) -> Self:
        """The task as one batch of a training has it: what a length leaves open is drawn."""


def tensors_of(task: Task) -> tuple[dict[str, str], dict[str, str]]:
    """The inputs that a step of this task has, and the output that is scored: dtypes and shapes by their names."""
    episodes = task.episodes(length=task.length_min, sequences=1, seed=0)
    inputs = {name: _described(array.dtype, array.shape[2:]) for name, array in episodes.inputs.items()}
    return inputs, {OUTPUT: _described(episodes.y.dtype, episodes.y.shape[2:])}


def _described(dtype: object, axes: tuple[int, ...]) -> str:
    return f"{dtype}[{', '.join(str(axis) for axis in axes)}]"


def expect_sizes(task: Task, length: int, sequences: int) -> None:
    """Raises ValueError where there are no such episodes."""
    if length < task.length_min or sequences < 1:
        raise ValueError(
            f"expected a length of at least {task.length_min} and sequences of at least 1, got {length} and {sequences}"
        )
