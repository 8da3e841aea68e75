"""Standard health and reflection, by grpc's own clients."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from serve.stopping import stopping

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
KNOWN = ["", "ntm_serve.v1.Sessions", "ntm_serve.v1.Models", "running-sum", "running-sum/1"]


def asked(service):
    return health_pb2.HealthCheckRequest(service=service)


@pytest.fixture
def health(server):
    with grpc.insecure_channel(server.target) as channel:
        yield health_pb2_grpc.HealthStub(channel)


@pytest.mark.parametrize("name", KNOWN)
def test_the_server_its_services_and_its_models_are_serving(health, name):
    assert health.Check(asked(name), timeout=10).status == SERVING
    watched = health.Watch(asked(name), timeout=10)
    assert next(watched).status == SERVING
    watched.cancel()


@pytest.mark.parametrize("name", ["nope", "running-sum/2", "ntm_serve.v1.Nope"])
def test_what_is_not_there_is_told_as_the_standard_asks(health, name):
    with pytest.raises(grpc.RpcError) as refused:
        health.Check(asked(name), timeout=10)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    watched = health.Watch(asked(name), timeout=10)
    assert next(watched).status == SERVICE_UNKNOWN
    watched.cancel()


def test_whoever_watches_holds_no_more_than_a_name(health):
    with pytest.raises(grpc.RpcError, match="expected a name of at most 1024 characters, got 1025") as refused:
        next(health.Watch(asked("n" * 1025), timeout=10))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    watched = health.Watch(asked("n" * 1024), timeout=10)
    assert next(watched).status == SERVICE_UNKNOWN
    watched.cancel()


def test_a_server_that_stops_is_not_serving():
    with stopping() as it, grpc.insecure_channel(it.server.target) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in KNOWN:
            watched = health.Watch(asked(name), timeout=10)
            while next(watched).status != NOT_SERVING:  # The statuses follow one after another.
                pass
            assert health.Check(asked(name), timeout=10).status == NOT_SERVING
            watched.cancel()


def test_reflection_lists_the_services_and_their_messages(server):
    with grpc.insecure_channel(server.target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert sorted(database.get_services()) == [
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
            "inference.GRPCInferenceService",
            "ntm_serve.v1.Admin",
            "ntm_serve.v1.Models",
            "ntm_serve.v1.Sessions",
        ]
        file = database.FindFileContainingSymbol("ntm_serve.v1.Sessions")
        (service,) = file.service
        assert {method.name for method in service.method} >= {"Open", "Step", "Stream", "Get", "List", "Close"}
