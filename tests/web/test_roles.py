"""Any state has a view: by its role, or by its shape."""

import numpy as np
import pytest
from web.machine import HEADS, SLOTS, WIDTH, LinkedMemory

from ntm_serve.client import Client
from ntm_serve.spec import frozen
from ntm_serve.testing import Doubling, RunningSum, test_server

# Whether the line of input x spans from one share of the width to another, but for the breadth of the line.
DRAWN_FROM_TO = """([from, to]) => {
  const canvas = document.querySelector('.lines[aria-label^="input x"] canvas');
  const { width, height } = canvas;
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  const inked = [...Array(width * height).keys()].filter((at) => data[4 * at + 3] > 0).map((at) => at % width);
  const [least, greatest] = [inked.reduce((a, b) => Math.min(a, b)), inked.reduce((a, b) => Math.max(a, b))];
  return Math.abs(least / width - from) < 0.01 && Math.abs(greatest / width - to) < 0.01;
}"""


@pytest.fixture(scope="module")
def linked():
    with test_server([LinkedMemory(), Doubling(), RunningSum()]) as running:
        yield running


def test_usage_and_link_matrix_of_a_differentiable_neural_computer_are_drawn(linked, visit):
    with Client(linked.target) as client, client.session("linked-memory", session_id="dnc") as session:
        page = visit(linked.http, "#/sessions/dnc")
        page.at_step(0)
        states = []
        for at in range(5):
            session.step(np.full(WIDTH, at + 1, np.float32))
            page.at_step(at + 1)
            states.append(session.state("*"))
        assert page.canvas("link").shows(states[-1]["link"])
        assert page.canvas("link").pixels.shape[:2] == (SLOTS, SLOTS)
        assert page.canvas("memory").shows(states[-1]["memory"])
        for step, state in enumerate(states):
            assert page.canvas("usage").column(step).shows(state["usage"][:, np.newaxis])
            for head in range(HEADS):
                seen = page.canvas("read_weighting", head * SLOTS).column(step)
                assert seen.shows(state["read_weighting"][head][:, np.newaxis])
        titles = page.page.locator("figure h3").all_inner_texts()
        assert titles == [
            "input x", "output y", "write weighting", "read weighting, head 0", "read weighting, head 1", "usage",
            "memory", "link", "keys, part 0", "keys, part 1",
        ]  # fmt: skip
        assert page.canvas("keys", 3 * WIDTH).shows(states[-1]["keys"][1])
        # Its parts are small: side by side, under one colour scale.
        first, second = (page.figure(f"keys, part {part}").bounding_box() for part in range(2))
        assert (first["y"], first["x"] < second["x"]) == (second["y"], True)
        page.button("Pin the colour scale of keys").click()
        page.page.get_by_label("keys: greatest value of the colour scale").fill("50")
        page.page.keyboard.press("Tab")
        assert page.page.locator('canvas[data-view="keys"][data-greatest="50"]').count() == 2


def test_a_state_of_one_number_is_drawn(linked, visit):
    with Client(linked.target) as client, client.session("running-sum", session_id="sum") as session:
        page = visit(linked.http, "#/sessions/sum")
        for x in (1, 2, 3):
            session.step(np.array([x], np.float32))
            page.sees(f"after {x} step")
        page.page.get_by_role("img", name="total over time, 6 at last").wait_for()
        assert [page.reads("total", step) for step in range(3)] == ["step 0 · 1", "step 1 · 3", "step 2 · 6"]


def test_lines_have_the_steps_of_the_maps_beside_them_and_no_colour_scale(visit):
    with test_server([RunningSum(width=2)]) as running, Client(running.target) as client:
        session = client.session("running-sum", session_id="pair")
        page = visit(running.http, "#/sessions/pair")
        for x in range(6):
            session.step(np.array([x, -x], np.float32))
            page.sees(f"after {x + 1} step")
        # Six steps where there is room for 40: what is drawn begins and ends in the middle of their columns.
        page.page.wait_for_function(DRAWN_FROM_TO, arg=[0.5 / 40, 5.5 / 40])
        assert page.reads("input x", 4) == "step 4 · 4 · -4"
        figure = page.figure("total")
        assert figure.locator(".legend").all_inner_texts() == ["column 0", "column 1"]
        assert figure.get_by_role("button").count() == 0, "a line has no colour scale"
        # A click on a line shows that step, as one on a map does.
        page.reads("total", 2, click=True)
        page.sees("after 3 steps")
        page.sees("paused")
        page.reads("total", 0, click=True)
        page.page.get_by_text("In numbers").click()
        page.page.get_by_text("The state after 1 step", exact=True).wait_for()


def test_a_model_without_state_says_so(linked, visit):
    with Client(linked.target) as client, client.session("doubling", session_id="none") as session:
        session.step(np.array([1], np.float32))
        page = visit(linked.http, "#/sessions/none")
        page.sees("This model keeps no state")


def test_a_memory_of_one_value_says_that_value_and_can_be_pinned(visit):
    model = LinkedMemory()
    model.initial_state = tuple(
        frozen(np.full(spec.shape, 18 if spec.name == "memory" else 0, np.float32)) for spec in model.spec.state
    )
    with test_server([model]) as running, Client(running.target) as client:
        client.session("linked-memory", session_id="flat")
        page = visit(running.http, "#/sessions/flat")
        page.at_step(0)
        memory = page.figure("memory")
        assert memory.locator(".bar-of-colour > span").first.inner_text() == "all 18"
        assert "16.2" not in memory.inner_text()
        assert memory.get_by_role("img").get_attribute("aria-label").endswith(", all 18")
        page.button("Pin the colour scale of memory").click()
        page.page.get_by_label("memory: greatest value of the colour scale").fill("36")
        page.page.keyboard.press("Tab")
        page.page.locator('canvas[data-view="memory"][data-greatest="36"]').wait_for()
