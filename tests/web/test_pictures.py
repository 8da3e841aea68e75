"""What the documentation shows, from a real run: written to the folder of --pictures."""

import time

import numpy as np
import pytest

from ntm_models.tasks import Copy
from ntm_serve.client import Client
from ntm_serve.testing import test_server

LENGTH = 40


@pytest.fixture(scope="module")
def copied(models):
    """A server with the sessions of a small plant, and one of them that is about to copy 40 vectors."""
    with test_server(models) as running, Client(running.target) as client:
        for at, steps in enumerate((41, 12, 241, 96)):
            client.session("copy-lstm", session_id=f"pump-{at + 1}").step(np.zeros((steps, 9), np.float32))
        client.session("associative-recall-ff", session_id="valve-1").step(np.zeros((30, 8), np.float32))
        with client.session("copy-ff", session_id="copy-of-40") as session:
            yield running, session


def test_a_copy_of_length_40_is_seen_step_by_step(copied, visit, pictures):
    running, session = copied
    episode = Copy().episodes(length=LENGTH, sequences=1, seed=6)
    page = visit(running.http, f"#/sessions/{session.id}", viewport={"width": 1360, "height": 830})
    page.at_step(0)
    outputs = []
    for x in episode.x[0]:
        outputs.append(np.asarray(session.step(x)))
        page.at_step(session.next_step)
    y = np.where(episode.scored[:, np.newaxis], outputs, 0)
    assert int(episode.wrong_bits(y[np.newaxis])[0]) == 0, "a picture of a wrong copy"
    written, read = page.canvas("write_weighting"), page.canvas("read_weighting")
    # At the delimiter the read head starts where the write head did, and follows it slot by slot.
    slots = [int(np.nanargmax(written.column(step).values)) for step in range(LENGTH)]
    followed = [int(np.nanargmax(read.column(LENGTH + step).values)) for step in range(LENGTH)]
    assert followed == slots
    page.page.screenshot(path=pictures / "inspector-copy.png", animations="disabled")
    page.page.emulate_media(color_scheme="dark")
    page.page.screenshot(path=pictures / "inspector-copy-dark.png", animations="disabled")
    page.page.emulate_media(color_scheme="light")
    page.page.set_viewport_size({"width": 390, "height": 844})
    page.page.screenshot(path=pictures / "inspector-phone.png", animations="disabled")
    assert all((pictures / f"inspector-{name}.png").stat().st_size > 10_000 for name in ("copy", "copy-dark", "phone"))


def _work(running, *, minutes):
    """Sessions that step for a while, more and fewer at once, so that there is something to draw."""
    rng = np.random.default_rng(1)
    until_s = time.monotonic() + 60 * minutes
    with Client(running.target) as client, client.group("copy-lstm", prefix="gauge-") as group:
        while time.monotonic() < until_s:
            group.step({str(at): np.zeros((1, 9), np.float32) for at in range(1 + rng.integers(64))})


def test_models_and_sessions_are_pictured(copied, visit, pictures, request):
    running, _ = copied
    if request.config.getoption("--pictures", default=None):
        _work(running, minutes=1.5)
    page = visit(running.http, viewport={"width": 1360, "height": 480})
    page.page.get_by_role("img", name="Latency of copy-ff").wait_for()
    page.page.screenshot(path=pictures / "inspector-models.png", animations="disabled")
    page.page.get_by_role("navigation").get_by_role("link", name="Sessions").click()
    page.page.get_by_role("link", name="pump-3").wait_for()
    page.page.screenshot(path=pictures / "inspector-sessions.png", animations="disabled")
