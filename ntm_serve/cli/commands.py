"""Every command of `ntm-serve`, as one application."""

import typer

from ntm_serve.cli.client import register_client_commands
from ntm_serve.cli.server import register_server_commands

app = typer.Typer(
    name="ntm-serve",
    help="Serve trained memory models: stateful sessions over gRPC.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
register_server_commands(app)
register_client_commands(app)
