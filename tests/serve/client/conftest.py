"""Both clients, as one fixture: what is tested through `connect` and `client` holds for each."""

import contextlib

import pytest

from ntm_serve.client import Client
from ntm_serve.testing import RunningSum, test_server

from .blocking import BlockingClient


@pytest.fixture(scope="module")
def server():
    """One server for a module: tests here open sessions of their own."""
    with test_server([RunningSum()]) as running:
        yield running


@pytest.fixture(params=[Client, BlockingClient], ids=["sync", "aio"])
def connect(request):
    """Makes clients that are closed at the end of the test."""
    with contextlib.ExitStack() as stack:
        yield lambda target, **options: stack.enter_context(request.param(target, **options))


@pytest.fixture
def client(connect, server):
    return connect(server.target)


@pytest.fixture
def session(client):
    with client.session("running-sum") as session:
        yield session
