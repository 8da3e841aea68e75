"""The bare wire as a fixture."""

import pytest

from .wire_client import Wire


@pytest.fixture
def wire(server):
    it = Wire(server.target)
    yield it
    it.channel.close()
