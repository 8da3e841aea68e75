"""Tenants do not see each other's sessions: every RPC of every service, as the descriptors have them.

A method that is new has no rule, and no attack here: either fails.
"""

import threading
from functools import partial

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pool import Default
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from ntm_serve.client import Client
from ntm_serve.errors import SessionDiffers, SessionUnknown
from ntm_serve.frontends import access, server
from ntm_serve.frontends.access import RULES, Rule, expect_rules
from ntm_serve.service import Service
from ntm_serve.snapshot import decoded
from ntm_serve.testing import RunningSum, test_server
from ntm_serve.v1 import admin_pb2, admin_pb2_grpc, models_pb2, models_pb2_grpc, sessions_pb2, sessions_pb2_grpc
from ntm_serve.wire import DETAILS_KEY, tensor_of

X = tensor_of("x", np.ones((1, 1, 1), np.float32))
OURS, NOBODYS = "ours", "nobodys"


class Wire:
    """Stubs of a caller."""

    def __init__(self, target, token):
        self.channel = grpc.insecure_channel(target)
        self.metadata = [("authorization", f"Bearer {token}")]
        self.stubs = {
            "ntm_serve.v1.Sessions": sessions_pb2_grpc.SessionsStub(self.channel),
            "ntm_serve.v1.Models": models_pb2_grpc.ModelsStub(self.channel),
            "ntm_serve.v1.Admin": admin_pb2_grpc.AdminStub(self.channel),
        }

    def call(self, path, request):
        _, service, name = path.split("/")
        answer = getattr(self.stubs[service], name)(request, metadata=self.metadata, timeout=20)
        return list(answer) if name == "Watch" else answer

    def stream(self, *requests):
        call = self.stubs["ntm_serve.v1.Sessions"].Stream(iter(requests), metadata=self.metadata, timeout=20)
        return [reply.step for reply in call]


def step_request(name):
    return sessions_pb2.StepRequest(session_ids=[name], inputs=[X])


# Each RPC that names a session, aimed at one of that name: what must be as though there were none.
ATTACKS = {
    "/ntm_serve.v1.Sessions/Step": step_request,
    "/ntm_serve.v1.Sessions/Get": lambda name: sessions_pb2.GetRequest(session_id=name, state_names=["*"]),
    "/ntm_serve.v1.Sessions/Close": lambda name: sessions_pb2.CloseRequest(session_id=name),
    "/ntm_serve.v1.Sessions/Snapshot": lambda name: sessions_pb2.SnapshotRequest(session_id=name),
    "/ntm_serve.v1.Sessions/Fork": lambda name: sessions_pb2.ForkRequest(session_id=name),
    "/ntm_serve.v1.Sessions/Rewind": lambda name: sessions_pb2.RewindRequest(session_id=name, step=0),
    "/ntm_serve.v1.Sessions/Watch": lambda name: sessions_pb2.WatchRequest(session_id=name),
}
# Those that are shown by a test of their own below.
SHOWN = {
    "/ntm_serve.v1.Sessions/Open": "test_a_name_is_free_in_every_tenant",
    "/ntm_serve.v1.Sessions/Restore": "test_a_snapshot_is_restored_by_whoever_has_it",
    "/ntm_serve.v1.Sessions/Stream": "test_a_stream_steps_its_own_tenants_sessions_alone",
    "/ntm_serve.v1.Sessions/List": "test_lists_have_the_tenants_own",
    "/ntm_serve.v1.Models/List": "test_models_count_the_tenants_own_sessions",
    "/ntm_serve.v1.Models/Get": "test_models_count_the_tenants_own_sessions",
}
# They know of no session.
NEEDS_NONE = {
    "/grpc.health.v1.Health/List",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
}
SPELLINGS = (OURS, f"acme|{OURS}", f"|{OURS}", f"acme/{OURS}", f"|acme|{OURS}", f"other|acme|{OURS}")


@pytest.fixture(params=["memory", "store"])
def it(request, callers, tmp_path):
    """A server with callers of two tenants, one of none, and an operator; ours has a session of three steps."""
    tokens = {
        "acme": callers.add("ours", "acme"),
        "other": callers.add("theirs", "other"),
        "": callers.add("nobody's"),
        "admin": callers.add("operator", roles=["admin"]),
    }
    more = {"store": f"sqlite:{tmp_path / 'sessions.db'}"} if request.param == "store" else {}
    with test_server([RunningSum()], **callers.settings, **more) as running:
        wires = {name: Wire(running.target, token) for name, token in tokens.items()}
        with Client(running.target, token=tokens["acme"]) as client:
            client.session("running-sum", session_id=OURS).step(np.ones((3, 1), np.float32))
        yield running, tokens, wires
        for wire in wires.values():
            wire.channel.close()


def refusal(call):
    """(status, message, machine-readable details) of a call that must fail."""
    with pytest.raises(grpc.RpcError) as refused:
        call()
    details = status_pb2.Status.FromString(dict(refused.value.trailing_metadata())[DETAILS_KEY])
    info = error_details_pb2.ErrorInfo()
    details.details[0].Unpack(info)
    return refused.value.code(), refused.value.details(), info.reason, dict(info.metadata)


def paths():
    """Every method that a server serves, by its reflection and its descriptors."""
    with test_server([RunningSum()]) as running, grpc.insecure_channel(running.target) as channel:
        names = ProtoReflectionDescriptorDatabase(channel).get_services()
    for name in names:
        for method in Default().FindServiceByName(name).methods:
            yield f"/{name}/{method.name}"


def test_every_method_has_a_rule_and_is_shown():
    served = set(paths())
    assert served <= set(RULES)
    callers_own = {path for path in served if RULES[path] is Rule.CALLER}
    own = {path for path in callers_own if path.startswith("/ntm_serve.")}
    assert own == set(ATTACKS) | set(SHOWN)
    inference = {path for path in callers_own if path.startswith("/inference.")}
    assert callers_own - own - inference <= NEEDS_NONE
    assert {path for path in served if RULES[path] is Rule.ANYBODY} <= {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/ServerReady",
    }
    for name in SHOWN.values():
        assert name in globals()


def test_a_method_without_a_rule_keeps_a_server_from_starting(monkeypatch):
    with pytest.raises(LookupError, match=r"got none for /ntm_serve\.v1\.Sessions/New"):
        expect_rules(["/ntm_serve.v1.Sessions/Open", "/ntm_serve.v1.Sessions/New"])
    fewer = {path: rule for path, rule in RULES.items() if not path.endswith("/Rewind")}
    monkeypatch.setattr(access, "RULES", fewer)
    with pytest.raises(LookupError, match="Rewind"), test_server([RunningSum()]):
        pass


def test_every_method_but_those_for_anybody_asks_who_calls(it):
    running, tokens, _ = it
    with grpc.insecure_channel(running.target) as channel:
        for path in paths():
            asked = channel.stream_stream(path, lambda data: data, lambda data: data)
            for metadata in ((), (("authorization", "Bearer ntms_" + "x" * 43),)):
                call = asked(iter([b""]), metadata=metadata, timeout=5)
                if RULES[path] is Rule.ANYBODY:
                    call.cancel()
                    continue
                assert call.code() is grpc.StatusCode.UNAUTHENTICATED, path
            if RULES[path] is Rule.ADMIN:
                call = asked(iter([b""]), metadata=[("authorization", f"Bearer {tokens['acme']}")], timeout=5)
                assert call.code() is grpc.StatusCode.PERMISSION_DENIED, path


@pytest.mark.parametrize("path", sorted(ATTACKS))
def test_what_is_anothers_is_as_though_it_were_not(it, path):
    _, _, wires = it
    for tenant in ("other", "", "admin"):
        call = partial(wires[tenant].call, path)
        for spelling in SPELLINGS:
            never = spelling.replace(OURS, NOBODYS)
            code, message, reason, fields = refusal(partial(call, ATTACKS[path](never)))
            assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN")
            assert never in message
            found = refusal(partial(call, ATTACKS[path](spelling)))
            assert found == (code, message.replace(never, spelling), reason, fields), (tenant, spelling)
    for spelling in SPELLINGS[1:]:
        assert refusal(partial(wires["acme"].call, path, ATTACKS[path](spelling)))[2] == "UNKNOWN"
    # And it is as it was.
    assert (
        wires["acme"].call("/ntm_serve.v1.Sessions/Get", sessions_pb2.GetRequest(session_id=OURS)).session.next_step
        == 3
    )


def test_a_stream_steps_its_own_tenants_sessions_alone(it):
    _, _, wires = it
    for tenant in ("other", ""):
        wires[tenant].call("/ntm_serve.v1.Sessions/Open", open_request("mine"))
        for spelling in (*SPELLINGS, NOBODYS):
            message = sessions_pb2.StepRequest(
                session_ids=["mine", spelling], inputs=[tensor_of("x", np.ones((2, 1, 1), np.float32))]
            )
            [reply] = wires[tenant].stream(sessions_pb2.StreamRequest(step=message))
            assert list(reply.session_ids) == ["mine"]
            [failure] = reply.failures
            assert (failure.session_id, failure.error.reason, failure.next_step) == (spelling, "UNKNOWN", 0)
            assert "acme" not in failure.error.message.replace(spelling, "")
    message = sessions_pb2.StepRequest(session_ids=[OURS], inputs=[X])
    [reply] = wires["acme"].stream(sessions_pb2.StreamRequest(step=message))
    assert (list(reply.session_ids), list(reply.next_steps)) == ([OURS], [4])


def test_a_name_is_free_in_every_tenant(it):
    running, tokens, wires = it
    for tenant in ("other", ""):
        with Client(running.target, token=tokens[tenant]) as client:
            session = client.session("running-sum", session_id=OURS, resume=True)
            assert (session.id, session.next_step) == (OURS, 0)
            assert session.step([5]).tolist() == [5]
            session.close()
            with pytest.raises(Exception, match=rf"^session {OURS}: was closed after 1 steps"):
                client.session_info(OURS)
        assert session.id == OURS
    code, _, reason, _ = refusal(lambda: wires["acme"].call("/ntm_serve.v1.Sessions/Open", open_request(OURS)))
    assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "SESSION_EXISTS")
    for name in SPELLINGS[1:]:
        refused = refusal(lambda name=name: wires["other"].call("/ntm_serve.v1.Sessions/Open", open_request(name)))
        assert refused[2] == "INVALID_INPUT"


def test_a_tenants_session_begins_with_a_state_of_its_own(it):
    running, tokens, _ = it
    mine = {"total": np.array([100], np.float32)}
    with Client(running.target, token=tokens["other"]) as client:
        session = client.session("running-sum", session_id="begun", initial_state=mine)
        assert session.step([1]).tolist() == [101]
        assert client.session("running-sum", session_id="begun", resume=True, initial_state=mine).next_step == 1
        with pytest.raises(SessionDiffers, match=r"^session begun: cannot be resumed"):
            client.session("running-sum", session_id="begun", resume=True, initial_state={"total": mine["total"] + 1})


def test_messages_have_the_callers_own_name_for_a_session(it):
    _, _, wires = it
    twice = sessions_pb2.StepRequest(session_ids=[OURS], first_steps=[7], inputs=[X])
    code, message, _, fields = refusal(lambda: wires["acme"].call("/ntm_serve.v1.Sessions/Step", twice))
    assert (code, message) == (grpc.StatusCode.OUT_OF_RANGE, f"session {OURS}: expected step 3, got 7")
    assert fields == {"expected_step": "3"}
    _, message, _, _ = refusal(lambda: wires["acme"].call("/ntm_serve.v1.Sessions/Open", open_request(OURS)))
    assert "acme" not in message
    wires["acme"].call("/ntm_serve.v1.Sessions/Close", sessions_pb2.CloseRequest(session_id=OURS))
    for path, attack in ATTACKS.items():
        _, message, reason, _ = refusal(lambda path=path, attack=attack: wires["acme"].call(path, attack(OURS)))
        assert reason == "CLOSED"
        assert message == f"session {OURS}: was closed after 3 steps"


def test_lists_have_the_tenants_own(it):
    running, tokens, wires = it
    # Names around the mark, which stands between "{" and "}" in the order of letters.
    names = {tenant: [f"{tenant or 'z'}{n}" for n in range(5)] + ["~", "A", "z"] for tenant in ("other", "")}
    for tenant, mine in names.items():
        for name in mine:
            wires[tenant].call("/ntm_serve.v1.Sessions/Open", open_request(name))
    for tenant, mine in {**names, "acme": [OURS]}.items():
        for size in (1, 2, 3, 100):
            assert listed(wires[tenant], size) == sorted(mine), (tenant, size)
        with Client(running.target, token=tokens[tenant]) as client:
            assert {info.tenant for info in client.sessions()} == {tenant}
    with Client(running.target, token=tokens["admin"]) as admin:
        everybodys = {(info.tenant, info.session_id) for info in admin.all_sessions()}
    assert everybodys == {(tenant, name) for tenant, mine in {**names, "acme": [OURS]}.items() for name in mine}
    pages, token = [], ""
    while True:
        request = admin_pb2.ListSessionsRequest(page_size=2, page_token=token)
        page = wires["admin"].call("/ntm_serve.v1.Admin/ListSessions", request)
        pages += [(one.tenant, one.session_id) for one in page.sessions]
        token = page.next_page_token
        if not token:
            break
    assert len(pages) == len(set(pages))
    assert set(pages) == everybodys


def test_a_list_reads_no_more_because_others_have_more(callers, monkeypatch):
    tokens = {tenant: callers.add(tenant or "none", tenant) for tenant in ("", "a", "b", "c")}
    with test_server([RunningSum()], **callers.settings) as running:
        for token in tokens.values():
            with Client(running.target, token=token) as client:
                for number in range(3):
                    client.session("running-sum", session_id=f"s{number}")
        asked, pages = [], Service.list_sessions
        monkeypatch.setattr(Service, "list_sessions", lambda self, **how: asked.append(1) or pages(self, **how))
        for size in (1, 3, 100):
            wire = Wire(running.target, tokens[""])
            request = sessions_pb2.ListRequest(page_size=size)
            assert len(wire.call("/ntm_serve.v1.Sessions/List", request).sessions) == min(size, 3)
            wire.channel.close()
        assert len(asked) == 3


def test_tenants_are_forgotten_while_they_do_not_call_and_their_sessions_are_not(callers, monkeypatch):
    monkeypatch.setattr(server, "DOORS_MAX", 3)
    made, make = [], server.GrpcServer._made
    monkeypatch.setattr(server.GrpcServer, "_made", lambda self, tenant: made.append(tenant) or make(self, tenant))
    tokens = {tenant: callers.add(tenant, tenant) for tenant in "abcdefgh"}
    with test_server([RunningSum()], **callers.settings) as running:
        wires = {tenant: Wire(running.target, token) for tenant, token in tokens.items()}
        over = threading.Event()
        wires["a"].call("/ntm_serve.v1.Sessions/Open", open_request("s"))
        step = sessions_pb2.StreamRequest(step=step_request("s"))
        stream = (
            wires["a"]
            .stubs["ntm_serve.v1.Sessions"]
            .Stream(until_over(step, over), metadata=wires["a"].metadata, timeout=60)
        )
        assert next(stream).step.next_steps[0] == 1
        for _ in range(2):
            for tenant in "bcdefgh":
                with Client(running.target, token=tokens[tenant]) as client:
                    client.session("running-sum", session_id="s", resume=True).step([1])
        assert (
            wires["h"].call("/ntm_serve.v1.Sessions/Get", sessions_pb2.GetRequest(session_id="s")).session.next_step
            == 2
        )
        over.set()
        assert [reply.step.next_steps[0] for reply in stream] == [2]
        assert made.count("a") == 1
        assert made.count("b") == 2
        for wire in wires.values():
            wire.channel.close()


def until_over(request, over):
    yield request
    over.wait(60)
    yield request


def test_models_count_the_tenants_own_sessions(it):
    _, _, wires = it
    for tenant, count in (("acme", 1), ("other", 0), ("", 0)):
        models = wires[tenant].call("/ntm_serve.v1.Models/List", models_pb2.ListModelsRequest()).models
        assert [model.sessions for model in models] == [count]
        request = models_pb2.GetModelRequest(name="running-sum")
        assert wires[tenant].call("/ntm_serve.v1.Models/Get", request).model.sessions == count


def test_a_snapshot_is_restored_by_whoever_has_it(it):
    """It is the state itself, for all to read: who gave it away meant to. It does not say whose it was."""
    running, tokens, _ = it
    with Client(running.target, token=tokens["acme"]) as ours, Client(running.target, token=tokens["other"]) as theirs:
        snapshot = ours.snapshot(OURS)
        assert decoded(snapshot.data).session_id == OURS
        assert b"acme" not in snapshot.data
        session = theirs.restore(snapshot.data, session_id=OURS)
        assert session.step([1]).tolist() == [4]
        assert ours.session_info(OURS).next_step == 3
        theirs.close_session(OURS)
        assert ours.fork(OURS, "fork").next_step == 3
        with pytest.raises(SessionUnknown):
            theirs.session_info("fork")


def test_sessions_of_tenants_come_back_from_the_store_to_their_own(callers, tmp_path):
    tokens = {tenant: callers.add(tenant or "none", tenant) for tenant in ("acme", "other", "")}
    settings = {**callers.settings, "store": f"sqlite:{tmp_path / 'sessions.db'}"}
    for run in range(2):
        with test_server([RunningSum()], **settings) as running:
            for number, (tenant, token) in enumerate(tokens.items(), start=1):
                with Client(running.target, token=token) as client:
                    session = client.session("running-sum", session_id="s", resume=True)
                    assert session.next_step == run
                    assert session.step([number]).tolist() == [number * (run + 1)]
                    assert [info.tenant for info in client.sessions()] == [tenant]


def test_what_was_kept_without_tenants_is_the_tenants_without_a_name(callers, tmp_path):
    store = f"sqlite:{tmp_path / 'sessions.db'}"
    with test_server([RunningSum()], store=store) as running, Client(running.target) as client:
        client.session("running-sum", session_id="s").step([7])
    token, other = callers.add("ours"), callers.add("theirs", "acme")
    with test_server([RunningSum()], **callers.settings, store=store) as running:
        with Client(running.target, token=other) as client, pytest.raises(SessionUnknown):
            client.session_info("s")
        with Client(running.target, token=token) as client:
            assert client.session("running-sum", session_id="s", resume=True).step([1]).tolist() == [8]


def test_names_of_services_are_those_that_reflection_tells():
    assert {server.SESSIONS.full_name, server.MODELS.full_name, server.ADMIN.full_name} <= {
        path.split("/")[1] for path in paths()
    }


def open_request(name):
    return sessions_pb2.OpenRequest(model="running-sum", session_id=name)


def listed(wire, size):
    """The names of all pages."""
    names, token = [], ""
    while True:
        request = sessions_pb2.ListRequest(page_size=size, page_token=token)
        page = wire.call("/ntm_serve.v1.Sessions/List", request)
        names += [session.session_id for session in page.sessions]
        token = page.next_page_token
        if not token:
            return names
