"""What `import-triton` does."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import typer

from ntm_serve.cli.arrays import read_inputs
from ntm_serve.errors import SettingsFault
from ntm_serve.triton.importing import Imported, Options, import_repository
from ntm_serve.triton.plan import Wishes

Value = TypeVar("Value")


def import_triton(
    repository: Path,
    *,
    out: Path,
    models: Sequence[str],
    dims: Sequence[str],
    constants: Sequence[str],
    example: Path | None,
    licence: str,
    force: bool,
) -> None:
    """Import, and say what became of each model; exit status 1 where one was refused. Raises SettingsFault."""
    wishes = Wishes(
        dims=_by_name("--dims", "NAME=SIZE,SIZE", dims, _sizes),
        constants=_by_name("--constant", "NAME=NUMBER", constants, float),
    )
    options = Options(
        out=out,
        models=models,
        wishes=wishes,
        example=None if example is None else partial(read_inputs, example),
        licence=licence,
        force=force,
    )
    refused = 0
    for one in import_repository(repository, options):
        print("\n".join(_lines(one)), flush=True)
        refused += one.fault is not None
    if refused:
        raise typer.Exit(1)


def _lines(one: Imported) -> Iterable[str]:
    name = f"{one.model}/{one.version}" if one.version else one.model
    if one.fault is not None:
        return [f"{name}: refused: {one.fault.detail}"]
    return [
        f"{name}: imported to {one.path}",
        *(f"  {note}" for note in one.notes),
        *(f"  ignored: {f}" for f in one.ignored),
    ]


def _by_name(option: str, form: str, given: Sequence[str], parse: Callable[[str], Value]) -> dict[str, Value]:
    """Options of the form NAME=VALUE. Raises SettingsFault."""
    found: dict[str, Value] = {}
    for one in given:
        name, _, text = one.rpartition("=")
        try:
            found[name] = parse(text)
        except ValueError as fault:
            raise SettingsFault(f"{option}: expected {form}, got {one!r}") from fault
        if not name:
            raise SettingsFault(f"{option}: expected {form}, got {one!r}")
    return found


def _sizes(text: str) -> tuple[int, ...]:
    """Raises ValueError."""
    sizes = tuple(int(size) for size in text.split(",") if text)
    if any(size < 1 for size in sizes):
        raise ValueError(text)
    return sizes
