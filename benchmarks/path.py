"""The path of a step without the wire and without the model: microseconds of our own code for a message and for a
session in it. `python -m benchmarks.path`, or with `profile` for where they go.
"""

import asyncio
import cProfile
import pstats
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ntm_serve.cli.serving import settle_garbage
from ntm_serve.frontends.sessions import SessionsBehaviours
from ntm_serve.metrics import Metrics
from ntm_serve.scheduler import Scheduler
from ntm_serve.service import Service
from ntm_serve.sessions import Limits, Sessions
from ntm_serve.testing import RunningSum
from ntm_serve.v1 import sessions_pb2
from ntm_serve.wire import tensor_of

MESSAGES = 2000


class Still(RunningSum):
    """A model that costs nothing: it gives back what it got."""

    def run(self, inputs: Any, state: Any) -> Any:
        return inputs, state


class FakeCall:
    """A call whose client sends a message as soon as it is asked for one, until there are no more."""

    method = "/ntm_serve.v1.Sessions/Stream"

    def __init__(self, message: bytes, count: int, loop: asyncio.AbstractEventLoop) -> None:
        self.message, self.left, self.loop = message, count, loop
        self.done = loop.create_future()

    def begin(self) -> None: ...

    def read(self, on_message: Any) -> None:
        if self.left:
            self.left -= 1
            self.loop.call_soon(on_message, self.message)
        else:
            self.done.set_result(None)

    def write(self, _: bytes, on_written: Any) -> None:
        self.loop.call_soon(on_written)


async def microseconds(sessions: int, messages: int, *, streams: int = 1, profile: bool = False) -> float:
    """CPU time of one message with a step of so many sessions, on each of so many streams."""
    metrics = Metrics(version="", onnxruntime="", grpcio="")
    limits, loop = Limits(), asyncio.get_running_loop()
    with ThreadPoolExecutor(1) as executor:
        scheduler = Scheduler(
            Still(), executor=executor, limits=limits, steps_waiting_max=10**6, observer=metrics, clock=time.monotonic
        )
        scheduler._run_s = scheduler._row_s = 1e-9  # Everything runs inline.
        arrived_s = time.monotonic()  # All that follows, as if it came at once.
        service = Service(
            sessions=Sessions(limits), schedulers=[scheduler], faults={}, sessions_per_message_max=4096,
            steps_per_message_max=4096, observer=metrics, clock=time.monotonic, arrival_s=lambda: arrived_s,
        )  # fmt: skip
        behaviours = SessionsBehaviours(service, messages_in_flight_max=1, stream_bytes_max=1 << 20)

        def message() -> bytes:
            ids = [service.open_session("running-sum").session_id for _ in range(sessions)]
            x = tensor_of("x", np.ones((sessions, 1, 1), np.float32))
            request = sessions_pb2.StepRequest(session_ids=ids, inputs=[x])
            return sessions_pb2.StreamRequest(step=request).SerializeToString()

        made = [message() for _ in range(streams)]

        async def run(count: int) -> None:
            calls = [FakeCall(one, count, loop) for one in made]
            for call in calls:
                behaviours.Stream(call)  # type: ignore[arg-type]
            for call in calls:
                await call.done

        await run(100)
        with cProfile.Profile() if profile else _Nothing() as profiler:
            started_s = time.process_time()
            await run(messages // streams)
            passed_s = time.process_time() - started_s
        if profile:
            pstats.Stats(profiler).sort_stats("tottime").print_stats(35)
        return passed_s / messages * 1e6


class _Nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def main() -> None:
    """Print the microseconds."""
    settle_garbage()
    profile = "profile" in sys.argv
    for sessions, streams in ((1, 1), (1, 32), (256, 1)):
        messages = max(100, MESSAGES // sessions)
        runs = [asyncio.run(microseconds(sessions, messages, streams=streams)) for _ in range(5)]
        if profile:
            asyncio.run(microseconds(sessions, messages, streams=streams, profile=True))
        us = min(runs)
        print(f"{streams:3} streams, {sessions:4} sessions a message: {us:8.1f} us, {us / sessions:6.2f} us a session")


if __name__ == "__main__":
    main()
