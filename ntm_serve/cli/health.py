"""The command that health checks run. It imports little, so that it can be run often."""

from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ntm_serve.cli.options import Connection, connecting
from ntm_serve.errors import ServerUnreachable

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@connecting
def health(
    service: Annotated[
        str, typer.Argument(metavar="[NAME]", help="a model, or liveness; the server as a whole if not given")
    ] = "",
    timeout_s: Annotated[float, typer.Option(min=0.1, help="longest wait for the answer")] = 5.0,
    *,
    connection: Connection,
) -> None:
    """Ask a server whether it takes calls: status 0 where it does, 1 where not. By gRPC's health checking."""
    with connection.channel() as channel:
        ask = health_pb2_grpc.HealthStub(channel).Check
        try:
            answer = ask(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.RpcError as failed:
            raise ServerUnreachable(f"{connection.server}: {failed.code().name}: {failed.details()}") from None
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise typer.Exit(1)


app.command()(health)


@app.callback()
def _by_its_name() -> None:
    """With one command and nothing else an application would not take the command's name."""
