"""The command line of the models: `ntm-models train`, `recipes`, and the commands of ntm_models.scoring.

Rules of this file: importing it imports neither torch nor matplotlib, for they are an optional extra and
only training needs them; what a user can mend ends with one line on stderr and exit status 1.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.table import Table

from ntm_models import console
from ntm_models.errors import ModelsFault
from ntm_models.progress import progress_bar
from ntm_models.recipe import RECIPES, Recipe, find_recipe, read_recipe, recipe_files
from ntm_models.scoring import eval_command, zoo_check, zoo_report
from ntm_serve.errors import NtmServeError

app = typer.Typer(
    name="ntm-models",
    help="Train the memory models that ntm-serve serves, and score them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """The entry point `ntm-models`."""
    app()


@app.command()
def recipes() -> None:
    """List the recipes that come with the repository."""
    with _faults_told():
        found = [read_recipe(path) for path in recipe_files()]
    table = Table("recipe", "task", "model", "lengths", "sequences", "seed", box=None)
    for recipe in found:
        training = recipe.training
        table.add_row(
            recipe.name,
            recipe.task,
            ", ".join([recipe.family, *([recipe.model["controller"]] if "controller" in recipe.model else [])]),
            f"{training.length_min}-{training.length_max}",
            f"{training.steps * training.batch:,}",
            f"{recipe.seed}-{recipe.seed + recipe.seeds - 1}" if recipe.seeds > 1 else str(recipe.seed),
        )
    console.out().print(table if found else f"no recipes in {RECIPES}; `ntm-models train` takes the path of one")


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A name that `ntm-models recipes` lists, or the path of a .toml file.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The run's folder. One that holds a run of the same recipe is gone on with.  "
            "[default: build/train/<name of the recipe>]",
            show_default=False,
        ),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="Threads of torch. Only 1 promises the same bits every time.")
    ] = 1,
    seed: Annotated[int | None, typer.Option(min=0, help="In place of the recipe's seed.", show_default=False)] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Let torch compile the step: two to four times as fast, other last bits.")
    ] = False,
) -> None:
    """Train a recipe, or go on with a run that was interrupted.

    Ctrl-C ends the run after the step that it is in, with a checkpoint; the same command goes on from there
    to the very weights that an uninterrupted run gives.

    The folder then holds best.pt (of all the recipe's seeds the weights with the fewest wrong bits on its
    generalisation set), checkpoint.pt, log.jsonl, recipe.json and curve.png.
    """
    with _faults_told():
        plan = read_recipe(find_recipe(recipe))
        if seed is not None:
            plan = replace(plan, seed=seed)
        _train(plan, out or Path("build", "train", plan.name), threads=threads, compiled=compiled)


def _train(recipe: Recipe, folder: Path, *, threads: int, compiled: bool) -> None:
    """Train with a bar until the end or a signal, then draw the curve. The one place that needs the extra."""
    try:
        import torch

        from ntm_models.curve import draw_curve
        from ntm_models.train import BEST_FILE
        from ntm_models.train import train as run
    except ModuleNotFoundError as fault:
        raise ModelsFault(f"training needs {fault.name}: pip install 'ntm-serve[export]'") from fault
    torch.set_num_threads(threads)
    errors = console.err()
    bar = progress_bar(
        recipe.name, steps=recipe.training.steps, batch=recipe.training.batch * recipe.seeds, console=errors
    )
    with _signals_caught() as caught, bar as report:
        end = run(recipe, folder, report=report, stop=lambda: bool(caught), compiled=compiled)
    if not end.finished:
        errors.print(f"stopped after {end.step:,} of {end.steps:,} steps; the same command goes on from there")
        raise typer.Exit(128 + caught[0])
    curve = draw_curve(folder)
    results = console.out()
    results.print(f"weights: {folder / BEST_FILE}", soft_wrap=True)
    results.print(f"curve: {curve}", soft_wrap=True)
    lengths = ", ".join(str(length) for length in recipe.selection.lengths)
    results.print(f"bits per sequence, summed over lengths {lengths}: {end.best_score:g}", soft_wrap=True)


@contextmanager
def _signals_caught() -> Iterator[list[int]]:
    """SIGINT and SIGTERM are noted and not raised, for a step that is cut in two would leave weights that
    no other run has. A second one is raised as ever. What whoever started us had ignored stays ignored.
    """
    caught: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, _frame: FrameType | None) -> None:
        caught.append(number)
        signal.signal(number, before[signal.Signals(number)])

    for number, action in before.items():
        if action != signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield caught
    finally:
        for number, action in before.items():
            signal.signal(number, action)


@contextmanager
def _faults_told() -> Iterator[None]:
    """The boundary where a fault becomes one line on stderr and exit status 1."""
    try:
        yield
    except (ModelsFault, NtmServeError, OSError) as fault:
        console.err().print(f"error: {fault}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from fault


# With the same boundary as the commands above.
for _name, _command in (("eval", eval_command), ("zoo-check", zoo_check), ("zoo-report", zoo_report)):
    app.command(_name)(_faults_told()(_command))


if __name__ == "__main__":
    main()
