"""What calls tell a balancer in front of replicas: calls of one session, or of one group, carry the same metadata."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from ntm_serve.client.lines import AFFINITY_KEY, affinity

ONE = np.ones(1, np.float32)


class Forwarder(grpc.GenericRpcHandler):
    """Between a client and a server: passes every call on, and keeps the metadata that it came with."""

    def __init__(self, target):
        self.seen = []
        self._channel = grpc.insecure_channel(target)
        self._server = grpc.server(ThreadPoolExecutor(4), handlers=(self,))
        self.target = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def service(self, details):
        method = details.method.rpartition("/")[2]
        self.seen.append((method, dict(details.invocation_metadata).get(AFFINITY_KEY)))
        if method == "Stream":
            return grpc.stream_stream_rpc_method_handler(
                lambda requests, context: self._channel.stream_stream(details.method)(requests)
            )
        return grpc.unary_unary_rpc_method_handler(
            lambda request, context: self._channel.unary_unary(details.method)(request)
        )

    def close(self):
        self._server.stop(None).wait()
        self._channel.close()


@pytest.fixture
def between(server):
    forwarder = Forwarder(server.target)
    yield forwarder
    forwarder.close()


def test_every_call_of_a_session_says_whose_it_is(connect, between):
    client = connect(between.target, retry=None)
    with client.session("running-sum", session_id="device-7") as session:
        session.step(ONE)
        assert len(list(session.stream([ONE, ONE]))) == 2
        session.info()
        session.rewind(3)
        snapshot = session.snapshot()
        session.fork("device-8").close()
        client.restore(snapshot.data, session_id="device-9").close()
    client.models()
    values = {}
    for method, value in between.seen:
        values.setdefault(method, set()).add(value)
    assert values == {
        **{method: {"device-7"} for method in ("Step", "Stream", "Get", "Rewind", "Snapshot", "Fork")},
        "Open": {"device-7", "device-8"},
        "Close": {"device-7", "device-8", "device-9"},
        "Restore": {"device-9"},
        "List": {None},
    }


def test_a_session_without_a_name_says_the_one_that_it_gets(connect, between):
    with connect(between.target, retry=None).session("running-sum") as session:
        session.step(ONE)
    assert {value for _, value in between.seen} == {session.id}


def test_all_calls_of_a_group_say_the_same(connect, between):
    client = connect(between.target, retry=None)
    for prefix in ("plant-7.", "", "plant-7.", ""):
        with client.group("running-sum", prefix=prefix) as group:
            group.step({"a": ONE, "b": ONE})
            assert len(list(group.stream([{"a": ONE}, {"c": ONE}]))) == 2
    values = list(dict.fromkeys(value for _, value in between.seen))
    assert values[0] == "plant-7."
    assert len(values) == 3, "groups without a prefix are spread"
    assert {"Open", "Step", "Stream", "Close"} == {method for method, _ in between.seen}


@pytest.mark.parametrize("session_id", ["", "a b", "a\nb", "ä", "x" * 129])
def test_what_is_no_metadata_is_not_sent_as_such(session_id):
    assert affinity(session_id) == ()
