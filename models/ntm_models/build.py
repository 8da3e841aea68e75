"""From a recipe to its torch module, and from a file of weights to a trained one."""

from dataclasses import fields
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from ntm_models.entries import record_of
from ntm_models.errors import RecipeFault
from ntm_models.families.registry import FAMILIES
from ntm_models.ntm import NTM
from ntm_models.recipe import WEIGHTS, Recipe
from ntm_models.trainable import TrainableStep

FIRST_WEIGHTINGS = "first_weightings"


def step_kind(family: str) -> type[TrainableStep]:
    """The step class of a family; its module is loaded now and no other family's."""
    module, _, name = FAMILIES[family].partition(":")
    kind: type[TrainableStep] = getattr(import_module(module), name)
    return kind


def build_step(recipe: Recipe) -> TrainableStep:
    """The recipe's step module with fresh weights, drawn from the recipe's seed. Raises RecipeFault."""
    kind, task = step_kind(recipe.family), recipe.task_of()
    options = kind.options_kind
    sizes = {one.name: getattr(task, one.name) for one in fields(options) if hasattr(task, one.name)}
    # The caller's random numbers go on as if nothing had been drawn here.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        try:
            if given := sorted(sizes.keys() & recipe.model.keys()):
                raise ValueError(
                    f"model.{given[0]}: the task decides it; expected nothing, got {recipe.model[given[0]]!r}"
                )
            return kind(record_of(options, {**recipe.model, **sizes}, at="model"))
        except ValueError as fault:
            raise RecipeFault(f"recipe {recipe.name}: {fault}") from fault


def first_step(recipe: Recipe, weights: Path = WEIGHTS) -> TrainableStep:
    """The module as a training starts with it: fresh, or where the recipe says so with the weights of another
    recipe, which are in the folder `weights`. Raises RecipeFault.

    A memory may grow: no weight but the first weightings knows how many slots there are.
    """
    step = build_step(recipe)
    if recipe.start is None:
        return step
    path = weights / f"{recipe.start}.pt"
    try:
        step.load_state_dict(_grown(torch.load(path, weights_only=True, map_location="cpu"), step))
    except OSError as fault:
        raise RecipeFault(f"recipe {recipe.name}: start: {path} cannot be read: {fault.strerror}") from fault
    except RuntimeError as fault:  # What load_state_dict raises for other names or shapes.
        raise RecipeFault(f"recipe {recipe.name}: start: {path} has weights of other sizes: {fault}") from fault
    return step


def free_sizes(recipe: Recipe) -> frozenset[str]:
    """The sizes of the recipe's model that no weight knows, so that they can be other ones where it is served."""
    return frozenset(name for names in step_kind(recipe.family).axes.values() for name in names if name)


def load_step(recipe: Recipe, weights: Path) -> TrainableStep:
    """The recipe's step module with weights from a file that holds a state_dict and nothing else."""
    step = build_step(recipe)
    step.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    return step.eval()


def _grown(weights: dict[str, Tensor], step: TrainableStep) -> dict[str, Tensor]:
    """Weights for a step with more slots: each new one is at first attended to as little as any old one."""
    if not isinstance(step, NTM) or FIRST_WEIGHTINGS not in weights:
        return weights
    first = weights[FIRST_WEIGHTINGS]
    more = step.options.slots - first.shape[1]
    if more <= 0:
        return weights
    least = first.min(dim=1, keepdim=True).values
    return {**weights, FIRST_WEIGHTINGS: torch.cat([first, least.expand(-1, more)], dim=1)}
