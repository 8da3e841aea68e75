"""The bare wire as a fixture."""

import pytest

from .wire_client import Wire


@pytest.fixture
def wire(server):
    it = Wire(server.target)
    yield it
    it.channel.close()


def pytest_addoption(parser):
    parser.addoption("--messages", type=int, default=3000, help="how many messages the fuzz test sends")
