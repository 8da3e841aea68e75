"""Snapshot, restore, fork and rewind: each begins where the session stood, and changes nobody else."""

import asyncio

import numpy as np
import pytest

from ntm_serve.durability import Durability
from ntm_serve.errors import (
    InvalidInput,
    LimitReached,
    ModelUnknown,
    NtmServeError,
    SessionClosed,
    SessionExists,
    SnapshotRejected,
    StepAborted,
    StepForgotten,
    StoreDamaged,
)
from ntm_serve.keeping import Retention
from ntm_serve.sessions import Limits
from ntm_serve.snapshot import decoded, encoded
from ntm_serve.store import Snapshot
from ntm_serve.testing import Gate, RunningSum

from .replicas import CompanySum, digested, replica

VALUES = [round(0.1 * number, 1) for number in range(1, 21)]
RETAINING = Retention(snapshot_steps=4, retain_steps=12)


def totals(values):
    total, all_ = np.float32(0), []
    for value in values:
        total = np.float32(total + np.float32(value))
        all_.append(float(total))
    return all_


async def twenty_steps(a, name="s"):
    """In messages of one, two and three steps."""
    await a.open(name)
    at = 0
    while at < len(VALUES):
        count = min(1 + at % 3, len(VALUES) - at)
        await a.step(name, *VALUES[at : at + count], first=at)
        at += count


@pytest.mark.parametrize("rested", [False, True])
async def test_every_retained_step_can_be_forked_snapshot_and_rewound_to(store, clock, rested):
    expected = totals(VALUES)
    async with replica(store, clock=clock, retention=RETAINING, limits=Limits(window_messages=2)) as a:
        await twenty_steps(a)
        oldest = (await a.service.get_session("s")).oldest_retained_step
        assert 0 < oldest <= 20 - RETAINING.retain_steps
        with pytest.raises(StepForgotten) as refused:
            await a.service.fork_session("s", step=oldest - 1)
        assert refused.value.fields == {"oldest_step": str(oldest)}
        with pytest.raises(InvalidInput, match="got 21"):
            await a.service.fork_session("s", step=21)
        for step in range(oldest, 21):
            if rested:
                await a.rest("s")
            fork = await a.service.fork_session("s", fork_id=f"f{step}", step=step)
            assert (fork.next_step, fork.oldest_retained_step, fork.durability) == (step, step, Durability.PROCESS)
            at, snapshot = await a.service.snapshot_session("s", step)
            assert (at, decoded(snapshot).state[0][0]) == (step, np.float32(expected[step - 1]))
            restored = await a.service.restore_session(snapshot, session_id=f"r{step}")
            assert restored.next_step == step
            for name in (f"f{step}", f"r{step}"):
                assert await a.step(name, *VALUES[step:], 1, first=step) == totals([*VALUES, 1])[step:]
                with pytest.raises(StepForgotten):
                    await a.step(name, 1, first=step - 1)
        # The parent stands where it stood, and so does the store.
        assert (await a.service.get_session("s")).next_step == 20
        assert await a.step("s", 1, first=20) == [totals([*VALUES, 1])[-1]]
        oldest_now = (await a.service.get_session("s")).oldest_retained_step
        for step in range(20, oldest_now, -3):
            await a.service.fork_session("s", fork_id=f"again{step}", step=step)
            view = await a.service.rewind_session(f"again{step}", step)
            assert view.next_step == step
        assert (await a.service.rewind_session("s", oldest + 5)).next_step == oldest + 5
        assert await a.step("s", 1, first=oldest + 5) == [float(np.float32(expected[oldest + 4]) + np.float32(1))]
    async with replica(store, clock=clock) as a:
        for step in range(oldest, 21):
            for name in (f"f{step}", f"r{step}"):
                assert await a.step(name, 0, first=21) == totals([*VALUES, 1])[-1:]
        assert (await a.service.get_session("s")).next_step == oldest + 6


async def test_every_step_that_a_rewind_left_is_gone_and_its_number_is_free(store, clock):
    async with replica(store, clock=clock) as a:
        await a.open()
        await a.step("s", 1, 2, 3)
        assert (await a.service.rewind_session("s", 1)).next_step == 1
        assert await a.step("s", 10, first=1) == [11]
        with pytest.raises(StepForgotten):
            await a.step("s", 1, first=0)
    async with replica(store, clock=clock) as a:
        assert await a.step("s", 10, first=1) == [11]
        assert await a.step("s", 0, first=2) == [11]
        assert (await a.service.rewind_session("s", 1)).next_step == 1
        assert await a.step("s", 0, first=1) == [1]


async def test_a_session_in_memory_alone_can_be_forked_restored_and_rewound_as_it_stands(store, clock):
    async with replica(store, clock=clock) as a:
        await a.open(durability=Durability.MEMORY)
        await a.step("s", 1, 2)
        fork = await a.service.fork_session("s", fork_id="f")
        assert (fork.durability, fork.next_step) == (Durability.MEMORY, 2)
        assert (await a.service.fork_session("s", fork_id="d", durability=Durability.PROCESS)).durable_step == 2
        assert (await a.service.rewind_session("s", 2)).next_step == 2
        with pytest.raises(StepForgotten, match="it lives in memory alone"):
            await a.service.rewind_session("s", 1)
        for name in "sfd":
            assert await a.step(name, 1) == [4]
        await a.rest("d")
        assert await a.step("d", 1) == [5]


async def test_a_company_sum_is_forked_and_rewound_where_messages_ended(store, clock):
    retention = Retention(retain_steps=10)
    async with replica(store, CompanySum(), clock=clock, retention=retention) as a:
        await a.open()
        said = [await a.step("s", number) for number in range(8)]
        for step in range(1, 9):
            await a.service.fork_session("s", fork_id=f"f{step}", step=step)
            (_, state) = await a.service.get_state(f"f{step}", ["*"])
            assert state["total"].tolist() == [sum(range(step))]
        await a.service.rewind_session("s", 5)
        with pytest.raises(StepForgotten):
            await a.step("s", 4, first=4)
        await a.step("s", 50)
        await a.rest("s")
        (_, state) = await a.service.get_state("s", ["*"])
        assert state["total"].tolist() == [60]
        assert len(said) == 8


async def test_a_fork_while_steps_are_in_flight_begins_at_what_is_made(store, clock):
    gate = Gate()
    async with replica(store, RunningSum(before_run=gate), clock=clock) as a:
        await a.open()
        gate.let_through(1)
        await a.step("s", 1)
        answer = a.begin("s", 10)
        await asyncio.to_thread(gate.await_run)
        await asyncio.to_thread(gate.await_run)
        fork = await a.service.fork_session("s", fork_id="f")
        assert fork.next_step == 1
        gate.open()
        assert await answer == [11]
        assert await a.step("f", 1) == [2]


@pytest.mark.parametrize("to", [0, 1])
async def test_a_rewind_while_steps_run_aborts_them(store, clock, to):
    gate = Gate()
    async with replica(store, RunningSum(before_run=gate), clock=clock) as a:
        await a.open()
        gate.let_through(1)
        await a.step("s", 1)
        answers = [a.begin("s", 10), a.begin("s", 10)]
        await asyncio.to_thread(gate.await_run)
        await asyncio.to_thread(gate.await_run)
        rewinding = asyncio.create_task(a.service.rewind_session("s", to))
        for answer in answers:
            with pytest.raises(StepAborted):
                await answer
        gate.open()
        assert (await rewinding).next_step == to
        assert await a.step("s", 5, first=to) == [5 + to]
        await a.rest("s")
        assert await a.step("s", 5, first=to + 1) == [10 + to]


@pytest.mark.parametrize("to", [0, 1])
@pytest.mark.parametrize("held_name", ["commit", "sync"])
async def test_a_rewind_while_the_store_keeps_steps_leaves_none_of_them(slow, clock, to, held_name):
    async with replica(slow, clock=clock) as a:
        await a.open(durability=Durability.DISK)
        await a.open("other")
        await a.step("s", 1)
        with slow.held(held_name) as held:
            blocking = a.begin("other", 1) if held_name == "commit" else a.begin("s", 10)
            await asyncio.to_thread(held.await_call)
            answers = [a.begin("s", 10), a.begin("s", 10)]
            await a.until(lambda: held_name == "sync" or a.keeper._unwritten.waiting)
            rewinding = asyncio.create_task(a.service.rewind_session("s", to))
            for answer in answers:
                with pytest.raises(StepAborted):
                    await answer
            waiting = a.begin("s", 5, first=to)
        assert (await rewinding).next_step == to
        assert await waiting == [5 + to]
        if held_name == "commit":
            assert await blocking == [1]
        else:
            with pytest.raises(StepAborted):
                await blocking
        assert slow.read("s").next_step == to + 1
        await a.rest("s")
        assert await a.step("s", 5, first=to + 1) == [10 + to]


async def test_rewinds_of_one_session_at_once_come_one_after_another(store, clock):
    async with replica(store, clock=clock) as a:
        await a.open()
        await a.step("s", 1, 1, 1, 1)
        views = await asyncio.gather(
            *[a.service.rewind_session("s", step) for step in (3, 2, 1)], return_exceptions=True
        )
        assert views[0].next_step == 3
        # A session that was rewound has no past: the others ask for less than there is.
        assert all(isinstance(view, StepForgotten) for view in views[1:])
        assert await a.step("s", 1) == [4]


async def test_a_rewind_that_waits_behind_another_finds_the_session_also_where_it_left_memory(slow, clock):
    async with replica(slow, clock=clock) as a:
        await a.open()
        await a.step("s", 1, 1)
        with slow.held("read") as held:
            first = asyncio.create_task(a.service.rewind_session("s", 2))
            await asyncio.to_thread(held.await_call)
            others = [asyncio.create_task(a.service.rewind_session("s", 2)) for _ in range(3)]
            await asyncio.sleep(0)

            def leave():
                if session := a.sessions.get("s"):
                    a.residency.put_to_rest([session], reason="room")
                if not all(other.done() for other in others):
                    asyncio.get_running_loop().call_soon(leave)

            leave()
        assert [(await one).next_step for one in (first, *others)] == [2, 2, 2, 2]


async def test_a_fork_of_a_step_that_is_let_go_meanwhile_is_refused(slow, clock):
    retention, limits = Retention(snapshot_steps=2), Limits(window_messages=1)
    async with replica(slow, clock=clock, retention=retention, limits=limits) as a:
        await a.open()
        for number in range(6):
            await a.step("s", 1, first=number)
        oldest = (await a.service.get_session("s")).oldest_retained_step
        with slow.held("read") as held:
            forking = asyncio.create_task(a.service.fork_session("s", step=oldest))
            await asyncio.to_thread(held.await_call)
            # As a commit that was before it would.
            claim = a.sessions.find("s").kept.claim
            state = (np.full(1, 6, np.float32),)
            model = a.models[0]
            start = Snapshot(6, encoded(model.card, model.spec.state, "s", 6, state))
            slow.__class__.__mro__[1].restart(slow, claim, start, used_at_s=clock.time())
        with pytest.raises(StepForgotten):
            await forking


async def test_a_fork_of_a_step_that_is_rewound_meanwhile_is_refused(slow, clock):
    async with replica(slow, clock=clock) as a:
        await a.open()
        await a.step("s", 1, 1, 1, 1)
        with slow.held("read") as held:
            forking = asyncio.create_task(a.service.fork_session("s", step=3))
            await asyncio.to_thread(held.await_call)
            model = a.models[0]
            start = Snapshot(1, encoded(model.card, model.spec.state, "s", 1, (np.ones(1, np.float32),)))
            slow.__class__.__mro__[1].restart(slow, a.sessions.find("s").kept.claim, start, used_at_s=clock.time())
        with pytest.raises(NtmServeError, match="got 3"):
            await forking


async def test_names_of_forks_and_restored_sessions_must_be_free(store, clock):
    async with replica(store, clock=clock) as a:
        await a.open("s")
        await a.open("t")
        await a.rest("t")
        _, snapshot = await a.service.snapshot_session("s")
        for name in "st":
            with pytest.raises(SessionExists):
                await a.service.fork_session("s", fork_id=name)
            with pytest.raises(SessionExists):
                await a.service.restore_session(snapshot, session_id=name)
        assert len((await a.service.fork_session("s")).session_id) == 32


async def test_a_snapshot_is_restored_by_a_server_of_the_same_model_and_by_no_other(store, clock):
    async with replica(store, digested(RunningSum(), "d1"), clock=clock) as a:
        await a.open()
        await a.step("s", 7)
        _, snapshot = await a.service.snapshot_session("s")
    async with replica(type(store)(), digested(RunningSum(version="2"), "d1"), clock=clock) as b:
        assert (await b.service.restore_session(snapshot, session_id="r")).model.version == "2"
        assert await b.step("r", 1, first=1) == [8]
    async with replica(type(store)(), digested(RunningSum(), "d2"), clock=clock) as b:
        with pytest.raises(SnapshotRejected, match="with digest d1"):
            await b.service.restore_session(snapshot)
        with pytest.raises(SnapshotRejected):
            await b.service.restore_session(snapshot[:-1])
        with pytest.raises(SnapshotRejected):
            await b.service.restore_session(b"")


async def test_a_session_of_a_model_that_is_not_served_here_is_refused_and_given_back(store, clock):
    async with replica(store, RunningSum(name="gone"), clock=clock) as a:
        await a.open("s", "gone")
        await a.step("s", 1)
    async with replica(store, RunningSum(), clock=clock, name="b") as b:
        for ask in (b.step("s", 1), b.service.get_state("s", []), b.service.fork_session("s")):
            with pytest.raises(ModelUnknown, match="session s: is one of model gone/1, which is not served here"):
                await ask
        assert (await b.service.get_session("s")).next_step == 1
        assert [view.session_id for view in await b.service.list_sessions()] == ["s"]
        await b.keeper.call(lambda: None)
        assert store.read("s").owner == ""


async def test_a_session_of_another_digest_is_refused_and_given_back(store, clock):
    async with replica(store, digested(RunningSum(), "d1"), clock=clock) as a:
        await a.open()
        await a.step("s", 1)
    async with replica(store, digested(RunningSum(), "d2"), clock=clock) as b:
        with pytest.raises(StoreDamaged, match="session s: was opened with model running-sum/1 of digest d1"):
            await b.step("s", 1)
        await b.keeper.call(lambda: None)
        assert store.read("s").owner == ""


# Damage


def flipped(payload, at):
    return payload[:at] + bytes([payload[at] ^ 0x10]) + payload[at + 1 :]


async def two_sessions(store, clock):
    async with replica(store, clock=clock, retention=Retention(snapshot_steps=3)) as a:
        for name in "st":
            await a.open(name)
            for number in range(5):
                await a.step(name, number)


async def expect_damaged(a, match):
    both = await asyncio.gather(a.step("s", 1), a.step("t", 1), return_exceptions=True)
    assert both[1] == [11]
    for ask in (lambda: a.step("s", 1), lambda: a.service.get_state("s", [])):
        with pytest.raises(StoreDamaged, match=match):
            await ask()
    await a.keeper.call(lambda: None)
    assert a.store._claims.newest("s").owner == ""


@pytest.mark.parametrize("at", [0, 1, 3, 7, 11])
async def test_a_damaged_record_is_that_sessions_alone(store, clock, at):
    await two_sessions(store, clock)
    records = store._open["s"].records
    records[4] = records[4]._replace(payload=flipped(records[4].payload, at))
    async with replica(store, clock=clock) as a:
        await expect_damaged(a, "session s: record of steps 4 to 5")


async def test_a_session_that_cannot_come_back_can_be_closed(store, clock):
    await two_sessions(store, clock)
    records = store._open["s"].records
    records[4] = records[4]._replace(payload=flipped(records[4].payload, 11))
    async with replica(store, clock=clock) as a:
        with pytest.raises(StoreDamaged):
            await a.step("s", 1)
        assert (await a.service.close_session("s")).next_step == 5
        with pytest.raises(SessionClosed):
            await a.step("s", 1)
    async with replica(store, RunningSum(name="another"), clock=clock) as b:
        with pytest.raises(ModelUnknown):
            await b.step("t", 1)
        assert (await b.service.close_session("t")).session_id == "t"


async def test_a_record_of_another_place_is_found_out(store, clock):
    await two_sessions(store, clock)
    sessions = store._open
    sessions["s"].records[4] = sessions["t"].records[4]
    async with replica(store, clock=clock) as a:
        await expect_damaged(a, "session s: record of steps 4 to 5: expected checksum")


@pytest.mark.parametrize("at", [0, 9, 40, -1])
async def test_a_damaged_snapshot_is_that_sessions_alone(store, clock, at):
    await two_sessions(store, clock)
    snapshots = store._open["s"].snapshots
    payload = snapshots[3].payload
    snapshots[3] = Snapshot(3, flipped(payload, at % len(payload)))
    async with replica(store, clock=clock) as a:
        await expect_damaged_or_older(a, store)


async def expect_damaged_or_older(a, store):
    """Woken by "the next one", it begins at the snapshot; woken by what looks back, before it."""
    with pytest.raises(StoreDamaged, match="session s: snapshot of step 3"):
        await a.step("s", 1)
    assert await a.step("t", 1) == [11]
    await a.keeper.call(lambda: None)
    assert store._claims.newest("s").owner == ""


@pytest.mark.parametrize(("from_session", "from_step"), [("t", 3), ("s", 3)])
async def test_a_snapshot_of_another_place_is_found_out(store, clock, from_session, from_step):
    await two_sessions(store, clock)
    sessions = store._open
    at = 3 if from_session == "t" else 5
    sessions["s"].snapshots[at] = Snapshot(at, sessions[from_session].snapshots[from_step].payload)
    async with replica(store, clock=clock) as a:
        with pytest.raises(StoreDamaged, match=f"session s: snapshot of step {at}"):
            await a.step("s", 1)


async def test_a_replay_that_gives_other_bits_is_told_and_goes_on(store, clock):
    await two_sessions(store, clock)

    class Other(RunningSum):
        def run(self, inputs, state):
            outputs, following = super().run(inputs, state)
            return [outputs[0] + np.float32(1)], following

    async with replica(store, Other(), clock=clock) as a:
        assert await a.step("s", 1) == [12]
        assert "differed" in a.seen.told


# Limits


async def test_no_more_sessions_than_may_be_are_opened_at_once(store, clock):
    async with replica(store, clock=clock, limits=Limits(sessions_max=3)) as a:
        results = await asyncio.gather(*[a.open(f"s{number}") for number in range(10)], return_exceptions=True)
        assert sum(isinstance(one, LimitReached) for one in results) == 7
        assert len(a.sessions) == 3
        with pytest.raises(LimitReached):
            await a.service.fork_session(next(iter(a.sessions)).id)
        with pytest.raises(SessionExists):
            await a.open(next(iter(a.sessions)).id)
        await a.service.close_session(next(iter(a.sessions)).id)
        await a.open("one-more")


async def test_steps_that_waited_for_their_session_are_bounded_as_others(store, clock):
    limits = Limits(session_steps_waiting_max=3)
    async with replica(store, clock=clock, limits=limits) as a:
        await a.open()
        await a.step("s", 1)
        await a.rest("s")
        answers = [a.begin("s", 1) for _ in range(5)]
        results = await asyncio.gather(*answers, return_exceptions=True)
        assert results[:3] == [[2], [3], [4]]
        assert all(isinstance(one, LimitReached) for one in results[3:])
