"""The scenarios: what is done to servers, networks and stores while sessions stream. Each gives figures."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from benchmarks.chaos.callers import Caller, Client, Wait, in_flight
from benchmarks.chaos.programs import Redis, Server
from benchmarks.chaos.proxy import Chaos, ChaosProxy
from benchmarks.chaos.stage import ANSWERS_MAX_S, Figures, Stage, all_heard, p99, reasons, standing, talking
from ntm_serve.record import crc_of, read_record
from ntm_serve.stores.opening import open_store

# What a server whose lease is over is waited for at least; servers here have the lease that is the default.
LEASE_S = 0.6
# A connection's share of each fault, and its replies' bytes until then: callers make another one every few messages. No
# port is closed: clients that are new, as most are here, take one that nobody listens on for a wrong address.
NETWORK = Chaos(
    cut=0.4, cut_at_once=0.03, half_close=0.05, black_hole=0.02, duplicate=0.05, stall=0.1, stall_s=0.5,
    after_bytes=(100, 2_000), latency_s=(0.0, 0.02),
)  # fmt: skip
MESSAGES_A_CONNECTION = 60

ZEROS = ("lost_steps", "double_steps", "swapped_steps", "wrong_bit_steps", "errors_raised", "server_faults")


async def kills(stage: Stage) -> Figures:
    """kill -9 at random moments, and the same server again on the same port and file."""
    server = await stage.server("server", f"sqlite:{stage.folder}/sessions.db")
    callers = stage.callers()
    waiting: list[int] = []
    async with talking(callers, [server.target] * len(callers)):
        await all_heard(callers)
        for number in range(stage.plan.kills):
            await asyncio.sleep(stage.random.uniform(0.0, 1.2))
            waiting.append(in_flight(callers))
            await server.kill()
            await server.start()
            stage.progress(number / stage.plan.kills)
    figures = await stage.judged(callers, server.target)
    return figures | {
        "kills": len(waiting),
        "kills_with_steps_in_flight": sum(count > 0 for count in waiting),
        "sessions_in_flight_at_kill": float(np.mean(waiting)),
    } | told(callers)  # fmt: skip


async def network(stage: Stage) -> Figures:
    """A network that cuts, delays, swallows and repeats what is on its way."""
    server = await stage.server("server", f"sqlite:{stage.folder}/sessions.db")
    callers = stage.callers()
    with ChaosProxy(server.target, NETWORK, seed=stage.seed) as proxy:
        async with talking(callers, [proxy.target] * len(callers), messages_max=MESSAGES_A_CONNECTION):
            await passing(stage, stage.plan.network_s)
            proxy.chaos = Chaos()
        counts = dict(proxy.counts)
    figures = await stage.judged(callers, server.target)
    return figures | {f"proxy_{name}": float(count) for name, count in sorted(counts.items())} | {
        "cut_share": counts.get("cut", 0) / counts["connections"],
    } | told(callers)  # fmt: skip


async def replicas(stage: Stage) -> Figures:
    """Three servers with one redis; one after another is restarted, or killed and started again."""
    redis = await stage.redis()
    servers = [await stage.server(f"server-{number}", redis.url) for number in range(3)]
    callers = stage.callers()
    addresses = ",".join(server.target for server in servers)
    events: list[tuple[float, str]] = []
    began_s = time.monotonic()
    async with talking(callers, [addresses] * len(callers)):
        await all_heard(callers)
        await asyncio.sleep(1.0)
        while time.monotonic() < began_s + stage.plan.rolling_s or len(events) < 2 * len(servers):
            server, word = servers[len(events) % len(servers)], ("sigterm", "kill")[len(events) // len(servers) % 2]
            events.append((time.monotonic(), word))
            await (server.end() if word == "sigterm" else server.kill())
            await server.start()
            await asyncio.sleep(stage.random.uniform(0.8, 1.6))
            stage.progress((time.monotonic() - began_s) / stage.plan.rolling_s)
    figures = await stage.judged(callers, servers[0].target)
    waits = {word: [] for word in ("sigterm", "kill")}  # type: dict[str, list[float]]
    for wait in (wait for caller in callers for wait in caller.waits):
        _, word = max(event for event in events if event[0] <= wait.failed_s)
        waits[word].append(wait.answered_s - wait.failed_s)
    for word, took_s in (*waits.items(), ("all", [*waits["sigterm"], *waits["kill"]])):
        figures[f"{word}_handovers"] = len(took_s)
        figures[f"{word}_handover_p50_s"] = float(np.median(took_s))
        figures[f"{word}_handover_p99_s"] = p99(took_s)
        figures[f"{word}_handover_max_s"] = max(took_s)
    return figures | {"sigterms": sum(word == "sigterm" for _, word in events), "kills": sum(
        word == "kill" for _, word in events
    )} | told(callers)  # fmt: skip


async def pauses(stage: Stage) -> Figures:
    """An owner that stands still for longer than its lease, while its sessions go on elsewhere; then it goes on."""
    redis = await stage.redis()
    servers = [await stage.server(f"server-{number}", redis.url) for number in range(2)]
    callers = stage.callers()
    everybody = [*callers]
    stale = fenced = 0
    for number in range(stage.plan.pauses):
        owner, other = stage.random.sample(servers, 2)
        callers, came_stale, got_through = await _paused(stage, callers, owner, other, redis, hear_out=number % 2 == 0)
        everybody += callers
        stale += came_stale
        fenced += got_through
        stage.progress(number / stage.plan.pauses)
    figures = await stage.judged(callers, servers[0].target)
    before = stage.verdict(everybody[: -len(callers)], [None] * (len(everybody) - len(callers)))
    logs = "".join(server.log.read_text() for server in servers)
    return figures | {
        "steps": figures["steps"] + before.steps,
        "lost_steps": figures["lost_steps"] + before.lost,
        "double_steps": figures["double_steps"] + before.doubled,
        "swapped_steps": figures["swapped_steps"] + before.swapped,
        "wrong_bit_steps": figures["wrong_bit_steps"] + before.wrong,
        "errors_raised": sum(len(caller.raised) for caller in everybody),
        "pauses": stage.plan.pauses,
        "stale_answers": stale,
        "fenced_writes_that_got_through": fenced,
        "writes_refused": logs.count('"OWNED_ELSEWHERE"'),
    } | told(everybody)  # fmt: skip


async def _paused(
    stage: Stage, callers: Sequence[Caller], owner: Server, other: Server, redis: Redis, *, hear_out: bool
) -> tuple[list[Caller], int, int]:
    """One pause: who goes on in the end, how many stale answers came, how many sessions the store has otherwise than
    their clients. hear_out: those who were talking to the owner wait for it; else they leave, and nobody asks it for a
    while.
    """
    async with asyncio.TaskGroup() as tasks:
        until = asyncio.Event()
        talks = [tasks.create_task(caller.talk(owner.target, until)) for caller in callers]
        await asyncio.sleep(stage.random.uniform(0.6, 1.2))
        owner.pause()
        until.set()
        following = [caller.successor() for caller in callers]
        async with talking(following, [other.target] * len(following)):
            await asyncio.sleep(LEASE_S + stage.random.uniform(0.3, 1.0))
        if not hear_out:
            for talk in talks:
                talk.cancel()
        owner.go_on()
        if not hear_out:
            await asyncio.sleep(0.5)
        async with Client(owner.target, on_failure=lambda _: None) as client:
            stands = await asyncio.gather(*(client.session_info(caller.session_id) for caller in following))
        stale = sum(one.next_step < caller.at for one, caller in zip(stands, following, strict=True))
        await asyncio.wait(talks, timeout=ANSWERS_MAX_S)
        late = [caller for caller, talk in zip(callers, talks, strict=True) if not talk.done()]
        if late:
            raise TimeoutError(f"the owner that goes on does not answer: {standing(late)}")
    return following, stale, await asyncio.to_thread(_stored_otherwise, stage, callers, following, redis)


def _stored_otherwise(stage: Stage, callers: Sequence[Caller], following: Sequence[Caller], redis: Redis) -> int:
    """How many sessions the store has otherwise than their clients heard and the reference says."""
    spec, outputs, otherwise = stage.reference.engine.spec, stage.outputs([*callers, *following]), 0
    store = open_store(redis.url, prefix="ntm-serve")
    try:
        for before, after in zip(callers, following, strict=True):
            stored = store.read(after.session_id)
            is_as_heard = stored.next_step == max(before.at, after.at)
            for one in stored.records:
                record = read_record(stored.session_id, one, spec)
                wanted = outputs[after.place][one.first_step : one.end_step]
                inputs = stage.reference.inputs(after.place, one.first_step, one.end_step - one.first_step)
                is_as_heard &= crc_of([wanted]) == record.outputs_crc and np.array_equal(record.inputs[0], inputs)
            otherwise += not is_as_heard
    finally:
        store.close()
    return otherwise


async def store_breaks(stage: Stage) -> Figures:
    """Two servers, and a redis that is restarted, killed and started again, or stands still for some seconds."""
    redis = await stage.redis()
    servers = [await stage.server(f"server-{number}", redis.url) for number in range(2)]
    callers = stage.callers()
    back_s: list[float] = []

    async def pause(seconds: float) -> None:
        redis.pause()
        await asyncio.sleep(seconds)
        redis.go_on()

    async def restart() -> None:
        await redis.end()
        await redis.start()

    async def kill() -> None:
        await redis.kill()
        await redis.start()

    # A pause is shorter than what redis is waited for, or longer: then callers are told, and ask again.
    breaks: Sequence[Callable[[], Awaitable[None]]] = (restart, lambda: pause(2.5), kill, lambda: pause(6.5), restart)
    async with talking(callers, [servers[place % 2].target for place in range(len(callers))]):
        await all_heard(callers)
        for number in range(stage.plan.store_breaks):
            await asyncio.sleep(stage.random.uniform(0.5, 1.5))
            await breaks[number % len(breaks)]()
            back_s.append(time.monotonic())
            stage.progress(number / stage.plan.store_breaks)
            await asyncio.sleep(1.5)
    figures = await stage.judged(callers, servers[0].target)
    resumed_s = [
        min((at - back for at in caller.answered_s if at >= back), default=float("inf"))
        for caller in callers
        for back in back_s
    ]
    return figures | {
        "store_breaks": len(back_s),
        "resumed_p50_s": float(np.median(resumed_s)),
        "resumed_p99_s": p99(resumed_s),
        "resumed_max_s": max(resumed_s),
    } | told(callers)  # fmt: skip


async def passing(stage: Stage, seconds: float) -> None:
    """Time goes by."""
    began_s = time.monotonic()
    while (gone_s := time.monotonic() - began_s) < seconds:
        stage.progress(gone_s / seconds)
        await asyncio.sleep(0.2)


def told(callers: Sequence[Caller]) -> Figures:
    """How often clients noticed anything, and what the SDK did not heal."""
    waits: list[Wait] = [wait for caller in callers for wait in caller.waits]
    return {
        "failures_healed": len(waits),
        "connections": sum(caller.connections for caller in callers),
        **{f"raised: {reason}": float(count) for reason, count in reasons(callers).items()},
    }


SCENARIOS: dict[str, Callable[[Stage], Awaitable[Figures]]] = {
    "kills": kills,
    "network": network,
    "replicas": replicas,
    "pauses": pauses,
    "store-breaks": store_breaks,
}
