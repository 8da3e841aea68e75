"""What the client is made of: its names, and what it does not need."""

import subprocess
import sys

import ntm_serve.client
from ntm_serve.testing import RunningSum, test_server

PUBLIC = {
    "AsyncClient": {
        "all_sessions",
        "close",
        "close_session",
        "drain",
        "fork",
        "group",
        "model",
        "models",
        "restore",
        "rewind",
        "session",
        "session_info",
        "session_state",
        "sessions",
        "snapshot",
        "timeout_s",
        "watch",
    },
    "AsyncGroup": {"close", "forget", "next_steps", "open", "step", "step_rows", "stream", "stream_rows"},
    "AsyncSession": {"close", "fork", "info", "rewind", "snapshot", "state", "step", "stream"},
    "Client": {
        "all_sessions",
        "close",
        "close_session",
        "drain",
        "fork",
        "group",
        "model",
        "models",
        "restore",
        "rewind",
        "session",
        "session_info",
        "session_state",
        "sessions",
        "snapshot",
        "timeout_s",
        "watch",
    },
    "Group": {"close", "forget", "next_steps", "open", "step", "step_rows", "stream", "stream_rows"},
    "Session": {"close", "fork", "info", "rewind", "snapshot", "state", "step", "stream"},
}
FACTS = {"id", "inputs", "model", "next_step", "outputs", "version"}

WALK = """
import asyncio, sys
import numpy as np
from ntm_serve.client import AsyncClient, Client

with Client(sys.argv[1]) as client, client.session("running-sum") as session:
    assert session.step([1]).tolist() == [1]
    for _ in session.stream([[1]] * 100):
        break
    session.step([1])
    with client.group("running-sum") as group:
        assert group.step({"a": [1]})["a"].tolist() == [1]
        for _ in group.stream([{"a": [1]}] * 100):
            break
        group.step({"a": [1]})

async def walk():
    asyncio.get_running_loop().slow_callback_duration = 60  # A busy machine is no fault of the client's.
    async with AsyncClient(sys.argv[1]) as client, await client.session("running-sum") as session:
        assert (await session.step([1])).tolist() == [1]
        async for _ in session.stream([[1]] * 100):
            break
        await session.step([1])
        async with client.group("running-sum") as group:
            assert (await group.step({"a": [1]}))["a"].tolist() == [1]
            async for _ in group.stream([{"a": [1]}] * 100):
                break
            await group.step({"a": [1]})

asyncio.run(walk())
not_the_clients = {"onnxruntime", "torch", "pydantic", "starlette", "structlog", "uvicorn", "prometheus_client"}
print(sorted(not_the_clients & set(sys.modules)))
"""


def test_the_public_names_are_these():
    assert sorted(ntm_serve.client.__all__) == [
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


def test_the_clients_have_these_methods(server):
    with ntm_serve.client.Client(server.target) as client, client.session("running-sum") as session:
        for one in (client, session, client.group("running-sum")):
            names = {name for name in dir(one) if not name.startswith("_")}
            facts = (
                FACTS | {"advance", "expect_standing", "meaning_of", "message_of", "stand_at"}
                if one is session
                else set()
            )
            assert names == PUBLIC[type(one).__name__] | facts
    for name in ("Client", "Session", "Group"):
        pair = [getattr(ntm_serve.client, prefix + name) for prefix in ("", "Async")]
        shown = [{one for one in dir(kind) if not one.startswith("_")} for kind in pair]
        assert shown[0] == shown[1]


def test_both_clients_work_with_warnings_as_errors_and_nothing_of_a_server():
    with test_server([RunningSum()]) as server:
        walked = subprocess.run(
            [sys.executable, "-W", "error", "-X", "dev", "-c", WALK, server.target],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (walked.returncode, walked.stdout, walked.stderr) == (0, "[]\n", "")
