"""A plain training loop: Adam, a linearly falling rate, checkpoints, a log, and selection by generalisation.

Rules of this file: the batch of step k depends on the recipe's seed and k alone, and a checkpoint holds
all that the next step depends on, so a run that was interrupted goes on to exactly the weights and the
log that it would have had; files are replaced whole; a run that cannot start has written nothing.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ntm_models.build import build_step
from ntm_models.errors import TrainingFault
from ntm_models.ntm import NTM
from ntm_models.progress import Progress, Report
from ntm_models.recipe import Recipe
from ntm_models.rollout import rollout_logits

RECIPE_FILE = "recipe.json"
CHECKPOINT_FILE = "checkpoint.pt"
BEST_FILE = "best.pt"
LOG_FILE = "log.jsonl"

# Separates the random streams that one seed gives: training batches and the generalisation set.
TRAINING_STREAM, SELECTION_STREAM = 0, 1


@dataclass(frozen=True)
class _Run:
    """How far a run is: all of a checkpoint but the weights and the optimiser's moments.

    rows are those of the log; losses, in bits per sequence, those of the steps since the last row.
    """

    done: int = 0
    best: float = math.inf
    rows: tuple[dict[str, Any], ...] = ()
    losses: tuple[float, ...] = ()

    def progress(self, recipe: Recipe) -> Progress:
        last = self.rows[-1]["loss_bits"] if self.rows else math.nan
        loss_bits = _mean(self.losses) if self.losses else last
        return Progress(self.done, recipe.training.steps, loss_bits, self.best)


def train(
    recipe: Recipe,
    folder: Path,
    *,
    report: Report | None = None,
    stop: Callable[[], bool] | None = None,
) -> Progress:
    """Train, or go on training, in `folder`; returns how far the run came.

    Writes best.pt (the selected weights), checkpoint.pt (to go on from), log.jsonl and recipe.json.
    `report` is called before the first step and after each; `stop` is asked before each: true ends the
    run early, with a checkpoint. Raises RecipeFault, TrainingFault.
    """
    step = build_step(recipe)
    _claim(folder, recipe)
    optimiser = torch.optim.Adam(step.parameters(), lr=recipe.training.learning_rate)
    run = _resumed(folder / CHECKPOINT_FILE, step, optimiser)
    if report:
        report(run.progress(recipe))
    saved_at = run.done
    while run.done < recipe.training.steps and not (stop and stop()):
        loss_bits, gradient_norm = _train_once(recipe, step, optimiser, run.done)
        run = replace(run, done=run.done + 1, losses=(*run.losses, loss_bits))
        if run.done % recipe.selection.every == 0 or run.done == recipe.training.steps:
            run = _selected(recipe, step, run, gradient_norm, folder / BEST_FILE)
            _save(folder, step, optimiser, run)
            saved_at = run.done
        if report:
            report(run.progress(recipe))
    if saved_at < run.done:
        _save(folder, step, optimiser, run)
    return run.progress(recipe)


def wrong_bits_by_length(recipe: Recipe, step: NTM) -> dict[str, float]:
    """Mean wrong bits per sequence on the generalisation set, by length."""
    task, selection = recipe.task_of(), recipe.selection
    wrong = {}
    with torch.inference_mode():
        for length in selection.lengths:
            seed = (recipe.seed, SELECTION_STREAM, length)
            episodes = task.episodes(length=length, sequences=selection.sequences, seed=seed)
            outputs = torch.sigmoid(rollout_logits(step, torch.from_numpy(episodes.x))).numpy()
            wrong[str(length)] = float(episodes.wrong_bits(outputs).mean())
    return wrong


def _train_once(recipe: Recipe, step: NTM, optimiser: torch.optim.Optimizer, done: int) -> tuple[float, float]:
    """One batch and one update. Returns the loss in bits per sequence and the norm of the gradients."""
    options = recipe.training
    random = np.random.default_rng((recipe.seed, TRAINING_STREAM, done))
    length = int(random.integers(options.length_min, options.length_max + 1))
    seed = int(random.integers(2**63))
    episodes = recipe.task_of().episodes(length=length, sequences=options.batch, seed=seed)
    scored = torch.from_numpy(episodes.scored)
    logits = rollout_logits(step, torch.from_numpy(episodes.x))[:, scored]
    wanted = torch.from_numpy(episodes.y)[:, scored]
    loss = functional.binary_cross_entropy_with_logits(logits, wanted)
    for group in optimiser.param_groups:
        group["lr"] = options.learning_rate * (1 - done / options.steps)
    optimiser.zero_grad()
    loss.backward()
    norm = float(torch.nn.utils.clip_grad_norm_(step.parameters(), options.clip_norm))
    bits = float(loss.detach()) * wanted[0].numel() / math.log(2)
    if not (math.isfinite(bits) and math.isfinite(norm)):
        # Before the update: the weights, and the checkpoint that may follow, are still whole.
        raise TrainingFault(f"step {done}: expected a finite loss and gradient, got {bits} bits and a norm of {norm}")
    optimiser.step()
    return bits, norm


def _selected(recipe: Recipe, step: NTM, run: _Run, gradient_norm: float, best_file: Path) -> _Run:
    """Score the weights, keep them if none were better, and start a new row of the log."""
    wrong = wrong_bits_by_length(recipe, step)
    score = float(sum(wrong.values()))
    # The later of two equals: its rate was lower, its weightings are sharper.
    if score <= run.best:
        _replace(best_file, lambda beside: torch.save(step.state_dict(), beside))
    row = {
        "step": run.done,
        "loss_bits": _mean(run.losses),
        "gradient_norm": gradient_norm,
        "wrong_bits": wrong,
    }
    return replace(run, best=min(run.best, score), rows=(*run.rows, row), losses=())


def _save(folder: Path, step: NTM, optimiser: torch.optim.Optimizer, run: _Run) -> None:
    content = {"step": step.state_dict(), "optimiser": optimiser.state_dict(), "run": asdict(run)}
    _replace(folder / CHECKPOINT_FILE, lambda beside: torch.save(content, beside))
    log = "".join(json.dumps(row) + "\n" for row in run.rows)
    _replace(folder / LOG_FILE, lambda beside: beside.write_text(log))


def _resumed(path: Path, step: NTM, optimiser: torch.optim.Optimizer) -> _Run:
    """Where an earlier run in this folder was, its weights and moments loaded; or the start."""
    if not path.exists():
        return _Run()
    saved = torch.load(path, weights_only=True)
    step.load_state_dict(saved["step"])
    optimiser.load_state_dict(saved["optimiser"])
    return _Run(**saved["run"])


def _claim(folder: Path, recipe: Recipe) -> None:
    """Make the folder, or refuse one whose run was started with another recipe. Raises TrainingFault."""
    path, entries = folder / RECIPE_FILE, json.loads(json.dumps(asdict(recipe)))
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


def _mean(values: tuple[float, ...]) -> float:
    return math.fsum(values) / len(values)
