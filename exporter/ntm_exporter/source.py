"""What is exported and where it comes from: a recipe with its weights, or a function in the user's own file.

Loading a source runs the user's code; a file of weights is read as tensors and never unpickled.
"""

import importlib.util
import inspect
import pickle
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from ntm_exporter.contract import ExampleInputs, ExampleState, Step, expect_step, nothing_given
from ntm_exporter.errors import SourceFault
from ntm_models.build import build_step, free_sizes
from ntm_models.errors import RecipeFault
from ntm_models.recipe import read_recipe
from ntm_models.tasks import TASKS, Task

RECIPE_SUFFIX = ".toml"

# One episode of a task's example is at most this long: what a session of a demo does.
EXAMPLE_LENGTH_MAX = 20

NOTHING_CHOSEN: Mapping[str, int] = MappingProxyType({})


@dataclass(frozen=True)
class Source:
    """A step with its example, and what is known of it. example_state: what the example's sessions are given.

    task: the name. scored: the task itself, where its wrong bits can be counted. recipe_text: the
    recipe as it was read, for the card. sizes: those that were chosen for serving, in place of the recipe's.
    """

    name: str
    step: Step
    example_inputs: ExampleInputs
    family: str = "custom"
    task: str = ""
    roles: Mapping[str, str] = field(default_factory=dict)
    scored: Task | None = None
    recipe: str = ""
    recipe_text: str = ""
    seed: int | None = None
    example_state: ExampleState = nothing_given
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskExample:
    """Example inputs from a task's own generator: the longest episode that fits, and again until T steps are full; or
    one that is long enough, where what a session is given when it opens goes with it.
    """

    task: Task

    def __call__(self, steps: int, seed: int) -> dict[str, Any]:
        """Every input of one session, `[T, ...]`."""
        shortest = self.task.length_min
        if self.state(seed):
            only = self.task.episodes(length=max(steps, shortest), sequences=1, seed=(seed, 0))
            return {name: array[0][:steps] for name, array in only.inputs.items()}
        lengths = range(max(EXAMPLE_LENGTH_MAX, shortest), shortest - 1, -1)
        fitting = (n for n in lengths if self.task.episodes(length=n, sequences=1, seed=seed).steps <= steps)
        length = next(fitting, shortest)
        parts = [self.task.episodes(length=length, sequences=1, seed=(seed, 0))]
        while sum(part.steps for part in parts) < steps:
            parts.append(self.task.episodes(length=length, sequences=1, seed=(seed, len(parts))))
        names = parts[0].inputs
        return {name: np.concatenate([part.inputs[name][0] for part in parts])[:steps] for name in names}

    def state(self, seed: int) -> dict[str, Any]:
        """What that session is given when it opens, `[...]` by the names of state tensors."""
        shortest = self.task.episodes(length=self.task.length_min, sequences=1, seed=(seed, 0))
        return {name: array[0] for name, array in shortest.initial_state.items()}


def load_source(source: str, weights: Path | None, sizes: Mapping[str, int] = NOTHING_CHOSEN) -> Source:
    """`recipe.toml`, or `file.py:function`. sizes: by name, chosen for serving. Raises SourceFault, ContractFault."""
    if source.endswith(RECIPE_SUFFIX):
        return recipe_source(Path(source), weights, sizes)
    file, colon, function = source.rpartition(":")
    if not colon or not file.endswith(".py") or not function.isidentifier():
        raise SourceFault(f"source: expected FILE.py:FUNCTION or RECIPE{RECIPE_SUFFIX}, got {source!r}")
    return module_source(Path(file), function, weights, sizes)


def recipe_source(path: Path, weights: Path | None, sizes: Mapping[str, int] = NOTHING_CHOSEN) -> Source:
    """A recipe's step with its weights. sizes: of those that no weight of the family knows. Raises SourceFault."""
    if weights is None:
        raise SourceFault(f"{path}: a recipe needs --weights: without them its model is untrained")
    try:
        recipe = read_recipe(path)
        if unknown := sorted(sizes.keys() - free_sizes(recipe)):
            expected = ", ".join(sorted(free_sizes(recipe))) or "nothing: the weights know every size"
            raise SourceFault(
                f"--set: {recipe.name}: of the family {recipe.family} expected {expected}, got {unknown[0]}"
            )
        step = build_step(replace(recipe, model={**recipe.model, **sizes}))
    except RecipeFault as fault:
        raise SourceFault(str(fault)) from fault
    load_weights(step, weights)
    task = recipe.task_of()
    example = TaskExample(task)
    return Source(
        name=recipe.name,
        step=step.eval(),
        example_inputs=example,
        example_state=example.state,
        family=recipe.family,
        task=recipe.task,
        roles={name: role for name, role in step.roles.items() if name in step.initial_state()},
        scored=task,
        recipe=recipe.name,
        recipe_text=path.read_text(),
        # Of several seeds the weights do not say which one was kept; the curve does.
        seed=recipe.seed if recipe.seeds == 1 else None,
        sizes=sizes,
    )


def module_source(path: Path, function: str, weights: Path | None, sizes: Mapping[str, int] = NOTHING_CHOSEN) -> Source:
    """What a function of the user's file returns, called with the sizes. Raises SourceFault, ContractFault."""
    build = getattr(_module(path), function, None)
    if not callable(build):
        raise SourceFault(f"{path}: expected a function {function}(), found none")
    if wanted := [name for name in _wanted(build) if name not in sizes]:
        remedy = " ".join(f"--set {name}=..." for name in wanted)
        raise SourceFault(f"{path}: {function}() wants {', '.join(wanted)}: {remedy}")
    try:
        inspect.signature(build).bind(**sizes)
    except TypeError as fault:
        raise SourceFault(f"--set: {path}: {function}() does not take {', '.join(sizes)}: {fault}") from fault
    try:
        step = build(**sizes)
    except Exception as fault:  # The function is the user's, and so is whatever it raises.
        raise SourceFault(f"{path}: {function}() failed: {type(fault).__name__}: {fault}") from fault
    expect_step(step, needs_example=True)
    if weights is not None:
        load_weights(step, weights)
    if isinstance(step, nn.Module):
        step.eval()
    task = getattr(step, "task", "")
    return Source(
        name=path.stem.replace("_", "-"),
        step=step,
        example_inputs=step.example_inputs,
        family=getattr(step, "family", "custom"),
        task=task,
        roles=_roles(step),
        scored=TASKS[task]() if task in TASKS else None,
        example_state=getattr(step, "example_state", nothing_given),
        sizes=sizes,
    )


def load_weights(step: object, path: Path) -> None:
    """Load a state_dict, whole and nothing else. Raises SourceFault."""
    if not isinstance(step, nn.Module):
        raise SourceFault(f"--weights: expected a torch module to load them into, got a {type(step).__name__}")
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
    except OSError as fault:
        raise SourceFault(f"{path}: cannot be read: {fault.strerror or fault}") from fault
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as fault:
        raise SourceFault(f"{path}: expected tensors alone, as torch.save(module.state_dict()) writes") from fault
    try:
        step.load_state_dict(state, strict=True)
    except (RuntimeError, TypeError, AttributeError) as fault:
        lines = " ".join(line.strip() for line in str(fault).splitlines())
        raise SourceFault(f"{path}: expected the weights of {type(step).__name__}, got others: {lines}") from fault


def _wanted(build: Callable[..., object]) -> list[str]:
    """The arguments that a function cannot be called without, of those that can be given by name."""
    return [
        name
        for name, one in inspect.signature(build).parameters.items()
        if one.default is one.empty and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    ]


def _roles(step: object) -> dict[str, str]:
    return dict(cast("Mapping[str, str]", getattr(step, "roles", {})))


def _module(path: Path) -> ModuleType:
    """The user's file, run as a module, with its own folder importable as when it is run as a script."""
    if not path.is_file():
        raise SourceFault(f"{path}: expected a Python file, found none")
    name = f"_ntm_export_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent.resolve()))
    # Dataclasses and pickling look a class's module up by its name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as fault:  # As above: the user's code.
        raise SourceFault(f"{path}: cannot be loaded: {type(fault).__name__}: {fault}") from fault
    finally:
        sys.path.remove(str(path.parent.resolve()))
    return module
