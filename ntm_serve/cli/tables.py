"""How commands print tables and facts: fitted to a terminal, and never cut where another program reads them."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

# Where nobody sees the width, no row is broken.
WIDTH_ELSEWHERE = 10_000


def console() -> Console:
    """Standard output."""
    out = Console(highlight=False)
    if not out.is_terminal:
        out.width = WIDTH_ELSEWHERE
    return out


def table(*columns: str) -> Table:
    """A table with a header; what does not fit goes to the next line, whole."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def print_facts(facts: Mapping[str, object]) -> None:
    """One fact a line, by name."""
    made = Table.grid(padding=(0, 2, 0, 0))
    made.add_column()
    made.add_column(overflow="fold")
    for name, value in facts.items():
        made.add_row(name.replace("_", " "), Text(str(value)))
    console().print(made)
