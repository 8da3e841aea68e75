"""A plain training loop: several seeds at once, checkpoints, a log, and selection by generalisation.

Rules of this file: the batch of step k depends on the recipe's seeds and k alone, and a checkpoint holds
all that the next step depends on, so a run that was interrupted goes on to exactly the weights and the
log that it would have had; files are replaced whole; a run that cannot start has written nothing; a seed
whose gradients are not finite stands still, and its neighbours go on.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from ntm_models.build import first_step
from ntm_models.errors import TrainingFault
from ntm_models.population import Population
from ntm_models.progress import Progress, Report
from ntm_models.recipe import Recipe, Training
from ntm_models.tasks import Episodes

RECIPE_FILE = "recipe.json"
CHECKPOINT_FILE = "checkpoint.pt"
BEST_FILE = "best.pt"
LOG_FILE = "log.jsonl"

# Separates the random streams that one seed gives: training batches and the generalisation set.
TRAINING_STREAM, SELECTION_STREAM = 0, 1

# Graves 2013 (arXiv:1308.0850), eq. 42 to 45: how long the averages are, the momentum, what is added below the
# fraction line. torch adds it outside of the root, where it is its root.
RMSPROP_DECAY, RMSPROP_MOMENTUM, RMSPROP_EPSILON = 0.95, 0.9, 1e-2


@dataclass(frozen=True)
class _Run:
    """How far a run is: all of a checkpoint but the weights and the optimiser's moments.

    rows are those of the log; losses, in bits per sequence and one for each seed, those of the steps since the
    last row.
    """

    done: int = 0
    best: float = math.inf
    rows: tuple[dict[str, Any], ...] = ()
    losses: tuple[tuple[float, ...], ...] = ()

    def progress(self, recipe: Recipe) -> Progress:
        last = self.rows[-1]["loss_bits"] if self.rows else [math.nan]
        of_seeds = _means(self.losses) if self.losses else last
        return Progress(self.done, recipe.training.steps, min(of_seeds), self.best, self.finished(recipe))

    def finished(self, recipe: Recipe) -> bool:
        enough = recipe.selection.enough
        return self.done >= recipe.training.steps or (enough is not None and self.best <= enough)


def train(
    recipe: Recipe,
    folder: Path,
    *,
    report: Report | None = None,
    stop: Callable[[], bool] | None = None,
    compiled: bool = False,
) -> Progress:
    """Train, or go on training, in `folder`; returns how far the run came.

    Writes best.pt (the selected weights), checkpoint.pt (to go on from), log.jsonl and recipe.json.
    `report` is called before the first step and after each; `stop` is asked before each: true ends the
    run early, with a checkpoint. Raises RecipeFault, TrainingFault.
    """
    steps = [first_step(replace(recipe, seed=recipe.seed + nth)) for nth in range(recipe.seeds)]
    population = Population(steps, compiled=compiled)
    _claim(folder, recipe)
    optimiser = _optimiser(recipe.training, population.parameters.values())
    run = _resumed(folder / CHECKPOINT_FILE, population, optimiser)
    if report:
        report(run.progress(recipe))
    saved_at = run.done
    while not run.finished(recipe) and not (stop and stop()):
        loss_bits, gradient_norms = _train_once(recipe, population, optimiser, run.done)
        run = replace(run, done=run.done + 1, losses=(*run.losses, loss_bits))
        if run.done % recipe.selection.every == 0 or run.done == recipe.training.steps:
            run = _selected(recipe, population, run, gradient_norms, folder / BEST_FILE)
            _save(folder, population, optimiser, run)
            saved_at = run.done
        if report:
            report(run.progress(recipe))
    if saved_at < run.done:
        _save(folder, population, optimiser, run)
    return run.progress(recipe)


def scores_by_length(recipe: Recipe, population: Population) -> dict[str, list[float]]:
    """The mean score per sequence on the generalisation set, by length; one for each model."""
    task, selection = recipe.task_of(), recipe.selection
    scores = {}
    with torch.no_grad():
        for length in selection.lengths:
            seed = (recipe.seed, SELECTION_STREAM, length)
            episodes = task.episodes(length=length, sequences=selection.sequences, seed=seed)
            inputs, given = (
                {name: torch.from_numpy(array).expand(population.size, *array.shape) for name, array in arrays.items()}
                for arrays in (episodes.inputs, episodes.initial_state)
            )
            outputs = population.activated(population.logits(inputs, given)).numpy()
            scores[str(length)] = [float(episodes.score(of_one).mean()) for of_one in outputs]
    return scores


def _optimiser(options: Training, parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """Element by element, so that models that lie in one tensor do not meet."""
    if options.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=options.learning_rate)
    return torch.optim.RMSprop(
        parameters, lr=options.learning_rate, alpha=RMSPROP_DECAY, eps=RMSPROP_EPSILON,
        momentum=RMSPROP_MOMENTUM, centered=True,
    )  # fmt: skip


def _train_once(
    recipe: Recipe, population: Population, optimiser: torch.optim.Optimizer, done: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """One batch and one update. Returns each model's loss in bits per sequence and the norm of its gradients."""
    options = recipe.training
    random = np.random.default_rng((recipe.seed, TRAINING_STREAM, done))
    length = int(random.integers(options.length_min, options.length_max + 1))
    # One seed for the batches of all models: the first model's are those that it would have alone.
    seed = int(random.integers(2**63))
    task = recipe.training_task_of().varied(random)
    batches = [
        task.episodes(length=length, sequences=options.batch, seed=(seed, nth) if nth else seed)
        for nth in range(population.size)
    ]
    inputs = _stacked([batch.inputs for batch in batches])
    logits = population.logits(inputs, _stacked([batch.initial_state for batch in batches]))
    losses, counted = _losses(logits, batches)
    for group in optimiser.param_groups:
        group["lr"] = options.learning_rate * (1 - done / options.steps)
    optimiser.zero_grad()
    losses.sum().backward()
    norms = _clip(list(population.parameters.values()), options.clip_norm)
    bits = losses.detach() * counted / math.log(2)
    if not (torch.isfinite(bits) & torch.isfinite(norms)).any():
        # Before the update: the weights, and the checkpoint that may follow, are still whole.
        raise TrainingFault(
            f"step {done}: expected a finite loss and gradient, got {bits.tolist()} bits and norms of {norms.tolist()}"
        )
    optimiser.step()
    return tuple(bits.tolist()), tuple(norms.tolist())


def _stacked(batches: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, Tensor]:
    """The arrays of a batch for each model, by name, as tensors `[P, B, ...]`."""
    return {name: torch.from_numpy(np.stack([batch[name] for batch in batches])) for name in batches[0]}


def _losses(logits: Tensor, batches: Sequence[Episodes]) -> tuple[Tensor, Tensor]:
    """Each model's mean cross-entropy of what counts, and how much of that there is in a sequence, `[P]` each.

    logits `[P, B, T, O]`, and a batch for each model.
    """
    wanted = torch.from_numpy(np.stack([batch.y for batch in batches]))
    scored = torch.from_numpy(np.stack([np.broadcast_to(batch.scored, batch.y.shape[:2]) for batch in batches]))
    if batches[0].classes:
        of_steps, parts = -(wanted * functional.log_softmax(logits, dim=3)).sum(dim=3), 1
    else:
        of_steps = functional.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(dim=3)
        parts = wanted.shape[3]
    counted = scored.sum(dim=(1, 2)) * parts
    return torch.where(scored, of_steps, 0.0).sum(dim=(1, 2)) / counted, counted / wanted.shape[1]


def _clip(parameters: Sequence[Tensor], norm_max: float) -> Tensor:
    """Scale each model's gradients to a global norm of at most `norm_max`; returns the norms before, `[P]`.

    Gradients that are not finite become none.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = torch.stack([gradient.flatten(1).square().sum(dim=1) for gradient in gradients]).sum(dim=0).sqrt()
    finite = torch.isfinite(norms)
    scales = torch.clamp(norm_max / (norms + 1e-6), max=1.0)
    for gradient in gradients:
        shape = (-1, *[1] * (gradient.dim() - 1))
        gradient.copy_(torch.where(finite.view(shape), gradient * scales.view(shape), 0.0))
    return norms


def _selected(
    recipe: Recipe, population: Population, run: _Run, gradient_norms: tuple[float, ...], best_file: Path
) -> _Run:
    """Score the weights, keep the best if none were better, and start a new row of the log."""
    scores = scores_by_length(recipe, population)
    totals = [sum(of_one) for of_one in zip(*scores.values(), strict=True)]
    losses = _means(run.losses)
    # Of equals the one with the least loss, and the later: its rate was lower, its weightings are sharper.
    first = min(range(population.size), key=lambda nth: (totals[nth], losses[nth]))
    if totals[first] <= run.best:
        _replace(best_file, lambda beside: torch.save(population.state_dict(first), beside))
    row = {
        "step": run.done,
        "loss_bits": losses,
        "gradient_norm": list(gradient_norms),
        "score": scores,
    }
    return replace(run, best=min(run.best, totals[first]), rows=(*run.rows, row), losses=())


def _save(folder: Path, population: Population, optimiser: torch.optim.Optimizer, run: _Run) -> None:
    parameters = {name: value.detach() for name, value in population.parameters.items()}
    content = {"parameters": parameters, "optimiser": optimiser.state_dict(), "run": asdict(run)}
    _replace(folder / CHECKPOINT_FILE, lambda beside: torch.save(content, beside))
    log = "".join(json.dumps(row) + "\n" for row in run.rows)
    _replace(folder / LOG_FILE, lambda beside: beside.write_text(log))


def _resumed(path: Path, population: Population, optimiser: torch.optim.Optimizer) -> _Run:
    """Where an earlier run in this folder was, its weights and moments loaded; or the start."""
    if not path.exists():
        return _Run()
    saved = torch.load(path, weights_only=True)
    population.load(saved["parameters"])
    optimiser.load_state_dict(saved["optimiser"])
    return _Run(**saved["run"])


def _claim(folder: Path, recipe: Recipe) -> None:
    """Make the folder, or refuse one whose run was started with another recipe. Raises TrainingFault."""
    path, entries = folder / RECIPE_FILE, json.loads(json.dumps(asdict(recipe)))
    # What is promised, and when to stop, changes no step; the one is known when the other was seen.
    del entries["claims"], entries["selection"]["enough"]
    if path.exists():
        before = json.loads(path.read_text())
        differing = [name for name in entries if before.get(name) != entries[name]]
        if differing:
            name = differing[0]
            raise TrainingFault(
                f"{folder}: holds a run of another recipe; {name}: expected {before.get(name)!r}, got "
                f"{entries[name]!r}; remove the folder or train into another one"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    _replace(path, lambda beside: beside.write_text(json.dumps(entries, indent=2) + "\n"))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside, then rename: a reader, or the next start, sees the old file or the new one, whole."""
    beside = path.with_suffix(".tmp")
    write(beside)
    beside.replace(path)


def _means(losses: Sequence[Sequence[float]]) -> list[float]:
    """The mean of each model's losses over the steps."""
    return [math.fsum(of_one) / len(losses) for of_one in zip(*losses, strict=True)]
