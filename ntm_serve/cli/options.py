"""Options that several commands have."""

from typing import Annotated

import typer

Server = Annotated[str, typer.Option("--server", envvar="NTM_SERVE_SERVER", help="host:port of the server's gRPC port")]
DEFAULT_SERVER = "localhost:8001"
