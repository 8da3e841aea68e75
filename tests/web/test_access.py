"""Who may see the page, and what it does when the server goes and comes."""

import numpy as np
import pytest
from serve.security.conftest import CallersFile

from ntm_serve.client import Client
from ntm_serve.testing import test_server


@pytest.fixture
def guarded(models, tmp_path):
    """A server that asks for tokens: its address, and the tokens of two tenants."""
    callers = CallersFile(tmp_path / "callers.toml")
    tokens = {tenant: callers.add(f"{tenant}-1", tenant=tenant) for tenant in ("acme", "globex")}
    with test_server(models, auth_file=str(callers.path)) as running:
        yield running, tokens, callers


def enter(page, token):
    page.page.get_by_label("Token").fill(token)
    page.button("Open the page").click()


def test_a_wrong_token_is_refused_and_a_right_one_opens(guarded, visit):
    running, tokens, _ = guarded
    page = visit(running.http)
    page.page.get_by_role("heading", name="This server asks who calls").wait_for()
    enter(page, "x" * 43)
    page.sees("The server refused this token")
    enter(page, "not one")
    page.sees("A token has no spaces")
    enter(page, "")
    page.sees("Expected a token")
    enter(page, tokens["acme"])
    page.page.get_by_role("heading", name="Models").wait_for()
    page.sees("tenant acme")


def test_a_tenant_sees_its_own_sessions_alone(guarded, visit):
    running, tokens, _ = guarded
    for tenant, token in tokens.items():
        with Client(running.target, token=token) as client:
            client.session("copy-ff", session_id=f"of-{tenant}").step(np.zeros(9, np.float32))
    page = visit(running.http, "#/sessions")
    enter(page, tokens["acme"])
    page.page.get_by_role("link", name="of-acme").wait_for()
    assert page.page.get_by_role("link", name="of-globex").count() == 0
    page.go("#/sessions/of-globex")
    page.sees("There is no such session")


def test_a_token_is_kept_for_the_tab_and_can_be_forgotten(guarded, visit):
    running, tokens, _ = guarded
    page = visit(running.http)
    enter(page, tokens["acme"])
    page.page.get_by_role("heading", name="Models").wait_for()
    page.page.reload()
    page.page.get_by_role("heading", name="Models").wait_for()
    assert tokens["acme"] not in page.page.url
    page.button("Forget the token").click()
    page.page.get_by_role("heading", name="This server asks who calls").wait_for()
    page.page.reload()
    page.page.get_by_role("heading", name="This server asks who calls").wait_for()


def test_a_stream_that_needs_a_token_has_it(guarded, visit):
    running, tokens, _ = guarded
    with (
        Client(running.target, token=tokens["acme"]) as client,
        client.session("copy-ff", session_id="mine") as session,
    ):
        page = visit(running.http, "#/sessions/mine")
        enter(page, tokens["acme"])
        page.at_step(0)
        session.step(np.ones(9, np.float32))
        assert page.at_step(1).shows(session.state("memory")["memory"])


def test_a_token_that_is_revoked_takes_the_stream_with_it(guarded, visit):
    running, tokens, callers = guarded
    with Client(running.target, token=tokens["acme"]) as client:
        client.session("copy-ff", session_id="cut")
        page = visit(running.http, "#/sessions/cut")
        enter(page, tokens["acme"])
        page.at_step(0)
        callers.revoke("acme-1")
        page.page.get_by_role("heading", name="This server asks who calls").wait_for()
        page.sees("The server takes the token no longer")


def test_it_survives_the_loss_of_its_server_and_goes_on_with_the_next(models, tmp_path, visit):
    settings = {"store": f"sqlite:{tmp_path / 'sessions.db'}"}
    with test_server(models, **settings) as running:
        port = running.running.http_port
        with Client(running.target) as client:
            session = client.session("copy-ff", session_id="survivor")
            session.step(np.ones((3, 9), np.float32))
        page = visit(running.http, "#/sessions/survivor")
        page.at_step(3)
    page.sees("The server does not answer")
    page.sees("connecting again")
    assert page.canvas("memory").step == 3, "what was seen is gone"
    with test_server(models, **settings, http_port=port) as running, Client(running.target) as client:
        session = client.session("copy-ff", session_id="survivor", resume=True)
        session.step(np.zeros(9, np.float32))
        assert page.at_step(4).shows(session.state("memory")["memory"])
        page.page.get_by_text("live", exact=True).wait_for()
        page.page.get_by_text("The server does not answer").wait_for(state="detached")


def test_without_writes_there_is_nothing_to_write_with(models, visit):
    with test_server(models) as running, Client(running.target) as client:
        client.session("copy-ff", session_id="read-only")
        page = visit(running.http, "#/sessions/read-only")
        page.sees("the server must be started with --inspector write")
        assert page.button("Fork").count() == 0
        assert page.page.get_by_text("Step it by hand", exact=True).count() == 0
