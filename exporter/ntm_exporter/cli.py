"""`ntm-export`: the command line of the exporter. What goes wrong is one message on stderr and exit status 1.

`ntm-export SOURCE ...` is short for `ntm-export export SOURCE ...`; the names of the commands are
reserved, and a source of such a name is written with its folder, as in `./export.toml`.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from typer.core import TyperGroup

from ntm_exporter.errors import ExportFault, SourceFault
from ntm_exporter.export import STAGES, Exported, Options, export
from ntm_exporter.importers import PROGRAMS, Settings, import_source, program_of, provenance_of
from ntm_exporter.source import Source, load_source
from ntm_serve.errors import NtmServeError

DEFAULT_COMMAND = "export"

SIZE_RANGE = re.compile(r"(\w+)=([0-9]{1,9}):([0-9]{1,9})")


class _SourceFirst(TyperGroup):
    """A group whose first argument, where it names no command, is the default command's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = [DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_SourceFirst,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Turn a trained step into a model directory, and prove that it is the same function.",
)


@app.callback()
def _group() -> None:
    """Turn a trained step into a model directory, and prove that it is the same function."""


Out = Annotated[Path, typer.Option(help="The folder of models to write into, as OUT/NAME/VERSION.")]
Version = Annotated[str, typer.Option(help="The model's version, a whole number.")]
Tolerance = Annotated[float, typer.Option(min=0.0, help="How far one step may differ from torch.")]
Sequences = Annotated[int, typer.Option(min=1, help="Sequences of each length for the task's score.")]
SizeRanges = Annotated[
    list[str] | None,
    typer.Option(
        "--sizes", metavar="AXIS=LEAST:MOST", help="What a session may choose of an axis that the step names."
    ),
]
Force = Annotated[bool, typer.Option("--force", help="Replace the model directory that is there.")]


@app.command(DEFAULT_COMMAND)
def export_command(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="FILE.py:FUNCTION, which returns a step, or RECIPE.toml.")
    ],
    out: Out,
    weights: Annotated[Path | None, typer.Option(help="A state_dict, as torch.save writes it.")] = None,
    sizes: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="NAME=NUMBER", help="A size that no weight knows: slots=30 of a dnc, or of FUNCTION."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name [default: the recipe's, or the file's].")] = None,
    version: Version = "1",
    tolerance: Tolerance = 1e-5,
    sequences: Sequences = 100,
    licence: Annotated[str, typer.Option(help="The licence of the weights.")] = "",
    provenance: Annotated[str, typer.Option("--source", help="Where the weights come from.")] = "",
    curve: Annotated[Path | None, typer.Option(help="A picture of the training, .svg or .png, for the card.")] = None,
    force: Force = False,
    ranges: SizeRanges = None,
) -> None:
    """Export SOURCE to OUT/NAME/VERSION."""
    options = Options(
        out=out, name=name, version=version, tolerance=tolerance, sequences=sequences, licence=licence,
        provenance=provenance, curve=curve, force=force,
    )  # fmt: skip

    def load() -> tuple[Source, Options]:
        return load_source(source, weights, _sizes(sizes or [])), replace(options, sizes=_ranges(ranges or []))

    _told(source, load)


@app.command("import")
def import_command(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help=f"The program that trained the weights: {', '.join(PROGRAMS)}.")
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An .npz of its arrays, or a torch state_dict.")],
    out: Out,
    task: Annotated[
        str | None, typer.Option(help="What the weights learned [default: the program's, if it has one].")
    ] = None,
    activations: Annotated[
        str | None, typer.Option(help="pytorch-ntm: 2017, of its first weights, or current, of its later code.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="dnc-tensorflow: slots, of its memory.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="The model's name [default: SOURCE-TASK].")] = None,
    version: Version = "1",
    tolerance: Annotated[
        float | None, typer.Option(min=0.0, help="How far one step may differ from torch [default: the program's].")
    ] = None,
    sequences: Sequences = 100,
    licence: Annotated[str | None, typer.Option(help="The licence of the weights [default: the program's].")] = None,
    provenance: Annotated[
        str | None, typer.Option("--source", help="Where the weights come from [default: the program and FILE].")
    ] = None,
    force: Force = False,
    ranges: SizeRanges = None,
) -> None:
    """Import FILE, which SOURCE trained, and export it to OUT/NAME/VERSION with the same proof."""

    def load() -> tuple[Source, Options]:
        said = _settings(activations, settings or [])
        imported = import_source(source, file, task, said)
        return imported, Options(
            out=out, name=name, version=version, sequences=sequences, force=force, sizes=_ranges(ranges or []),
            tolerance=program_of(source).tolerance if tolerance is None else tolerance,
            licence=program_of(source).licence if licence is None else licence,
            provenance=provenance_of(source, file, said) if provenance is None else provenance,
        )  # fmt: skip

    _told(str(file), load)


def summary(exported: Exported) -> Table:
    """What was proved, as a table."""
    table, proof = Table(title=f"{exported.path.parent.name} {exported.path.name}", show_header=False), exported.proof
    table.add_row("one step against torch", f"{proof.parity.error_max:.3g}, B in {list(proof.parity.batch_sizes)}")
    drift = "not finite" if proof.drift.error_max is None else f"{proof.drift.error_max:.3g}"
    table.add_row(f"drift at step {proof.drift.steps}", drift)
    for one in proof.scores:
        entry = one.entry
        if entry.cost_bits_engine is not None:
            told = f"{entry.cost_bits_engine:.4g} (optimal {entry.cost_bits_optimal:.4g})"
            table.add_row(f"bits of cost, length {entry.length}", told)
            continue
        table.add_row(
            f"wrong {one.unit}, length {entry.length}",
            f"{entry.wrong_bits_engine:g} (torch {entry.wrong_bits_torch:g}), "
            f"none in {entry.exact_engine} of {entry.sequences}",
        )
    table.add_row("bytes", f"{sum(file.size_bytes for file in exported.manifest.files.values()):,}")
    return table


def main() -> None:
    """The entry point."""
    app()


def _settings(activations: str | None, pairs: list[str]) -> Settings:
    """What was said of a file, from NAME=VALUE. Raises SourceFault."""
    return Settings(activations=activations, **_sizes(pairs, only="slots"))


def _sizes(pairs: list[str], *, only: str | None = None) -> dict[str, int]:
    """Sizes by name, from NAME=NUMBER. only: the one name that may be given. Raises SourceFault."""
    sizes: dict[str, int] = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        known = name.isidentifier() if only is None else name == only
        if not known or not value.isdecimal():
            raise SourceFault(f"--set: expected {only or 'NAME'}=NUMBER, got {pair!r}")
        sizes[name] = int(value)
    return sizes


def _ranges(words: list[str]) -> dict[str, tuple[int, int]]:
    """The least and the most of each axis, from AXIS=LEAST:MOST. Raises SourceFault."""
    ranges = {}
    for word in words:
        found = SIZE_RANGE.fullmatch(word)
        if found is None:
            raise SourceFault(f"--sizes: expected AXIS=LEAST:MOST, as slots=1:256, got {word!r}")
        ranges[found[1]] = int(found[2]), int(found[3])
    return ranges


def _told(label: str, load: Callable[[], tuple[Source, Options]]) -> None:
    """Export what `load` gives and say what was proved, or say in one message why not."""
    errors = Console(stderr=True)
    # A step is too small to share: two threads wait for each other longer than they compute.
    torch.set_num_threads(1)
    try:
        exported = _shown(label, load, errors)
    except (ExportFault, NtmServeError) as fault:
        errors.print(f"ntm-export: {fault}", style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from fault
    console = Console()
    console.print(summary(exported))
    console.print(f"{exported.path}", highlight=False, soft_wrap=True)


def _shown(label: str, load: Callable[[], tuple[Source, Options]], console: Console) -> Exported:
    """The export, with its stages on the console while it goes on."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task(f"loading {label}", total=len(STAGES) + 1)

        def report(stage: str) -> None:
            progress.update(bar, description=stage, advance=1)

        return export(*load(), report)
