"""Clients of sessions while servers come and go: each streams steps of one session through the SDK, and keeps all that
it was answered.

Rules of this file: a caller sends what the reference draws for its place, step by step, whatever happens to it; it
keeps what the SDK gave it, and corrects nothing.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import NamedTuple

import grpc
import numpy as np

from benchmarks.chaos.checker import Answer
from benchmarks.chaos.reference import Reference
from ntm_serve.client.aio import AsyncClient
from ntm_serve.client.conversion import channel_options
from ntm_serve.client.healing import Healing, RetryPolicy
from ntm_serve.errors import NtmServeError, StepConflict
from ntm_serve.v1 import models_pb2_grpc, sessions_pb2_grpc

STEPS_MAX = 8
IN_FLIGHT_MAX = 8
# Between two messages of a caller at most, so that the machine has time for all of them.
PAUSE_MAX_S = 0.06
# After an error that the SDK raised, until a caller begins anew.
AGAIN_S = 0.1
# Short waits: servers are away for a second, not for minutes, and are looked for by 64 and not by thousands.
RETRY = RetryPolicy(patience_s=60.0, backoff_max_s=0.2, silence_max_s=4.0)


class Wait(NamedTuple):
    """From a failure that a caller's client saw to the next answer; on the monotonic clock."""

    failed_s: float
    answered_s: float
    error: str


class Client(AsyncClient):
    """An AsyncClient with connections of its own, where those of one process would share them. It tells of failures."""

    def __init__(self, target: str, *, on_failure: Callable[[NtmServeError], None], retry: RetryPolicy = RETRY) -> None:
        super().__init__(target, retry=retry)
        options = (*channel_options(retry), ("grpc.use_local_subchannel_pool", 1))
        self._channels = [grpc.aio.insecure_channel(address, options=options) for address in self._lines.addresses]
        self._sessions = tuple(sessions_pb2_grpc.SessionsStub(channel) for channel in self._channels)
        self._models = tuple(models_pb2_grpc.ModelsStub(channel) for channel in self._channels)
        self._healing = _Telling(retry, on_failure)


class _Telling(Healing):
    def __init__(self, retry: RetryPolicy, on_failure: Callable[[NtmServeError], None]) -> None:
        super().__init__(retry, clock=time.monotonic)
        self._on_failure = on_failure

    def heard(self, outcome: object) -> None:
        if isinstance(outcome, NtmServeError):
            self._on_failure(outcome)
        super().heard(outcome)


class Caller:
    """The client of one session. Begun where another stands, it has answers from there on."""

    def __init__(self, reference: Reference, place: int, *, session_id: str, seed: int, start: int = 0) -> None:
        self.place = place
        self.session_id = session_id
        # The next step that was not answered.
        self.start = self.at = start
        self.answers: list[Answer] = []
        # When each came, on the monotonic clock.
        self.answered_s: list[float] = []
        self.waits: list[Wait] = []
        # What the SDK raised: it is there to raise nothing of what passes.
        self.raised: list[NtmServeError] = []
        self.connections = 0
        self.has_successor = False
        self.sent_step = start
        self._reference = reference
        self._seed = seed
        self._random = random.Random(f"{seed} {place} {start}")
        self._failed: tuple[float, NtmServeError] | None = None

    def successor(self) -> "Caller":
        """Another client of the session, that goes on where this one is. It sends all that this one has sent too: what
        of it was made, nobody knows.
        """
        self.has_successor = True
        other = Caller(self._reference, self.place, session_id=self.session_id, seed=self._seed, start=self.at)
        other.sent_step = self.sent_step
        return other

    async def talk(self, target: str, until: asyncio.Event, *, messages_max: int | None = None) -> None:
        """Stream steps until it is time, and hear all the answers. messages_max: over one connection; then it makes
        another. Where another client has gone on with the session meanwhile, this one gives way.
        """
        while True:
            self.connections += 1
            try:
                async with Client(target, on_failure=self._failure) as client:
                    await self._stream(client, until, messages_max)
            except StepConflict as conflict:
                if not self.has_successor:
                    self.raised.append(conflict)
                return
            except NtmServeError as error:
                self.raised.append(error)
                await asyncio.sleep(AGAIN_S)
                continue
            if until.is_set() and self.at == self.sent_step:
                return

    async def _stream(self, client: AsyncClient, until: asyncio.Event, messages_max: int | None) -> None:
        session = await client.session(self._reference.engine.card.name, session_id=self.session_id, resume=True)
        # What was made and not answered is asked for again.
        session.next_step = min(session.next_step, self.at)
        messages = None if messages_max is None else self._random.randint(1, messages_max)
        xs = self._messages(session.next_step, until, messages)
        async for y in session.stream(xs, in_flight_max=self._random.randint(1, IN_FLIGHT_MAX)):
            assert isinstance(y, np.ndarray)
            self._heard(Answer(session.next_step - len(y), y))

    async def _messages(self, at: int, until: asyncio.Event, count: int | None) -> AsyncIterator[np.ndarray]:
        while (count is None or count > 0) and (at < self.sent_step or not until.is_set()):
            steps = self._random.randint(1, STEPS_MAX)
            self.sent_step = max(self.sent_step, at + steps)
            yield self._reference.inputs(self.place, at, steps)
            at += steps
            count = None if count is None else count - 1
            await asyncio.sleep(self._random.uniform(0.0, PAUSE_MAX_S))

    def _heard(self, answer: Answer) -> None:
        now_s = time.monotonic()
        self.answers.append(answer)
        self.answered_s.append(now_s)
        self.at = answer.first_step + len(answer.outputs)
        if self._failed is not None:
            failed_s, error = self._failed
            self.waits.append(Wait(failed_s, now_s, error.reason))
            self._failed = None

    def _failure(self, error: NtmServeError) -> None:
        """The first since the last answer counts."""
        if self._failed is None:
            self._failed = time.monotonic(), error


def in_flight(callers: Sequence[Caller]) -> int:
    """How many of them wait for answers."""
    return sum(caller.at < caller.sent_step for caller in callers)
