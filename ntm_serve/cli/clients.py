"""The client that a command's options describe."""

from ntm_serve.cli.options import Connection
from ntm_serve.client import Client, RetryPolicy
from ntm_serve.client.healing import RETRY_DEFAULT


def client_of(connection: Connection, *, retry: RetryPolicy | None = RETRY_DEFAULT) -> Client:
    """Raises InvalidInput."""
    return Client(connection.server, retry=retry, tls=connection.identity_of_server(), token=connection.token())
