"""The command line: `ntm-serve`. Each command is thin; every error is one line on stderr and exit status 1."""

import sys

import typer

import ntm_serve.cli.before_grpc  # noqa: F401  (what follows imports grpc)
from ntm_serve.cli.client import register_client_commands
from ntm_serve.cli.server import register_server_commands
from ntm_serve.errors import NtmServeError

app = typer.Typer(
    name="ntm-serve",
    help="Serve trained memory models: stateful sessions over gRPC.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
register_server_commands(app)
register_client_commands(app)


def main() -> None:
    """The entry point."""
    try:
        app(prog_name="ntm-serve")
    except NtmServeError as error:
        print(f"ntm-serve: {' '.join(error.message.splitlines())}", file=sys.stderr)
        raise SystemExit(1) from None
