"""Snapshots, forks and steps by hand, from the page."""

import numpy as np
import pytest
from serve.embedding import write_embedding

from ntm_serve.app import load_models
from ntm_serve.client import Client
from ntm_serve.testing import test_server


@pytest.fixture
def session(server, request):
    with Client(server.target) as client, client.session("copy-ff", session_id=request.node.name) as session:
        session.step(np.eye(3, 9, dtype=np.float32))
        yield session, client


def test_a_snapshot_is_downloaded_and_restores(server, session, visit):
    origin, client = session
    page = visit(server.http, f"#/sessions/{origin.id}")
    page.at_step(3)
    name, content = page.download("Take a snapshot")
    assert name == f"{origin.id}-3.snapshot"
    with client.restore(content) as restored:
        assert restored.next_step == 3
        assert restored.state("memory")["memory"].tobytes() == origin.state("memory")["memory"].tobytes()


def test_a_fork_begins_where_the_session_stands_and_is_linked(server, session, visit):
    origin, client = session
    page = visit(server.http, f"#/sessions/{origin.id}")
    page.at_step(3)
    page.page.get_by_label("Id of the fork").fill("branch-1")
    page.button("Fork").click()
    page.page.get_by_role("link", name="branch-1").click()
    assert page.at_step(3).shows(origin.state("memory")["memory"])
    page.sees("branch-1")
    client.close_session("branch-1")


def test_a_fork_that_is_refused_says_why(server, session, visit):
    origin, _ = session
    page = visit(server.http, f"#/sessions/{origin.id}")
    page.at_step(3)
    page.page.get_by_label("Id of the fork").fill(origin.id)
    page.button("Fork").click()
    page.page.locator("p .fault").get_by_text(origin.id).wait_for()


def test_typed_inputs_are_stepped_one_by_one(server, session, visit):
    origin, _ = session
    page = visit(server.http, f"#/sessions/{origin.id}")
    page.at_step(3)
    page.page.get_by_text("Step it by hand").click()
    field = page.page.get_by_role("textbox", name="x: a line for each step")
    field.fill("0 1 0 1 0 1 0 1 0\n1 1 1")
    page.button("Step", exact=True).click()
    page.sees("x, line 2: expected 9 numbers, got 3")
    field.fill("0 1 0 1 0 1 0 1 0\n1 0 1 0 1 0 1 0 0")
    page.button("Step", exact=True).click()
    page.sees("2 steps made; the session stands at 5.")
    page.at_step(5)
    given = page.canvas("x")
    assert given.column(3).shows(np.array([[0, 1, 0, 1, 0, 1, 0, 1, 0]]).T)
    assert given.column(4).shows(np.array([[1, 0, 1, 0, 1, 0, 1, 0, 0]]).T)


def test_drawn_inputs_are_stepped(server, session, visit):
    origin, _ = session
    page = visit(server.http, f"#/sessions/{origin.id}")
    page.at_step(3)
    page.page.get_by_text("Step it by hand").click()
    page.page.get_by_label("Steps", exact=True).fill("4")
    page.button("Fill with 0").click()
    pad = page.page.locator("canvas[data-pad=x]")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    cell = box["width"] / 4
    # A line from the first step's channel 2 to the last one's.
    page.page.mouse.move(box["x"] + cell / 2, box["y"] + 2.5 * cell)
    page.page.mouse.down()
    page.page.mouse.move(box["x"] + 3.5 * cell, box["y"] + 2.5 * cell, steps=8)
    page.page.mouse.up()
    page.button("Step", exact=True).click()
    page.sees("4 steps made; the session stands at 7.")
    page.at_step(7)
    line = np.eye(1, 9, 2).T
    assert all(page.canvas("x").column(step).shows(line) for step in range(3, 7))


def test_another_that_steps_meanwhile_is_noticed(server, session, visit):
    origin, _ = session
    page = visit(server.http, f"#/sessions/{origin.id}")
    page.at_step(3)
    page.page.get_by_text("Step it by hand").click()
    page.page.route("**/steps", lambda route: (origin.step(np.ones(9, np.float32)), route.continue_()))
    page.button("Step", exact=True).click()
    page.page.get_by_text("0 of 1 made").wait_for()


def test_numbers_beyond_the_range_of_an_input_are_told_before_they_are_sent(visit, tmp_path):
    write_embedding(tmp_path / "embedding" / "1", {"token": (3, 7)}, example=[3, 7])
    with (
        test_server(load_models(tmp_path, batch_max=4), inspector="write") as server,
        Client(server.target) as client,
        client.session("embedding", session_id="tokens") as session,
    ):
        page = visit(server.http, "#/sessions/tokens")
        page.page.get_by_text("Step it by hand").click()
        field = page.page.get_by_role("textbox", name="token: a line for each step, 1 number in it, from 3 to 7")
        assert field.input_value() == "3"
        field.fill("7\n8")
        page.button("Step", exact=True).click()
        page.sees("token, line 2: expected numbers from 3 to 7, got 8")
        field.fill("7\n4")
        page.button("Step", exact=True).click()
        page.sees("2 steps made; the session stands at 2.")
        assert session.info().next_step == 2
