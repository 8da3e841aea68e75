"""Everybody can use it: by keyboard, by ear, in the dark, on a phone."""

import numpy as np
import pytest
from serve.security.conftest import CallersFile

from ntm_serve.client import Client
from ntm_serve.testing import test_server

VIEWS = {
    "models": ("", "Models"),
    "sessions": ("#/sessions", "Sessions"),
    "session": ("#/sessions/seen", "seen"),
    "gone": ("#/sessions/gone", "gone"),
    "nowhere": ("#/nowhere", "There is no page"),
}
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def seen(server):
    with Client(server.target) as client, client.session("copy-ff", session_id="seen") as session:
        session.step(np.eye(6, 9, dtype=np.float32))
        yield server


def at(visit, server, view, **options):
    fragment, heading = VIEWS[view]
    page = visit(server.http, fragment, **options)
    page.page.get_by_role("heading", name=heading).first.wait_for()
    if view == "session":
        page.at_step(6)
        for summary in ("In numbers", "Step it by hand"):
            page.page.get_by_text(summary).click()
    return page


def serious(page, axe):
    page.page.evaluate(f"() => {{ {axe} }}")
    found = page.page.evaluate("() => axe.run()")
    return [
        f"{one['impact']} {one['id']}: {node['html'][:200]}"
        for one in found["violations"]
        for node in one["nodes"]
        if one["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_no_serious_fault(seen, visit, axe, view, scheme):
    page = at(visit, seen, view, color_scheme=scheme)
    assert serious(page, axe) == []


def test_axe_finds_none_on_a_phone_or_at_the_prompt_for_a_token(seen, visit, axe, models, tmp_path):
    assert serious(at(visit, seen, "session", viewport=PHONE), axe) == []
    callers = CallersFile(tmp_path / "callers.toml")
    callers.add("one", tenant="acme")
    with test_server(models, auth_file=str(callers.path)) as running:
        page = visit(running.http)
        page.page.get_by_role("heading", name="This server asks who calls").wait_for()
        assert serious(page, axe) == []


def test_axe_would_find_one(seen, visit, axe):
    page = at(visit, seen, "models")
    page.page.evaluate("() => document.querySelector('main').append(document.createElement('button'))")
    assert [fault.split(":")[0] for fault in serious(page, axe)] == ["critical button-name"]


@pytest.mark.parametrize("view", VIEWS)
def test_nothing_is_wider_than_a_phone(seen, visit, view):
    page = at(visit, seen, view, viewport=PHONE)
    assert page.page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"]


def test_dark_is_dark_and_light_is_light(seen, visit):
    ground = "() => getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    assert max(at(visit, seen, "models", color_scheme="dark").page.evaluate(ground)) < 40
    assert min(at(visit, seen, "models", color_scheme="light").page.evaluate(ground)) > 240


def test_every_control_is_reached_by_the_keyboard(seen, visit):
    page = at(visit, seen, "session")
    page.page.evaluate("() => document.activeElement.blur()")
    controls = "button:not(:disabled), a[href], input, select, textarea, summary"
    expected = page.page.locator(controls).count()
    reached = set()
    for _ in range(expected + 2):
        page.page.keyboard.press("Tab")
        reached.add(
            page.page.evaluate(f"() => [...document.querySelectorAll('{controls}')].indexOf(document.activeElement)")
        )
    assert reached - {-1} == set(range(expected))


def test_a_keyboard_can_skip_to_the_content_and_follow_a_link(seen, visit):
    page = at(visit, seen, "sessions")
    page.page.keyboard.press("Tab")
    page.page.keyboard.press("Enter")
    assert page.page.evaluate("() => document.activeElement.id") == "main"
    page.page.get_by_role("link", name="seen").focus()
    page.page.keyboard.press("Enter")
    page.at_step(6)
    assert page.page.evaluate("() => document.activeElement.id") == "main"
    assert page.page.title() == "seen · ntm-serve"
