"""What a training run tells while it goes on, and the bar that shows it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    loss_bits: the mean loss in bits per sequence since the weights were last scored, of the seed that has the
    least; NaN before the first step. best_score: of the best weights so far, the mean score per sequence in
    bits, summed over the lengths of the generalisation set; infinite before the first scoring. finished: whether
    there is nothing left to do: all steps were made, or the score is as good as the recipe asks for.
    """

    step: int
    steps: int
    loss_bits: float
    best_score: float
    finished: bool = False


Report = Callable[[Progress], None]


@contextmanager
def progress_bar(name: str, *, steps: int, batch: int, console: Console) -> Iterator[Report]:
    """A bar for a run of `steps` batches of `batch` sequences; gives what shows a report."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
        _SequenceRate(batch),
        TextColumn("loss {task.fields[loss]} bits"),
        TextColumn("best {task.fields[best]} bits"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, expand=True) as bar:
        # Not shown before the first report: a run that is refused leaves its fault alone on the screen.
        task = bar.add_task(name, total=steps, start=False, visible=False, loss="-", best="-")

        def show(progress: Progress) -> None:
            loss, best = _number(progress.loss_bits), _number(progress.best_score)
            if not bar.tasks[0].started:
                # Steps that an earlier run made are no part of this run's speed: reset, unlike update, counts none.
                bar.reset(task, completed=progress.step, visible=True, loss=loss, best=best)
            else:
                bar.update(task, completed=progress.step, loss=loss, best=best)

        yield show


class _SequenceRate(ProgressColumn):
    """Sequences per second."""

    def __init__(self, batch: int) -> None:
        self._batch = batch
        super().__init__()

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("- seq/s" if speed is None else f"{speed * self._batch:,.0f} seq/s")


def _number(value: float) -> str:
    """Short, and "-" for what is not known yet."""
    return f"{value:.3g}" if abs(value) < float("inf") else "-"
