"""A recipe: everything that decides what a training run gives, read from one TOML file.

Rules of this file: no torch, so that recipes can be listed and read anywhere; the entries of `[model]`
belong to the family, which checks them where it builds the module.
"""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ntm_models.entries import record_of
from ntm_models.errors import RecipeFault
from ntm_models.families.registry import FAMILIES
from ntm_models.tasks import TASKS, Task

# Beside the package in a checkout; an installed wheel has none, and takes recipes by their paths.
RECIPES = Path(__file__).resolve().parents[1] / "recipes"
WEIGHTS = RECIPES.parent / "weights"

OPTIMISERS = ("adam", "rmsprop")


@dataclass(frozen=True)
class Training:
    """The loop: a learning rate that falls linearly to zero, gradients clipped by their global norm.

    optimiser: `adam` (Kingma and Ba 2015), or `rmsprop` in the form of Graves 2013 (arXiv:1308.0850, eq. 38 to
    45), centred and with momentum, which is what Graves et al. 2014 trained with. task: sizes of the task in
    training alone, by the names of its fields; what is scored has those of the paper.
    """

    steps: int
    batch: int
    length_min: int
    length_max: int
    learning_rate: float
    clip_norm: float
    optimiser: str = "adam"
    task: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.optimiser not in OPTIMISERS:
            raise ValueError(f"optimiser: expected one of {', '.join(OPTIMISERS)}, got {self.optimiser!r}")
        _expect_at_least_one(self, "steps", "batch", "length_min")
        if self.length_max < self.length_min:
            raise ValueError(f"length_max: expected at least length_min, {self.length_min}, got {self.length_max}")
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}: expected a number above 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class Selection:
    """The generalisation set: every `every` steps the weights are scored on it, and the best are kept.

    enough: the run ends early where the score, summed over the lengths, is no more than this; None is never.
    """

    every: int
    lengths: tuple[int, ...]
    sequences: int
    enough: float | None = None

    def __post_init__(self) -> None:
        _expect_at_least_one(self, "every", "sequences")
        if not self.lengths or min(self.lengths) < 1 or len(set(self.lengths)) < len(self.lengths):
            raise ValueError(f"lengths: expected different lengths of at least 1, got {list(self.lengths)}")


@dataclass(frozen=True)
class Claim:
    """What the trained model promises on fresh sequences of a length: `make zoo-check` holds it to that.

    score_max: the mean score of a sequence, in bits: the wrong ones, or of a task of chance those of cost beyond
    the optimum. exact_min: how many of 100 sequences have no wrong bit.
    """

    length: int
    score_max: float
    exact_min: int = 0

    def __post_init__(self) -> None:
        _expect_at_least_one(self, "length")
        if not 0 <= self.exact_min <= 100:
            raise ValueError(f"exact_min: expected 0 to 100, got {self.exact_min}")


@dataclass(frozen=True)
class Recipe:
    """One trained model: what it is, what it learns, and how.

    seeds: how many models are trained side by side, of seeds `seed`, `seed + 1` and so on; the best one is kept.
    start: the recipe of a model of the same sizes whose trained weights all of them start from; None is afresh.
    """

    name: str
    family: str
    task: str
    seed: int
    model: dict[str, Any]
    training: Training
    selection: Selection
    seeds: int = 1
    start: str | None = None
    claims: tuple[Claim, ...] = ()

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family: expected one of {', '.join(FAMILIES)}, got {self.family!r}")
        if self.task not in TASKS:
            raise ValueError(f"task: expected one of {', '.join(TASKS)}, got {self.task!r}")
        if self.seed < 0:
            raise ValueError(f"seed: expected at least 0, got {self.seed}")
        _expect_at_least_one(self, "seeds")
        shortest = TASKS[self.task].length_min
        lengths = {
            "training.length_min": self.training.length_min,
            "selection.lengths": min(self.selection.lengths),
            "claims.length": min((claim.length for claim in self.claims), default=shortest),
        }
        for name, length in lengths.items():
            if length < shortest:
                raise ValueError(f"{name}: expected at least {shortest}, the shortest {self.task}, got {length}")
        trained, scored = self.training_task_of(), self.task_of()
        if (trained.inputs, trained.outputs) != (scored.inputs, scored.outputs):
            raise ValueError(
                f"training.task: expected {scored.inputs} channels in and {scored.outputs} out, as the {self.task} "
                f"that is scored has, got {trained.inputs} and {trained.outputs}"
            )

    def task_of(self) -> Task:
        """The task with its default sizes: what is scored."""
        return TASKS[self.task]()

    def training_task_of(self) -> Task:
        """The task as the training has it. Raises ValueError."""
        return record_of(TASKS[self.task], self.training.task, at="training.task")


def find_recipe(name: str, folder: Path = RECIPES) -> Path:
    """A recipe's file: a path that ends in .toml as it is, anything else a name in `folder`. Raises RecipeFault."""
    if name.endswith(".toml"):
        return Path(name)
    known = {path.stem: path for path in recipe_files(folder)}
    if name not in known:
        expected = ", ".join(known) or f"a path that ends in .toml ({folder} holds none)"
        raise RecipeFault(f"recipe: expected one of {expected}, got {name!r}")
    return known[name]


def recipe_files(folder: Path = RECIPES) -> list[Path]:
    """The recipes of a folder, by name."""
    return sorted(folder.glob("*.toml"))


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe. Raises RecipeFault."""
    try:
        return parse_recipe(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as fault:
        raise RecipeFault(f"{path}: cannot be read: {fault.strerror}") from fault
    except ValueError as fault:  # Not UTF-8 and not TOML are ValueErrors too.
        raise RecipeFault(f"{path}: {fault}") from fault


def parse_recipe(entries: dict[str, Any]) -> Recipe:
    """A recipe from its entries. Raises ValueError."""
    return record_of(Recipe, entries)


def _expect_at_least_one(record: object, *names: str) -> None:
    for name in names:
        if getattr(record, name) < 1:
            raise ValueError(f"{name}: expected at least 1, got {getattr(record, name)}")
