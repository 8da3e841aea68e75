"""The client SDK, sync and aio: numpy in, numpy out. It needs neither ONNX Runtime nor any part of a server.

    with Client("localhost:8001") as client, client.session("copy-ff") as session:
        y = session.step(x)

Errors are those of `ntm_serve.errors`, whatever the transport called them.
"""

from ntm_serve.client.aio import AsyncClient, AsyncSession
from ntm_serve.client.aio_group import AsyncGroup
from ntm_serve.client.frames import Frame
from ntm_serve.client.group import Group
from ntm_serve.client.healing import RetryPolicy
from ntm_serve.client.rounds import Answer, Answers
from ntm_serve.client.sync import Client, Session
from ntm_serve.client.views import BatchIndependence, ModelInfo, SessionInfo, SessionSnapshot
from ntm_serve.durability import Durability
from ntm_serve.identity import Tls, Token, token_of_file
from ntm_serve.picture import Picture, Reduction

__all__ = [
    "Answer",
    "Answers",
    "AsyncClient",
    "AsyncGroup",
    "AsyncSession",
    "BatchIndependence",
    "Client",
    "Durability",
    "Frame",
    "Group",
    "ModelInfo",
    "Picture",
    "Reduction",
    "RetryPolicy",
    "Session",
    "SessionInfo",
    "SessionSnapshot",
    "Tls",
    "Token",
    "token_of_file",
]
