"""One session on the page: its memory is what the server has, and can be looked back at and exported."""

import base64
import io
import struct

import numpy as np
import pytest
from web.looking import TOLERANCE

from ntm_models.tasks import Copy
from ntm_serve.client import Client
from ntm_serve.testing import test_server

STATE = ("memory", "write_weighting", "read_weighting", "read_vector")


@pytest.fixture
def copying(server, request):
    """A session of copy-ff, and the vectors of a copy of length 10."""
    xs = Copy().episodes(length=10, sequences=1, seed=3).x[0]
    with Client(server.target) as client, client.session("copy-ff", session_id=request.node.name[:100]) as session:
        yield session, xs


def stepped(visit, session, xs):
    """A step a message, each seen on the page. States after each step, oldest first."""
    states = []
    for x in xs:
        session.step(x)
        visit.at_step(session.next_step)
        states.append(session.state(*STATE))
    return states


def test_the_memory_changes_as_the_client_steps_and_is_what_grpc_tells(server, copying, visit):
    session, xs = copying
    page = visit(server.http, f"#/sessions/{session.id}")
    before = page.at_step(0)
    assert before.shows(session.state("memory")["memory"])
    memories = []
    for x in xs[:6]:
        session.step(x)
        seen = page.at_step(session.next_step)
        memories.append(session.state("memory")["memory"])
        assert seen.shows(memories[-1])
    assert not seen.shows(memories[0]), "the page shows a memory that did not change"
    assert seen.pixels.shape == (128, 20, 4)


def test_weightings_inputs_and_outputs_are_drawn_step_by_step(server, copying, visit):
    session, xs = copying
    page = visit(server.http, f"#/sessions/{session.id}")
    page.at_step(0)
    states = stepped(page, session, xs)
    read, written, given = (page.canvas(view) for view in ("read_weighting", "write_weighting", "x"))
    for step, (x, state) in enumerate(zip(xs, states, strict=True)):
        assert written.column(step).shows(state["write_weighting"].T)
        assert read.column(step).shows(state["read_weighting"].T)
        assert given.column(step).shows(x[:, np.newaxis])
    copied = page.canvas("y")
    assert [((copied.column(11 + at).values[:, 0] > 0.5) == xs[at, :8]).all() for at in range(10)] == [True] * 10


def test_it_pauses_scrubs_back_by_keyboard_and_goes_live_again(server, copying, visit):
    session, xs = copying
    page = visit(server.http, f"#/sessions/{session.id}")
    page.at_step(0)
    states = stepped(page, session, xs[:8])
    page.button("Pause").click()
    page.sees("paused")
    slider = page.page.get_by_role("slider", name="Frame that is shown")
    slider.focus()
    for _ in range(3):
        page.page.keyboard.press("ArrowLeft")
    assert page.at_step(5).shows(states[4]["memory"])
    assert slider.get_attribute("aria-valuetext") == "after 5 steps"
    session.step(xs[8])
    page.sees("4 newer")
    assert page.at_step(5).shows(states[4]["memory"]), "a paused page went on"
    page.button("One frame back").click()
    assert page.at_step(4).shows(states[3]["memory"])
    page.button("Go live").click()
    assert page.at_step(9).shows(session.state("memory")["memory"])


def test_a_click_on_a_picture_over_time_shows_that_step(server, copying, visit):
    session, xs = copying
    page = visit(server.http, f"#/sessions/{session.id}")
    page.at_step(0)
    states = stepped(page, session, xs[:8])
    canvas = page.page.locator('canvas[data-view="write_weighting"]')
    box = canvas.bounding_box()
    width = page.canvas("write_weighting").pixels.shape[1]
    canvas.click(position={"x": box["width"] * 2.5 / width, "y": box["height"] / 2})
    assert page.at_step(3).shows(states[2]["memory"])


def test_a_pinned_colour_scale_stays_and_can_be_typed(server, copying, visit):
    session, xs = copying
    page = visit(server.http, f"#/sessions/{session.id}")
    page.at_step(0)
    stepped(page, session, xs[:3])
    page.button("Pin the colour scale of memory").click()
    page.page.get_by_label("memory: least value of the colour scale").fill("-2")
    page.page.get_by_label("memory: greatest value of the colour scale").fill("2")
    page.page.keyboard.press("Tab")
    page.page.locator('canvas[data-view="memory"][data-greatest="2"]').wait_for()
    states = stepped(page, session, xs[3:6])
    seen = page.canvas("memory")
    assert (seen.least, seen.greatest) == (-2, 2)
    assert seen.shows(states[-1]["memory"])
    page.page.get_by_label("memory: least value of the colour scale").fill("3")
    page.page.keyboard.press("Tab")
    page.sees("expected the least value to be below the greatest, got 3 and 2")
    assert page.canvas("memory").least == -2


def test_grey_says_the_same_as_colours(server, copying, visit):
    session, xs = copying
    page = visit(server.http, f"#/sessions/{session.id}")
    page.at_step(0)
    states = stepped(page, session, xs[:3])
    page.page.get_by_role("combobox", name="Colours").select_option("grey")
    page.page.locator('canvas[data-view="memory"][data-map="grey"]').wait_for()
    seen = page.canvas("memory")
    assert (np.ptp(seen.pixels[..., :3].astype(int), axis=-1) <= 1).all()
    assert seen.shows(states[-1]["memory"])


def test_an_exported_npz_has_what_was_seen_bit_for_bit(server, copying, visit):
    session, xs = copying
    page = visit(server.http, f"#/sessions/{session.id}")
    page.at_step(0)
    states = stepped(page, session, xs[:5])
    name, content = page.download("Export npz")
    assert name == f"{session.id}-5.npz"
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        assert arrays["step"].tolist() == [0, 1, 2, 3, 4, 5]
        assert arrays["io_step"].tolist() == [0, 1, 2, 3, 4]
        assert arrays["inputs.x"].tobytes() == xs[:5].tobytes()
        assert arrays["outputs.y"].shape == (5, 8)
        for tensor in STATE:
            expected = np.stack([state[tensor] for state in states])
            assert arrays[f"state.{tensor}"][1:].tobytes() == expected.tobytes()


def test_an_exported_png_has_the_pictures(server, copying, visit):
    session, xs = copying
    page = visit(server.http, f"#/sessions/{session.id}")
    page.at_step(0)
    states = stepped(page, session, xs[:5])
    name, content = page.download("Export PNG")
    assert name == f"{session.id}-5.png"
    width, height = struct.unpack(">II", content[16:24])
    assert (width > 2000, height > 1000) == (True, True)
    # The browser itself decodes it; somewhere in it is the colour of the memory's greatest value, in some area.
    seen = page.canvas("memory")
    row, column = np.unravel_index(states[-1]["memory"].argmax(), (128, 20))
    found = page.page.evaluate(
        """async ([png, [r, g, b]]) => {
          const bytes = Uint8Array.from(atob(png), (one) => one.charCodeAt(0));
          const picture = await createImageBitmap(new Blob([bytes], { type: "image/png" }));
          const canvas = new OffscreenCanvas(picture.width, picture.height);
          const context = canvas.getContext("2d");
          context.drawImage(picture, 0, 0);
          const { data } = context.getImageData(0, 0, picture.width, picture.height);
          let found = 0;
          for (let at = 0; at < data.length; at += 4)
            if (data[at] === r && data[at + 1] === g && data[at + 2] === b) found++;
          return found;
        }""",
        [base64.b64encode(content).decode(), seen.pixels[row, column, :3].tolist()],
    )
    assert found > 50


def test_steps_of_one_message_have_one_state_and_the_page_says_so(server, copying, visit):
    session, xs = copying
    page = visit(server.http, f"#/sessions/{session.id}")
    page.at_step(0)
    session.step(xs[:6])
    page.at_step(6)
    strip = page.canvas("write_weighting")
    assert strip.steps[:6] == [0, 1, 2, 3, 4, 5]
    assert strip.pixels[0, :6, 3].tolist() == [0x48] * 5 + [255], "states that nobody saw are not faint"
    given = page.canvas("x")
    assert all(given.column(step).shows(xs[step][:, np.newaxis]) for step in range(6))


def test_a_session_that_is_taken_back_loses_what_it_took_back(server, visit, models, tmp_path):
    xs = Copy().episodes(length=10, sequences=1, seed=3).x[0]
    settings = {"store": f"sqlite:{tmp_path / 'sessions.db'}", "retain_steps": 64}
    with test_server(models, **settings) as running, Client(running.target) as client:
        session = client.session("copy-ff", session_id="back")
        page = visit(running.http, "#/sessions/back")
        page.at_step(0)
        states = stepped(page, session, xs[:6])
        session.rewind(3)
        assert page.at_step(3).shows(states[2]["memory"])
        assert [step for step in page.canvas("write_weighting").steps if step is not None] == [0, 1, 2]


def test_a_large_memory_is_reduced_by_the_server_and_the_page_says_so(server, visit):
    with Client(server.target) as client, client.session("dyck-words-ff", session_id="large") as session:
        session.step(np.ones((1,), np.float32))
        page = visit(server.http, "#/sessions/large")
        page.at_step(1)
        page.page.get_by_label("Rows at most").select_option("64")
        page.sees("256 \u00d7 20, shown as 64 \u00d7 20")
        seen = page.at_step(1)
        memory = session.state("memory")["memory"].reshape(64, 4, 20)
        peaks = np.take_along_axis(memory, np.abs(memory).argmax(axis=1, keepdims=True), axis=1)[:, 0]
        assert seen.shows(peaks)
        # One value in, one out: lines.
        page.page.get_by_role("img", name="input x over time, 1 at last").wait_for()


def test_what_nobody_sees_can_be_read(server, copying, visit):
    session, xs = copying
    page = visit(server.http, f"#/sessions/{session.id}")
    page.at_step(0)
    (*_, state) = stepped(page, session, xs[:4])
    page.page.get_by_text("In numbers").click()
    row = page.page.get_by_role("row", name="write weighting").inner_text()
    slot = int(state["write_weighting"][0].argmax())
    assert f"slot {slot} (" in row
    label = page.page.locator('canvas[data-view="write_weighting"]').get_attribute("aria-label")
    assert f"at slot {slot}" in label


def test_a_session_that_ends_is_told_and_what_was_seen_stays(server, visit):
    with Client(server.target) as client:
        session = client.session("copy-ff", session_id="ends")
        page = visit(server.http, "#/sessions/ends")
        page.at_step(0)
        session.step(np.zeros(9, np.float32))
        page.at_step(1)
        session.close()
        page.sees("This session was closed")
        assert page.canvas("memory").step == 1


def test_a_session_that_never_was_is_explained(server, visit):
    page = visit(server.http, "#/sessions/nobody")
    page.sees("There is no such session")
    page.page.get_by_role("link", name="All sessions").click()
    page.page.get_by_role("heading", name="Sessions").wait_for()


def test_the_tolerance_would_see_a_shade():
    assert TOLERANCE < 4 / 255
