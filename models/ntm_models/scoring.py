"""The commands that score: `eval`, `zoo-check` and `zoo-report`. None of them needs torch.

Rules of this file: what a user waits for has a bar on stderr; results go to stdout; a promise that does not hold
is exit status 1.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from ntm_models import console
from ntm_models.evaluate import Evaluation, evaluate, task_for
from ntm_models.report import report
from ntm_models.served import served
from ntm_models.zoo import FRESH_SEED, FRESH_SEQUENCES, check, read_zoo, sequences_to_check, sequences_to_survey, survey
from ntm_serve.client import Client, Tls, token_of_file

ZOO = Path("models", "zoo")

ZooFolder = Annotated[Path, typer.Argument(help="A repository of models, as OUT of ntm-export.")]


def eval_command(
    model: Annotated[str, typer.Argument(help="The name of a served model.")],
    task: Annotated[
        str, typer.Option(help="The task.  [default: the one that the model learned]", show_default=False)
    ] = "",
    length: Annotated[
        list[int] | None,
        typer.Option(help="A length; may be given again.  [default: those that cards show]", show_default=False),
    ] = None,
    sequences: Annotated[int, typer.Option(min=1, help="Sequences of each length.")] = FRESH_SEQUENCES,
    seed: Annotated[int, typer.Option(min=0, help="Of the sequences.")] = FRESH_SEED,
    target: Annotated[
        str,
        typer.Option("--target", "--server", envvar="NTM_SERVE_SERVER", help="Where the server listens, HOST:PORT."),
    ] = "localhost:8001",
    tls_ca: Annotated[
        Path | None,
        typer.Option(
            envvar="NTM_SERVE_CLIENT_TLS_CA",
            help="PEM file of the authorities of a server with TLS.",
            show_default=False,
        ),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(
            envvar="NTM_SERVE_CLIENT_TOKEN_FILE", help="File with the token that says who calls.", show_default=False
        ),
    ] = None,
    version: Annotated[str, typer.Option(help="The model's version.  [default: the highest]", show_default=False)] = "",
) -> None:
    """Score a served model on a task: each sequence is a session."""
    tls = None if tls_ca is None else Tls(ca=tls_ca)
    token = None if token_file is None else token_of_file(token_file)
    with Client(target, tls=tls, token=token) as client:
        scored = task_for(client.model(model, version), task)
        lengths = length or list(scored.lengths_shown)
        with _bar(model, total=sequences * len(lengths)) as (progress, bar):
            rows = [
                evaluate(
                    client, model, scored, version=version, length=each, sequences=sequences, seed=seed,
                    advance=lambda: progress.advance(bar),
                )
                for each in lengths
            ]  # fmt: skip
    console.out().print(table_of(rows))


def zoo_check(zoo: ZooFolder = ZOO) -> None:
    """Measure every promise of every model of a zoo, through a server of its own. Fails where one does not hold."""
    table = Table("model", "length", "promised", "score", "exact", "", box=None)
    entries, faults = read_zoo(zoo), 0
    total = sum(sequences_to_check(entry) for entry in entries)
    with served(zoo) as (target, _), Client(target) as client, _bar("zoo", total=total) as (progress, bar):
        for entry in entries:
            for found in check(client, entry, advance=lambda: progress.advance(bar)):
                faults += bool(found.fault)
                one = found.measured
                exact = "" if one.exact is None else f"{one.exact} of {one.sequences}"
                verdict = f"FAILS: {found.fault}" if found.fault else "holds"
                table.add_row(entry.name, str(one.length), found.promise, f"{one.score:.4g}", exact, verdict)
    output = console.out()
    output.print(table)
    output.print(f"{table.row_count} promises of {len(entries)} models, {faults} broken")
    if faults:
        raise typer.Exit(1)


def zoo_report(
    zoo: ZooFolder = ZOO, out: Annotated[Path, typer.Option(help="The file to write.")] = Path("docs", "zoo.md")
) -> None:
    """Measure every model of a zoo on fresh sequences, through a server of its own, and write it down."""
    entries = read_zoo(zoo)
    total = sum(sequences_to_survey(entry) for entry in entries)
    with served(zoo) as (target, _), Client(target) as client, _bar("zoo", total=total) as (progress, bar):
        measured = [(entry, list(survey(client, entry, advance=lambda: progress.advance(bar)))) for entry in entries]
    out.write_text(report(measured), encoding="utf-8")
    console.out().print(f"{out}: {len(entries)} models", soft_wrap=True)


def table_of(rows: Sequence[Evaluation]) -> Table:
    """What was scored, one length a row."""
    by_chance = any(one.cost is not None for one in rows)
    last = ("cost", "optimum") if by_chance else ("exact",)
    unit = rows[0].unit if rows else "bits"
    table = Table("length", "steps", "sequences", "bits beyond" if by_chance else f"wrong {unit}", *last, box=None)
    for one in rows:
        ends = (f"{one.cost:.2f}", f"{one.optimum:.2f}") if by_chance else (f"{one.exact} of {one.sequences}",)
        table.add_row(str(one.length), str(one.steps), str(one.sequences), f"{one.score:g}", *ends)
    return table


@contextmanager
def _bar(name: str, *, total: int) -> Iterator[tuple[Progress, TaskID]]:
    """A bar of sequences on stderr."""
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=None), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console.err(), expand=True, transient=True) as progress:
        yield progress, progress.add_task(name, total=total)
