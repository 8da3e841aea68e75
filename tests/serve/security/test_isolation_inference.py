"""Tenants do not see each other's sequences by the Open Inference Protocol either, and pay for their rows."""

import grpc
import numpy as np
import pytest
from serve.frontends.inference_client import SERVICE, InferenceWire, infer_request, y_of

from ntm_serve.client import Client
from ntm_serve.frontends.access import RULES, Rule
from ntm_serve.identity import Identity
from ntm_serve.testing import Doubling, RunningSum, test_server

# What of a caller's methods knows of sequences is attacked here; the rest tells of models, which are everybody's.
ATTACKED = {"ModelInfer", "ModelStreamInfer"}
OF_MODELS = {
    "ModelReady", "ServerMetadata", "ModelMetadata", "ModelConfig", "RepositoryIndex", "SystemSharedMemoryStatus",
    "CudaSharedMemoryStatus",
}  # fmt: skip


@pytest.fixture
def tokens(callers):
    return {"acme": callers.add("ours", "acme"), "other": callers.add("theirs", "other"), "": callers.add("nobody's")}


@pytest.fixture
def wires(callers, tokens, tmp_path):
    """Callers of each tenant; ours has a sequence 7 that stands at 5."""
    with test_server([RunningSum()], **callers.settings) as server:
        made = {tenant: wire_of(server, token) for tenant, token in tokens.items()}
        assert made["acme"].infer(7, [5], start=True).tolist() == [[5]]
        yield made


def wire_of(server, token):
    wire = InferenceWire(server.target)
    wire.channel = Identity(None, token).calls(wire.channel)
    return wire


def refusal(call):
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return refused.value.code(), refused.value.details()


def test_every_method_has_a_rule_and_is_shown():
    own = {path.split("/")[2] for path, rule in RULES.items() if "inference." in path and rule is Rule.CALLER}
    assert own == ATTACKED | OF_MODELS
    assert {f"/{SERVICE.full_name}/{one.name}" for one in SERVICE.methods} == {
        path for path in RULES if "/inference." in path
    }


def test_a_sequence_of_another_is_as_though_it_were_not(wires):
    for tenant in ("other", ""):
        theirs = wires[tenant]
        code, text = refusal(lambda theirs=theirs: theirs.infer(8, [1]))
        assert refusal(lambda theirs=theirs: theirs.infer(7, [1])) == (
            code,
            text.replace(":8", ":7").replace(" 8 ", " 7 "),
        )
        code, text = refusal(lambda theirs=theirs: theirs.infer(1, [1], start=True, ntm_fork=8))
        assert "seq:running-sum:8" in text
        found = refusal(lambda theirs=theirs: theirs.infer(1, [1], start=True, ntm_fork=7))
        assert found == (code, text.replace(":8", ":7"))
        [reply] = theirs.stream([infer_request(7, [1])])
        assert reply.error_message
        assert "acme" not in reply.error_message
    assert wires["acme"].infer(1, [1], start=True, ntm_fork=7).tolist() == [[6]]
    assert wires["acme"].infer(7, [1]).tolist() == [[6]]


def test_a_sequence_of_that_id_may_be_everybodys_own(wires):
    for tenant, first in (("other", 10), ("", 20)):
        assert wires[tenant].infer(7, [first], start=True).tolist() == [[first]]
    for tenant, expected in (("acme", 6), ("other", 11), ("", 21)):
        assert wires[tenant].infer(7, [1]).tolist() == [[expected]]
    assert wires["other"].infer(7, [0], end=True).tolist() == [[11]]
    assert wires["acme"].infer(7, [0]).tolist() == [[6]]


def test_sequences_count_as_their_tenants_sessions(callers, tokens):
    with test_server([RunningSum()], **callers.settings, tenant_sessions_max=1) as server:
        ours, theirs = wire_of(server, tokens["acme"]), wire_of(server, tokens["other"])
        ours.infer(1, [1], start=True)
        code, text = refusal(lambda: ours.infer(2, [1], start=True))
        assert "tenant acme: expected at most 1 sessions in memory" in text
        assert code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
        theirs.infer(2, [1], start=True)
        with Client(server.target, token=tokens["acme"]) as client:
            assert [info.session_id for info in client.sessions()] == ["seq:running-sum:1"]


def test_rows_of_models_without_state_are_paid_for_as_steps(callers, tokens):
    with test_server([Doubling()], **callers.settings, tenant_steps_per_s_max=10) as server:
        ours, theirs = wire_of(server, tokens["acme"]), wire_of(server, tokens["other"])
        request = infer_request(None, np.ones((30, 1)), model="doubling")
        assert len(y_of(ours.infer_response(request))) == 30
        _, text = refusal(lambda: ours.infer_response(request))
        assert "tenant acme: expected at most 10 steps a second" in text
        assert len(y_of(theirs.infer_response(request))) == 30


def test_whoever_streams_on_at_its_limit_is_read_no_faster_than_it_may(callers, tokens):
    with test_server([RunningSum()], **callers.settings, tenant_steps_per_s_max=5) as server:
        ours = wire_of(server, tokens["acme"])
        ours.infer(1, [0] * 10, start=True)
        replies = list(ours.stream([infer_request(1, [1] * 10) for _ in range(6)]))
        assert len(replies) == 6
        assert sum(not reply.error_message for reply in replies) >= 1
