"""Stores, time that can be passed, and nothing left of any test."""

import asyncio

import pytest
import pytest_asyncio

from .faulty_store import FaultyStore
from .replicas import Time


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """The time of every server in the test."""
    it = Time()
    for module in ("keeper", "claims", "residency", "views"):
        monkeypatch.setattr(f"ntm_serve.{module}.time", it)
    monkeypatch.setattr("ntm_serve.keeper.RETRY_S", 0.002)
    for pause in ("ASK_AGAIN_S", "ASK_LATER_S"):
        monkeypatch.setattr(f"ntm_serve.claims.{pause}", 0.002)
    return it


@pytest.fixture(params=[True, False], ids=["here", "thread"])
def store(request):
    """One that the event loop writes itself, and one that a thread writes."""
    return FaultyStore(local=request.param)


@pytest.fixture
def slow():
    """A store that a thread writes."""
    return FaultyStore(local=False)


@pytest_asyncio.fixture(autouse=True)
async def nothing_left():
    """No task is left, and nothing that the loop called raised."""
    faults = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    yield
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert not faults
