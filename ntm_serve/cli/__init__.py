"""The command line: `ntm-serve`. Each command is thin; every error is one line on stderr and exit status 1."""

import importlib
import sys
from typing import Any

import ntm_serve.cli.before_grpc  # noqa: F401  (what follows imports grpc)
from ntm_serve.errors import NtmServeError


def main() -> None:
    """The entry point."""
    try:
        _application(sys.argv[1:2])(prog_name="ntm-serve")
    except NtmServeError as error:
        print(f"ntm-serve: {' '.join(error.detail.splitlines())}", file=sys.stderr)
        raise SystemExit(1) from None


def _application(command: list[str]) -> Any:
    """What carries a command out. A health check is run every few seconds, beside the server that it asks: with every
    command it takes a second of processor to start, by itself a fifth.
    """
    if command == ["health"]:
        try:
            return importlib.import_module("ntm_serve.cli.health").app
        except ModuleNotFoundError:  # The other says what to install.
            pass
    return importlib.import_module("ntm_serve.cli.commands").app
