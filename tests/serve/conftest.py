"""What the serving tests share: the zoo, and a server of running sums."""

from pathlib import Path

import pytest

from ntm_serve.testing import RunningSum, test_server

ZOO = Path(__file__).parents[2] / "models" / "zoo"


@pytest.fixture(scope="session")
def zoo():
    """The repository of trained models that the project ships."""
    return ZOO


@pytest.fixture
def server():
    """A real server with one running sum."""
    with test_server([RunningSum()]) as running:
        yield running
