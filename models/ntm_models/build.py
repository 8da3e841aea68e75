"""From a recipe to its torch module, and from a file of weights to a trained one."""

from pathlib import Path

import torch

from ntm_models.entries import record_of
from ntm_models.errors import RecipeFault
from ntm_models.lstm import StackedLSTM, StackedLSTMOptions
from ntm_models.ntm import NTM, NTMOptions
from ntm_models.recipe import WEIGHTS, Recipe

TrainableStep = NTM | StackedLSTM


def build_step(recipe: Recipe) -> TrainableStep:
    """The recipe's step module with fresh weights, drawn from the recipe's seed. Raises RecipeFault."""
    task = recipe.task_of()
    sizes = {"inputs": task.inputs, "outputs": task.outputs}
    # The caller's random numbers go on as if nothing had been drawn here.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        try:
            if given := sorted(sizes.keys() & recipe.model.keys()):
                raise ValueError(
                    f"model.{given[0]}: the task decides it; expected nothing, got {recipe.model[given[0]]!r}"
                )
            if recipe.family == StackedLSTM.family:
                return StackedLSTM(record_of(StackedLSTMOptions, {**recipe.model, **sizes}, at="model"))
            return NTM(record_of(NTMOptions, {**recipe.model, **sizes}, at="model"))
        except ValueError as fault:
            raise RecipeFault(f"recipe {recipe.name}: {fault}") from fault


def first_step(recipe: Recipe, weights: Path = WEIGHTS) -> TrainableStep:
    """The module as a training starts with it: fresh, or where the recipe says so with the weights of another
    recipe, which are in the folder `weights`. Raises RecipeFault.
    """
    step = build_step(recipe)
    if recipe.start is None:
        return step
    path = weights / f"{recipe.start}.pt"
    try:
        step.load_state_dict(torch.load(path, weights_only=True, map_location="cpu"))
    except OSError as fault:
        raise RecipeFault(f"recipe {recipe.name}: start: {path} cannot be read: {fault.strerror}") from fault
    except RuntimeError as fault:  # What load_state_dict raises for other names or shapes.
        raise RecipeFault(f"recipe {recipe.name}: start: {path} has weights of other sizes: {fault}") from fault
    return step


def load_step(recipe: Recipe, weights: Path) -> TrainableStep:
    """The recipe's step module with weights from a file that holds a state_dict and nothing else."""
    step = build_step(recipe)
    step.load_state_dict(torch.load(weights, weights_only=True, map_location="cpu"))
    return step.eval()
