"""Models and sessions on the page."""

import shutil

import numpy as np
import pytest
from web.conftest import ZOO
from web.machine import LinkedMemory

from ntm_serve.app import load_models
from ntm_serve.client import Client
from ntm_serve.testing import Doubling, test_server

SESSIONS = {"pump-1": 3, "pump-2": 12, "valve-1": 7}


@pytest.fixture(scope="module")
def opened(server):
    """Sessions of copy-ff that made so many steps, and one of copy-lstm."""
    with Client(server.target) as client:
        for name, steps in SESSIONS.items():
            client.session("copy-ff", session_id=name).step(np.zeros((steps, 9), np.float32))
        client.session("copy-lstm", session_id="lstm-1").step(np.zeros(9, np.float32))
    return server


def ids(page):
    return page.page.locator("tbody th[scope=row]").all_inner_texts()


def until_ids(page, expected):
    page.page.wait_for_function(
        "expected => [...document.querySelectorAll('tbody th')].map((one) => one.innerText.trim()).join() === expected",
        arg=",".join(expected),
    )


def test_models_are_listed_with_what_they_are(opened, visit):
    page = visit(opened.http)
    page.page.get_by_role("heading", name="Models").wait_for()
    for name in ("associative-recall-ff", "copy-ff", "copy-lstm", "dyck-words-ff", "repeat-copy-ff"):
        said = page.row(name).inner_text()
        assert "serving" in said
        assert "ntm" in said
        assert "same bits in any company" in said
    assert "11.1 KiB · memory 128 \u00d7 20" in page.row("copy-ff").inner_text()
    # Its state begins with that of a recurrent layer.
    assert "· memory " in page.row("flows-gru-ntm").inner_text()


def test_the_latency_of_a_model_that_steps_is_drawn_and_said(opened, visit):
    page = visit(opened.http)
    drawn = page.page.get_by_role("img", name="Latency of copy-ff")
    drawn.wait_for()
    assert "mean" in drawn.get_attribute("aria-label")
    assert drawn.locator("canvas").count() == 1


def test_a_model_leads_to_its_sessions(opened, visit):
    page = visit(opened.http)
    page.row("copy-lstm").get_by_role("link").click()
    until_ids(page, ["lstm-1"])
    page.page.get_by_role("link", name="of every model").click()
    page.page.get_by_role("link", name="pump-1").wait_for()


def test_sessions_are_found_by_the_beginning_of_their_id(opened, visit):
    page = visit(opened.http, "#/sessions")
    page.page.get_by_role("searchbox").fill("pump")
    page.page.get_by_role("button", name="session").click()
    until_ids(page, ["pump-1", "pump-2"])
    page.page.get_by_role("link", name="pump-2").click()
    page.at_step(12)
    assert page.page.title() == "pump-2 · ntm-serve"


def test_sessions_are_sorted_by_what_is_clicked(opened, visit):
    page = visit(opened.http, "#/sessions?model=copy-ff")
    steps = page.page.get_by_role("columnheader", name="steps")
    steps.get_by_role("button").click()
    until_ids(page, ["pump-2", "valve-1", "pump-1"])
    assert steps.get_attribute("aria-sort") == "descending"
    steps.get_by_role("button").click()
    until_ids(page, ["pump-1", "valve-1", "pump-2"])
    assert steps.get_attribute("aria-sort") == "ascending"


def test_a_session_is_listed_with_where_it_stands(opened, visit):
    page = visit(opened.http, "#/sessions?model=copy-ff")
    said = page.row("pump-2").inner_text().split()
    assert [word in said for word in ("copy-ff", "12", "memory", "resident", "11.1")] == [True] * 5


def test_a_list_follows_what_happens(opened, visit):
    page = visit(opened.http, "#/sessions?model=repeat-copy-ff")
    page.sees("No open session is like that")
    with Client(opened.target) as client, client.session("repeat-copy-ff", session_id="late"):
        until_ids(page, ["late"])
    page.sees("No open session is like that")


def test_more_sessions_than_a_page_are_reached(visit):
    with test_server([LinkedMemory()]) as running, Client(running.target) as client:
        names = sorted(f"many-{at:03}" for at in range(130))
        with client.group("linked-memory") as group:
            group.step({name: np.zeros(6, np.float32) for name in names})
            page = visit(running.http, "#/sessions")
            page.page.get_by_label("Sort").select_option("id")
            until_ids(page, names[:100])
            page.button("On", exact=True).click()
            until_ids(page, names[100:])
            page.button("Back").click()
            until_ids(page, names[:100])


def test_where_nothing_is_the_page_says_what_to_do(visit):
    with test_server([Doubling()]) as running:
        page = visit(running.http, "#/sessions")
        page.sees("No session is open")
        page.sees("client.session(")


def test_a_model_that_is_not_served_is_listed_with_its_fault(visit, tmp_path):
    shutil.copytree(ZOO / "copy-ff", tmp_path / "broken")
    (tmp_path / "broken" / "1" / "golden.npz").write_bytes(b"no archive")
    shutil.copytree(ZOO / "copy-ff", tmp_path / "copy-ff")
    with test_server(load_models(tmp_path, batch_max=8)) as running:
        page = visit(running.http)
        said = page.row("broken").inner_text()
        assert "not serving" in said
        assert "golden.npz" in said


def test_an_address_that_leads_nowhere_is_explained(opened, visit):
    page = visit(opened.http, "#/elsewhere")
    page.sees("There is no page “elsewhere”")
