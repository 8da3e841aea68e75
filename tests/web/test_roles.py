"""Any state has a view: by its role, or by its shape."""

import numpy as np
import pytest
from web.machine import HEADS, SLOTS, WIDTH, LinkedMemory

from ntm_serve.client import Client
from ntm_serve.testing import Doubling, RunningSum, test_server


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
            "input x", "output y", "write weighting", "read weighting, head 1", "read weighting, head 2", "usage",
            "memory", "link", "keys, part 1", "keys, part 2",
        ]  # fmt: skip
        assert page.canvas("keys", 3 * WIDTH).shows(states[-1]["keys"][1])


def test_a_state_of_one_number_is_drawn(linked, visit):
    with Client(linked.target) as client, client.session("running-sum", session_id="sum") as session:
        page = visit(linked.http, "#/sessions/sum")
        for x in (1, 2, 3):
            session.step(np.array([x], np.float32))
            page.sees(f"after {x} step")
        strip = page.canvas("total")
        assert [round(float(strip.column(step).values[0, 0])) for step in range(3)] == [1, 3, 6]


def test_a_model_without_state_says_so(linked, visit):
    with Client(linked.target) as client, client.session("doubling", session_id="none") as session:
        session.step(np.array([1], np.float32))
        page = visit(linked.http, "#/sessions/none")
        page.sees("This model keeps no state")
