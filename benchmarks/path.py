"""The path of a step without the wire and without the model: microseconds of our own code for a message and for a
session in it, kept in memory and in a sqlite store. `python -m benchmarks.path`, or with `profile` for where they go,
or with `tenants` for what it costs that the sessions are a tenant's, and with `limits` that its steps are limited.
"""

import asyncio
import cProfile
import itertools
import pstats
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ntm_serve.claims import Claims
from ntm_serve.cli.serving import settle_garbage
from ntm_serve.durability import Durability
from ntm_serve.frontends.sessions import SessionsBehaviours
from ntm_serve.keeper import Keeper
from ntm_serve.keeping import Retention
from ntm_serve.lineage import Lineage
from ntm_serve.metrics import Metrics
from ntm_serve.replay import Replay
from ntm_serve.residency import Residency, ResidencySettings
from ntm_serve.scheduler import Scheduler
from ntm_serve.search import Search
from ntm_serve.service import Service
from ntm_serve.sessions import Limits, Sessions
from ntm_serve.stores.sqlite import SqliteStore
from ntm_serve.tenancy import Tenancy
from ntm_serve.tenants import NO_LIMITS, Accounts, TenantLimits
from ntm_serve.testing import RunningSum
from ntm_serve.v1 import sessions_pb2
from ntm_serve.watching import Watching
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


async def microseconds(
    sessions: int,
    messages: int,
    *,
    streams: int = 1,
    stored: bool = False,
    tenants: bool = False,
    limited: bool = False,
    profile: bool = False,
) -> float:
    """CPU time of one message with a step of so many sessions, on each of so many streams."""
    metrics = Metrics(version="", onnxruntime="", grpcio="")
    limits, loop = Limits(), asyncio.get_running_loop()
    shared: dict[str, Any] = {"observer": metrics, "clock": time.monotonic}
    with ThreadPoolExecutor(1) as executor, tempfile.TemporaryDirectory() as folder:
        keeper = Keeper(
            SqliteStore(Path(folder) / "store"), owner="path", retention=Retention(), lease_s=60.0, poll_s=1.0,
            patience_s=1.0, observer=metrics, post=loop.call_soon_threadsafe,
        )  # fmt: skip
        await keeper.give_word()
        scheduler = Scheduler(
            Still(), executor=executor, limits=limits, steps_waiting_max=10**6, keep=keeper.keep, **shared
        )
        scheduler._run_s = scheduler._row_s = 1e-9  # Everything runs inline.
        arrived_s = time.monotonic()  # All that follows, as if it came at once.
        every = TenantLimits(steps_waiting_max=10**6, steps_per_s_max=1e9) if limited else NO_LIMITS
        accounts = Accounts(every=every, total=every, clock=time.monotonic) if tenants else None
        shared |= {"sessions": Sessions(limits, accounts), "schedulers": {scheduler.key: scheduler}}
        schedulers = shared["schedulers"]
        replay = Replay(schedulers, observer=metrics, clock=time.monotonic)
        durability = Durability.PROCESS if stored else Durability.MEMORY
        durability = Durability.PROCESS if stored else Durability.MEMORY
        settings, claims = ResidencySettings(durability=durability), Claims(keeper)
        residency = Residency(replay=replay, claims=claims, settings=settings, **shared)
        watching = Watching(
            sessions=shared["sessions"], residency=residency, replay=replay, schedulers=schedulers,
            frames_per_s_max=30.0, clock=time.monotonic,
        )  # fmt: skip
        search = Search(sessions=shared["sessions"], residency=residency, schedulers=schedulers, clock=time.monotonic)
        service = Service(
            residency=residency, lineage=Lineage(residency, replay, schedulers=schedulers, claims=claims),
            watching=watching, search=search, faults={},
            sessions_per_message_max=4096, steps_per_message_max=4096, arrival_s=lambda: arrived_s, **shared,
        )  # fmt: skip
        face = Tenancy(service, accounts).of("acme")
        behaviours = SessionsBehaviours(face, messages_in_flight_max=1, stream_bytes_max=1 << 20)

        async def message() -> bytes:
            ids = [(await face.open_session("running-sum")).session_id for _ in range(sessions)]
            x = tensor_of("x", np.ones((sessions, 1, 1), np.float32))
            request = sessions_pb2.StepRequest(session_ids=ids, inputs=[x])
            return sessions_pb2.StreamRequest(step=request).SerializeToString()

        made = [await message() for _ in range(streams)]

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
        await keeper.close()
        return passed_s / messages * 1e6


class _Nothing:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def main() -> None:
    """Print the microseconds."""
    settle_garbage()
    profile, limited = "profile" in sys.argv, "limits" in sys.argv
    tenants = limited or "tenants" in sys.argv
    for stored, (sessions, streams) in itertools.product((False, True), ((1, 1), (1, 32), (256, 1))):
        messages = max(100, MESSAGES // sessions)
        options: dict[str, Any] = {"streams": streams, "stored": stored, "tenants": tenants, "limited": limited}
        us = min(asyncio.run(microseconds(sessions, messages, **options)) for _ in range(5))
        if profile:
            asyncio.run(microseconds(sessions, messages, profile=True, **options))
        print(
            f"{'sqlite' if stored else 'memory'}, {streams:3} streams, {sessions:4} sessions a message: {us:8.1f} us, "
            f"{us / sessions:6.2f} us a session"
        )


if __name__ == "__main__":
    main()
