"""Where the commands of the models print: results to stdout, what goes on and what went wrong to stderr."""

from rich.console import Console

# Where nobody sees the width, no row is broken.
WIDTH_ELSEWHERE = 10_000


# Made when they are wanted: a console keeps the stream that was there when it was made.
def out() -> Console:
    """Standard output; fitted to a terminal, and never cut where another program reads it."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH_ELSEWHERE
    return console


def err() -> Console:
    """Standard error."""
    return Console(stderr=True, highlight=False)
