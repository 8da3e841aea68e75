"""Anything in any order: clients of two servers that share a store on bad days, against what each session must say.

Each client has sessions of its own and asks either server. It knows the inputs that its session took, so every output
is known. An error that leaves open whether the steps were made is followed by the same message again, with its number,
until it is answered: so a step that was lost, or made twice, shows.
"""

import asyncio
import random
import time

import numpy as np
import pytest

from ntm_serve.durability import Durability
from ntm_serve.errors import (
    LimitReached,
    OwnedElsewhere,
    SessionClosed,
    SessionExists,
    StepAborted,
    StepAhead,
    StepForgotten,
    StoreUnavailable,
)
from ntm_serve.keeping import Retention
from ntm_serve.sessions import Limits
from ntm_serve.testing import RunningSum

from .faulty_store import ASKED, FaultyStore
from .replicas import LEASE_S, replica

CLIENTS = 6
OPERATIONS = 60
SEEDS = 6
# Nobody waits longer for one operation to be answered at last.
OPERATION_MAX_S = 30.0

LATER = (StoreUnavailable, OwnedElsewhere, LimitReached)


class Expected:
    """A session, as its client knows it: the inputs of its steps. start: the sum that it began with."""

    def __init__(self, name, inputs=()):
        self.name = name
        self.inputs = list(inputs)
        # No snapshot of a step before this one is asked for.
        self.least_step = len(self.inputs)

    def outputs(self, first, count):
        total, all_ = np.float32(0), []
        for value in self.inputs:
            total = np.float32(total + np.float32(value))
            all_.append(float(total))
        return all_[first : first + count]


class Client:
    def __init__(self, number, servers, choice):
        self.number = number
        self.servers = servers
        self.choice = choice
        self.sessions = []
        self.names = 0
        self.done = 0

    async def insist(self, ask):
        """Ask either server until one answers."""
        end_s = time.monotonic() + OPERATION_MAX_S
        while True:
            try:
                return await ask(self.choice.choice(self.servers))
            except LATER:
                assert time.monotonic() < end_s, "asked in vain"
                await asyncio.sleep(0.002)

    def new_name(self):
        self.names += 1
        return f"c{self.number}-{self.names}"

    async def run(self, operations):
        await self.open()
        for _ in range(operations):
            if not self.sessions:
                await self.open()
            session = self.choice.choice(self.sessions)
            act = self.choice.choices(
                (self.step, self.pipeline, self.retry, self.look, self.fork, self.rewind, self.restore, self.close,
                 self.open, self.leave_a_step, self.rest),
                (12, 6, 4, 3, 2, 2, 1, 1, 1, 3, 3),
            )[0]  # fmt: skip
            await act(session) if act != self.open else await self.open()
            self.done += 1
        for session in self.sessions:
            await self.look(session)

    async def open(self):
        name, durability = self.new_name(), self.choice.choice([Durability.PROCESS, Durability.DISK])
        await self.insist(lambda server: server.open(name, resume=True, durability=durability))
        self.sessions.append(Expected(name))

    def values(self):
        return [self.choice.randint(-9, 9) for _ in range(self.choice.choice([1, 1, 1, 2, 5]))]

    async def step(self, session):
        values, first = self.values(), len(session.inputs)
        session.inputs += values
        said = await self.insist(lambda server: server.step(session.name, *values, first=first))
        assert said == session.outputs(first, len(values))

    async def pipeline(self, session):
        """Several messages at once; those that fail are sent again, in order."""
        server, sent = self.choice.choice(self.servers), []
        for _ in range(3):
            values, first = self.values(), len(session.inputs)
            session.inputs += values
            sent.append((values, first, server.begin(session.name, *values, first=first)))
        for values, first, answer in sent:
            try:
                said = await answer
            except (*LATER, StepAborted, StepAhead):
                said = await self.insist(
                    lambda server, values=values, first=first: server.step(session.name, *values, first=first)
                )
            assert said == session.outputs(first, len(values))

    async def retry(self, session):
        """Of the last step: it is in every window."""
        if len(session.inputs) > session.least_step:
            first = len(session.inputs) - 1
            values = session.inputs[first:]
            said = await self.insist(lambda server: server.step(session.name, *values, first=first))
            assert said == session.outputs(first, 1)

    async def leave_a_step(self, session):
        """A caller that leaves; then it is asked again what became of it."""
        values, first = self.values(), len(session.inputs)
        asking = asyncio.create_task(self.choice.choice(self.servers).step(session.name, *values, first=first))
        for _ in range(self.choice.randint(0, 8)):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        session.inputs += values
        said = await self.insist(lambda server: server.step(session.name, *values, first=first))
        assert said == session.outputs(first, len(values))

    async def look(self, session):
        async def ask(server):
            if self.choice.random() < 0.5:
                return (await server.service.get_session(session.name)).next_step, None
            view, state = await server.service.get_state(session.name, ["*"])
            return view.next_step, state["total"].tolist()

        next_step, total = await self.insist(ask)
        assert next_step == len(session.inputs)
        assert total in (None, session.outputs(next_step - 1, 1) if next_step else [0])

    def a_step(self, session):
        return self.choice.randint(max(session.least_step, len(session.inputs) - 6), len(session.inputs))

    async def fork(self, session):
        if len(self.sessions) > 4:
            return
        step, name = self.a_step(session), self.new_name()

        async def ask(server):
            try:
                return await server.service.fork_session(session.name, fork_id=name, step=step)
            except SessionExists:  # An answer that was lost.
                return await server.service.get_session(name)

        view = await self.insist(ask)
        assert view.next_step == step
        fork = Expected(name, session.inputs[:step])
        self.sessions.append(fork)
        await self.step(fork)

    async def rewind(self, session):
        step = self.a_step(session)

        async def ask(server):
            try:
                return await server.service.rewind_session(session.name, step)
            except StepForgotten as forgotten:  # It was done, and has no past now.
                raise AssertionError(f"step {step} of {len(session.inputs)}") from forgotten

        view = await self.insist(ask)
        assert view.next_step == step
        del session.inputs[step:]
        session.least_step = step

    async def restore(self, session):
        if len(self.sessions) > 4:
            return
        _, snapshot = await self.insist(lambda server: server.service.snapshot_session(session.name))
        name = self.new_name()

        async def ask(server):
            try:
                return await server.service.restore_session(snapshot, session_id=name)
            except SessionExists:
                return await server.service.get_session(name)

        view = await self.insist(ask)
        assert view.next_step == len(session.inputs)
        self.sessions.append(Expected(name, session.inputs))

    async def close(self, session):
        async def ask(server):
            try:
                view = await server.service.close_session(session.name)
                assert view.next_step == len(session.inputs)
            except SessionClosed:
                pass

        await self.insist(ask)
        self.sessions.remove(session)

    async def rest(self, session):
        """It leaves memory where it is."""
        for server in self.servers:
            if here := server.sessions.get(session.name):
                server.residency.put_to_rest([here], reason="room")


async def bad_days(store, servers, clock, choice):
    """The store fails now and then, a server pauses for longer than its lease, sessions leave memory."""
    while True:
        await asyncio.sleep(choice.uniform(0, 0.01))
        what = choice.random()
        if what < 0.5:
            choice.choice([store.fails, store.loses])[choice.choice(ASKED)] = choice.randint(1, 3)
        elif what < 0.6:
            store.down = True
            await asyncio.sleep(choice.uniform(0, 0.03))
            store.down = False
        elif what < 0.7:
            clock.pass_(LEASE_S + 1)
        elif what < 0.8:
            server = choice.choice(servers)
            for session in list(server.sessions):
                if choice.random() < 0.3:
                    server.residency.put_to_rest([session], reason="room")


@pytest.mark.parametrize("local", [True, False], ids=["here", "thread"])
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_whatever_happens_no_step_is_lost_or_made_twice(seed, local, clock):
    choice, store = random.Random(seed), FaultyStore(local=local)
    options = {
        "clock": clock, "polls": True, "handover_s": 0.05, "patience_s": 0.02, "resident_bytes_max": 12 * 4,
        "limits": Limits(window_messages=8), "retention": Retention(snapshot_steps=7, retain_steps=20),
    }  # fmt: skip
    async with (
        replica(store, RunningSum(), name="a", **options) as a,
        replica(store, RunningSum(), name="b", **options) as b,
    ):
        days = asyncio.create_task(bad_days(store, (a, b), clock, choice))
        clients = [Client(number, (a, b), random.Random(100 * seed + number)) for number in range(CLIENTS)]
        tasks = [asyncio.create_task(client.run(OPERATIONS)) for client in clients]
        try:
            async with asyncio.timeout(60):
                for done in asyncio.as_completed(tasks):
                    await done
            assert not days.done()
        finally:
            for task in (days, *tasks):
                task.cancel()
            await asyncio.gather(days, *tasks, return_exceptions=True)
            store.down = False
            store.fails.clear()
            store.loses.clear()
        assert all(client.done == OPERATIONS for client in clients)
    async with replica(store, RunningSum(), clock=clock, name="c") as c:
        for client in clients:
            for session in client.sessions:
                assert (await c.service.get_session(session.name)).next_step == len(session.inputs)
                assert await c.step(session.name, 0) == ([*session.outputs(0, len(session.inputs)), 0.0][-2:-1] or [0])
        assert "differed" not in [*a.seen.told, *b.seen.told, *c.seen.told]
