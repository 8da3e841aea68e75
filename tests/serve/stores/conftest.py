"""A place for each kind of store. One redis-server and one cluster serve all tests, each under its own prefix."""

import pytest
from serve.stores.places import MemoryPlace, RedisPlace, SqlitePlace
from serve.stores.redis_server import DURABLE, RedisCluster, RedisServer


@pytest.fixture(scope="session")
def redis_server():
    """One that is set up for durability disk."""
    server = RedisServer(*DURABLE)
    yield server
    server.remove()


@pytest.fixture
def sqlite_place(tmp_path):
    place = SqlitePlace(tmp_path / "sessions.db")
    yield place
    place.close()


@pytest.fixture
def redis_place(redis_server):
    place = RedisPlace(redis_server)
    yield place
    place.close()


@pytest.fixture(scope="session")
def redis_cluster():
    server = RedisCluster()
    yield server
    server.remove()


@pytest.fixture
def cluster_place(redis_cluster):
    place = RedisPlace(redis_cluster)
    yield place
    place.close()


@pytest.fixture(params=["memory", "sqlite", "redis", "cluster"])
def place(request):
    """A place for each kind of store in turn."""
    if request.param == "memory":
        return MemoryPlace()
    return request.getfixturevalue(f"{request.param}_place")


@pytest.fixture(params=["sqlite", "redis", "cluster"])
def lasting_place(request):
    """A place that outlives the process."""
    return request.getfixturevalue(f"{request.param}_place")


@pytest.fixture
def a(place):
    """A replica that lives."""
    return place.replica("a")


@pytest.fixture
def b(place):
    """Another replica that lives."""
    return place.replica("b")
