"""What every scenario has: a folder, the reference, programs that are gone in the end, callers, and the verdict."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from benchmarks.chaos.callers import Caller, Client
from benchmarks.chaos.checker import Verdict, check
from benchmarks.chaos.programs import Program, Redis, Server
from benchmarks.chaos.reference import Reference

MODEL = "copy-ff"
# When callers send nothing more, all that they sent is answered within this, or a scenario has failed.
ANSWERS_MAX_S = 60.0

Figures = dict[str, float]
P = TypeVar("P", bound=Program)


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    sessions: int = 64
    kills: int = 100
    network_s: float = 90.0
    rolling_s: float = 60.0
    pauses: int = 12
    store_breaks: int = 10


LONG = Plan()
SHORT = Plan(kills=10, network_s=10.0, rolling_s=14.0, pauses=3, store_breaks=3)


class Stage:
    """Of one scenario. progress is told which part of it is done."""

    def __init__(
        self,
        folder: Path,
        *,
        zoo: Path,
        plan: Plan,
        seed: int,
        progress: Callable[[float], None] = lambda part: None,
    ) -> None:
        self.folder = folder
        self.plan = plan
        self.seed = seed
        self.progress = progress
        self.random = random.Random(seed)
        self.reference = Reference(zoo / MODEL / "1", seed=seed)
        # A repository of the one model, so that servers start soon.
        self._models = folder / "models"
        self._models.mkdir()
        (self._models / MODEL).symlink_to((zoo / MODEL).resolve(), target_is_directory=True)
        self._programs: list[Program] = []

    async def server(self, name: str, store: str, *options: str) -> Server:
        """A server that answers."""
        return await self._started(Server(name, self.folder, models=self._models, store=store, options=options))

    async def redis(self) -> Redis:
        """A redis that answers."""
        return await self._started(Redis(self.folder))

    async def _started(self, program: P) -> P:
        self._programs.append(program)
        await program.start()
        return program

    async def close(self) -> None:
        """All programs are gone."""
        for program in reversed(self._programs):
            await program.remove()

    def callers(self) -> list[Caller]:
        """One of each session, which is opened when its caller comes first."""
        return [
            Caller(self.reference, place, session_id=f"chaos-{place}", seed=self.seed)
            for place in range(self.plan.sessions)
        ]

    async def judged(self, callers: Sequence[Caller], target: str) -> Figures:
        """What all callers heard and where the sessions stand, against the reference; and what servers logged."""
        async with Client(target, on_failure=lambda _: None) as client:
            stands_at = [(await client.session_info(caller.session_id)).next_step for caller in callers]
        verdict = self.verdict(callers, stands_at)
        logs = "".join(program.log.read_text() for program in self._programs if isinstance(program, Server))
        return {
            "sessions": len(callers),
            "steps": verdict.steps,
            "lost_steps": verdict.lost,
            "double_steps": verdict.doubled,
            "swapped_steps": verdict.swapped,
            "wrong_bit_steps": verdict.wrong,
            "errors_raised": sum(len(caller.raised) for caller in callers),
            "server_faults": logs.count("Traceback"),
        }

    def verdict(self, callers: Sequence[Caller], stands_at: Iterable[int | None]) -> Verdict:
        """What these heard, against the reference."""
        reference = self.outputs(callers)
        verdict = Verdict()
        for caller, stands in zip(callers, stands_at, strict=True):
            verdict += check(caller.answers, reference[caller.place], start=caller.start, stands_at=stands)
        return verdict

    def outputs(self, callers: Sequence[Caller]) -> dict[int, np.ndarray]:
        """What these must have heard, by place."""
        return self.reference.outputs(
            [caller.place for caller in callers], max(max(caller.at, caller.sent_step) for caller in callers)
        )


@asynccontextmanager
async def talking(
    callers: Sequence[Caller], targets: Sequence[str], *, messages_max: int | None = None
) -> AsyncIterator[asyncio.Event]:
    """Callers talk, each to its target, while the block lasts or until the event is set; then they hear the rest."""
    until = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        talks = [
            tasks.create_task(caller.talk(target, until, messages_max=messages_max))
            for caller, target in zip(callers, targets, strict=True)
        ]
        yield until
        until.set()
        _, late = await asyncio.wait(talks, timeout=ANSWERS_MAX_S)
        if late:
            stuck = [caller for caller, talk in zip(callers, talks, strict=True) if talk in late]
            raise TimeoutError(
                f"{len(stuck)} of {len(callers)} were not answered within {ANSWERS_MAX_S:g} s: {standing(stuck)}"
            )


async def all_heard(callers: Sequence[Caller]) -> None:
    """Each has an answer: a client waits longer for a server that it knows than for one that never answered it."""
    while not all(caller.answers for caller in callers):  # noqa: ASYNC110
        await asyncio.sleep(0.02)


def standing(callers: Sequence[Caller]) -> str:
    """Where some of these stand, and the last error of each."""
    return ", ".join(f"{one.session_id} at {one.at} of {one.sent_step}: {one.raised[-1:]}" for one in callers[:5])


def reasons(callers: Sequence[Caller]) -> dict[str, int]:
    """Errors that the SDK raised, and how often."""
    return dict(Counter(str(error)[:200] for caller in callers for error in caller.raised))


def p99(values: Sequence[float]) -> float:
    """Where 99 of 100 are no larger; not a number where there are none."""
    return float(np.percentile(values, 99)) if values else float("nan")
