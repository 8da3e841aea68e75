"""The options of every command that speaks to a running server: which one, and how both know each other. Little is
imported here, as health checks come this way.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer

from ntm_serve.identity import Identity, Tls, token_of_file

# Not the prefix of the settings of a server, which may stand in the same environment.
_ENVIRONMENT = "NTM_SERVE_CLIENT_"

File = Path | None

InitialStateFile = Annotated[
    Path | None,
    typer.Option("--initial-state", metavar="FILE.npz", help="state tensors by name that a new session begins with"),
]
SizeWords = Annotated[
    list[str] | None,
    typer.Option(
        "--size", metavar="AXIS=SIZE", help="of an axis of a new session's state, as slots=30; again for more"
    ),
]
OutputNames = Annotated[
    list[str] | None, typer.Option("--output-name", help="an output to ask for; again for more; all if not given")
]


@dataclass(frozen=True, kw_only=True)
class Connection:
    """What the options say. The annotations are the options: `connecting` reads them."""

    server: Annotated[
        str, typer.Option("--server", envvar="NTM_SERVE_SERVER", help="host:port of the server's gRPC port")
    ] = "localhost:8001"
    tls: Annotated[
        bool, typer.Option("--tls", envvar=f"{_ENVIRONMENT}TLS", help="speak TLS; said by the other --tls options too")
    ] = False
    tls_ca: Annotated[
        File,
        typer.Option(envvar=f"{_ENVIRONMENT}TLS_CA", help="PEM file of the authorities that the server's is from"),
    ] = None
    tls_cert: Annotated[
        File, typer.Option(envvar=f"{_ENVIRONMENT}TLS_CERT", help="PEM file of the certificate to show")
    ] = None
    tls_key: Annotated[File, typer.Option(envvar=f"{_ENVIRONMENT}TLS_KEY", help="PEM file of its key")] = None
    tls_server_name: Annotated[
        str, typer.Option(envvar=f"{_ENVIRONMENT}TLS_SERVER_NAME", help="the name in the server's, if not the host's")
    ] = ""
    token_file: Annotated[
        File, typer.Option(envvar=f"{_ENVIRONMENT}TOKEN_FILE", help="file with the token that says who calls")
    ] = None

    def channel(self) -> grpc.Channel:
        """A bare connection, for what the client does not have. Raises InvalidInput."""
        channel: grpc.Channel = Identity(self.identity_of_server(), None).channel(grpc, self.server, ())
        return channel

    def identity_of_server(self) -> Tls | None:
        """None is no TLS."""
        if not (self.tls or self.tls_ca or self.tls_cert or self.tls_key or self.tls_server_name):
            return None
        return Tls(ca=self.tls_ca, cert=self.tls_cert, key=self.tls_key, server_name=self.tls_server_name)

    def token(self) -> Callable[[], str] | None:
        """Raises InvalidInput."""
        return None if self.token_file is None else token_of_file(self.token_file)


def connecting(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a connection, after its own; it takes them as `connection`."""
    own = [one for name, one in inspect.signature(command).parameters.items() if name != "connection"]
    options = list(inspect.signature(Connection).parameters.values())

    @functools.wraps(command)
    def run(**given: Any) -> None:
        connection = Connection(**{one.name: given.pop(one.name) for one in options})
        command(**given, connection=connection)

    signature = inspect.Signature([*(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own), *options])
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in signature.parameters.values()}
    return run
