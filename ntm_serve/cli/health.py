"""The command that health checks run where nothing but the server is installed, as in a container."""

from typing import Annotated

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ntm_serve.cli.options import DEFAULT_SERVER, Server
from ntm_serve.client.conversion import error_of_call


def health(
    service: Annotated[
        str, typer.Argument(metavar="[NAME]", help="a model, or liveness; the server as a whole if not given")
    ] = "",
    timeout_s: Annotated[float, typer.Option(min=0.1, help="longest wait for the answer")] = 3.0,
    server: Server = DEFAULT_SERVER,
) -> None:
    """Ask a server whether it takes sessions: status 0 where it does, 1 where not. By gRPC's health checking."""
    with grpc.insecure_channel(server) as channel:
        ask = health_pb2_grpc.HealthStub(channel).Check
        try:
            answer = ask(health_pb2.HealthCheckRequest(service=service), timeout=timeout_s)
        except grpc.RpcError as failed:
            raise error_of_call(failed) from None
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        raise typer.Exit(1)
