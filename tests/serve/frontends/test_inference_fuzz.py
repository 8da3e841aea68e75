"""Whatever is sent has an answer, harms nobody and is survived. `make fuzz` sends 100,000 messages."""

import random
from collections import Counter

import grpc
import pytest

from ntm_serve.client import Client
from ntm_serve.inference import service_pb2
from ntm_serve.testing import RunningSum, test_server

from .inference_client import SERVICE, infer_request, y_of
from .inference_fuzz import any_request, changed

MESSAGES = 3000  # Of `make test`.
GROUP = 100

# An answer with one of these is a fault of ours.
FAULTS = {"UNKNOWN", "INTERNAL", "UNAVAILABLE", "CANCELLED", "RESOURCE_EXHAUSTED"}
ANSWERED = "OK"


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("store", ["", "sqlite"])
def test_any_message_has_an_answer_and_no_sequence_sees_anothers_state(store, request, tmp_path):
    messages = request.config.getoption("--messages", MESSAGES)
    dice = random.Random(20261121)
    outcomes = Counter()
    settings = {"steps_per_message_max": 64, "store": store and f"sqlite:{tmp_path}/sessions.db"}
    with test_server([RunningSum()], **settings) as server:
        channel = grpc.insecure_channel(server.target)
        guards = Guards(channel, dice)
        for start in range(0, messages, GROUP):
            size = min(GROUP, messages - start)
            kind = dice.choice([streamed, streamed, by_call, other_methods])
            outcomes += kind(channel, dice, size)
            guards.step()
        guards.step()
        channel.close()
        with Client(server.target) as client:
            assert all(one.ready for one in client.models())
            left = [one.session_id for one in client.sessions()]
            assert all(one.startswith(("seq:running-sum:", "guard")) for one in left)
    assert sum(outcomes.values()) == messages
    assert outcomes[ANSWERED] > messages // 20, "nothing was let through"
    assert outcomes["INVALID_ARGUMENT"] > messages // 10, "nothing was refused"
    assert not FAULTS & set(outcomes), outcomes


def streamed(channel, dice, size):
    """A stream; where it ends before all is answered, the rest goes on another."""
    requests = [message(dice) for _ in range(size)]
    outcomes = Counter()
    while requests:
        call = channel.stream_stream(
            f"/{SERVICE.full_name}/ModelStreamInfer",
            response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
        )(iter(requests), timeout=60)
        answered, ended = 0, ""
        try:
            for reply in call:
                answered += 1
                outcomes[outcome_of(reply.error_message)] += 1
        except grpc.RpcError as error:
            outcomes[error.code().name] += 1
            ended = error.details()
        if answered < len(requests):
            answered += 1
            assert "expected a ModelInferRequest" in ended
        requests = requests[answered:]
    return outcomes


def by_call(channel, dice, size):
    """Calls, all under way at once."""
    stub = channel.unary_unary(f"/{SERVICE.full_name}/ModelInfer")
    calls = [stub.future(message(dice), timeout=60) for _ in range(size)]
    return Counter(status_of(call) for call in calls)


def other_methods(channel, dice, size):
    """The other methods, with bytes that are meant for them, or not."""
    calls = []
    for _ in range(size):
        method = dice.choice([one for one in SERVICE.methods if not one.client_streaming and one.name != "ModelInfer"])
        stub = channel.unary_unary(f"/{SERVICE.full_name}/{method.name}")
        name, version = dice.choice(["", "running-sum", "x"]), dice.choice(["", "1"])
        named = service_pb2.ModelConfigRequest(name=name, version=version)
        calls.append(stub.future(changed(named.SerializeToString(), dice), timeout=60))
    return Counter(status_of(call) for call in calls)


def message(dice):
    data = any_request(dice).SerializeToString()
    return changed(data, dice) if dice.random() < 0.4 else data


def status_of(call):
    if call.code() is grpc.StatusCode.OK:
        return ANSWERED
    assert call.details()
    return call.code().name


def outcome_of(text):
    """The kind of an answer in a stream; it names its request and its reason."""
    if not text:
        return ANSWERED
    assert text.startswith("[request id: ")
    reason = text.rpartition("; reason=")[2]
    assert reason.isupper(), text
    return "INTERNAL" if reason == "ENGINE_FAULT" else "INVALID_ARGUMENT"


class Guards:
    """Sequences beside the others that are asked as they should be; what they give is known."""

    def __init__(self, channel, dice):
        self._dice = dice
        self._sums = {f"guard-{place}-{dice.randbytes(8).hex()}": None for place in range(8)}
        self._stream = channel.stream_stream(
            f"/{SERVICE.full_name}/ModelStreamInfer",
            service_pb2.ModelInferRequest.SerializeToString,
            service_pb2.ModelStreamInferResponse.FromString,
        )

    def step(self):
        """Some requests of each, on one stream."""
        requests, expected = [], []
        for _ in range(3):
            for name, total in self._sums.items():
                start, end = total is None or self._dice.random() < 0.1, self._dice.random() < 0.1
                values = [self._dice.randrange(100) for _ in range(self._dice.choice([1, 1, 3]))]
                requests.append(infer_request(name, values, start=start, end=end))
                total = 0 if start else total
                expected.append([[total := total + one] for one in values])
                self._sums[name] = None if end else total
        replies = list(self._stream(iter(requests), timeout=60))
        assert [reply.error_message for reply in replies] == [""] * len(requests)
        assert [y_of(reply.infer_response).tolist() for reply in replies] == expected
