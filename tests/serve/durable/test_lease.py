"""A server whose lease was over, as of a process that stood still: what it had may be another's, and is not shown."""

import asyncio

import pytest

from .replicas import LEASE_S, replica


@pytest.fixture
def question(request):
    """A way to ask a server where the session stands."""

    async def get(server):
        return (await server.service.get_session("s")).next_step

    async def get_state(server):
        return (await server.service.get_state("s", ["*"]))[0].next_step

    async def list_(server):
        [session] = await server.service.list_sessions()
        return session.next_step

    async def snapshot(server):
        return (await server.service.snapshot_session("s"))[0]

    return {"get": get, "state": get_state, "list": list_, "snapshot": snapshot}[request.param]


@pytest.mark.parametrize("question", ["get", "state", "list", "snapshot"], indirect=True)
@pytest.mark.parametrize("word_first", [False, True], ids=["asked at once", "asked after it gave word again"])
async def test_a_server_that_stood_still_does_not_show_a_session_as_it_was(store, clock, question, word_first):
    async with replica(store, clock=clock, name="a") as a, replica(store, clock=clock, name="b") as b:
        await a.open()
        await a.step("s", 1.0)
        clock.pass_(LEASE_S + 1.0)
        await b.keeper.give_word()
        assert await b.step("s", 2.0, 3.0) == [3.0, 6.0]
        await b.rest("s")

        if word_first:
            await a.keeper.give_word()

        assert await question(a) == 3


@pytest.mark.parametrize("word_first", [False, True], ids=["asked at once", "asked after it gave word again"])
async def test_a_session_whose_steps_were_in_flight_over_a_pause_leaves_when_they_are_cancelled(
    slow, clock, word_first
):  # fmt: skip
    async with replica(slow, clock=clock, name="a") as a, replica(slow, clock=clock, name="b") as b:
        await a.open()
        await a.step("s", 1.0)
        a.begin("s", 2.0)
        begun = a.begun
        clock.pass_(LEASE_S + 1.0)
        a.residency.expect_lease(clock.monotonic())
        assert a.in_memory("s")

        begun.cancel()
        await b.keeper.give_word()
        assert await b.step("s", 2.0, 3.0) == [3.0, 6.0]
        await b.rest("s")
        if word_first:
            await a.keeper.give_word()
        await asyncio.sleep(0)

        assert not a.in_memory("s")
        assert (await a.service.get_session("s")).next_step == 3
