"""Recordings of a run, and the figures that are drawn of them."""

import threading

import numpy as np
import pytest

from ntm_serve.app import load_models
from ntm_serve.client import Client
from ntm_serve.client.plots import memory, memory_use
from ntm_serve.client.recording import Recording, record, recording_of
from ntm_serve.errors import InvalidInput
from ntm_serve.testing import test_server


@pytest.fixture(scope="module")
def zoo_server():
    from serve.conftest import ZOO

    with test_server(load_models(ZOO, batch_max=8), store="") as server:
        yield server


@pytest.fixture
def zoo_client(zoo_server):
    with Client(zoo_server.target) as client:
        yield client


def test_a_recorded_run_has_every_step_and_every_state(zoo_client):
    x = np.random.default_rng(1).integers(0, 2, (7, 9)).astype(np.float32)
    with zoo_client.session("copy-ff") as one, zoo_client.session("copy-ff") as other:
        one.step(x[:2])
        other.step(x[:2])
        recording = record(zoo_client, one, x[2:], "memory", "write_weighting")
        y = other.step(x[2:])
        assert (recording.first_step, recording.steps, recording.state_steps.tolist()) == (2, 5, [2, 3, 4, 5, 6])
        np.testing.assert_array_equal(recording.inputs["x"], x[2:])
        np.testing.assert_array_equal(recording.outputs["y"], y)
        assert set(recording.state) == {"memory", "write_weighting"}
        np.testing.assert_array_equal(recording.state["memory"][-1], one.state("memory")["memory"])
        assert recording.of_role("write_weighting") == ["write_weighting"]


def test_what_is_recorded_may_be_given_by_the_names_of_the_inputs(zoo_client):
    x = np.random.default_rng(1).integers(0, 2, (3, 9)).astype(np.float32)
    with zoo_client.session("copy-ff") as one, zoo_client.session("copy-ff") as other:
        by_name, each = record(zoo_client, one, {"x": x}, "memory"), record(zoo_client, other, x, "memory")
    np.testing.assert_array_equal(by_name.inputs["x"], x)
    np.testing.assert_array_equal(by_name.outputs["y"], each.outputs["y"])


def test_a_watched_run_is_the_recorded_run_with_gaps_where_nobody_looked(zoo_client):
    x = np.random.default_rng(2).integers(0, 2, (12, 9)).astype(np.float32)
    with zoo_client.session("copy-ff") as watched, zoo_client.session("copy-ff") as stepped:
        frames = zoo_client.watch(watched.id, frames_per_s=30)
        seen = []
        taking = threading.Thread(target=lambda: seen.append(recording_of(frames, steps=12)))
        taking.start()
        # Three steps a message: of each only the last has a state.
        for at in range(0, 12, 3):
            watched.step(x[at : at + 3])
        taking.join()
        (recording,) = seen
        whole = record(zoo_client, stepped, x)
        np.testing.assert_array_equal(recording.inputs["x"], x)
        np.testing.assert_array_equal(recording.outputs["y"], whole.outputs["y"])
        assert recording.state_steps[-1] == 11
        assert set(recording.state_steps.tolist()) <= {2, 5, 8, 11}
        np.testing.assert_array_equal(recording.state["memory"], whole.state["memory"][recording.state_steps])
        over_time = recording.over_time("memory")
        assert over_time.shape == (12, 128, 20)
        assert np.isnan(over_time[[0, 1, 3, 4]]).all()
        frames.close()


def test_a_run_of_which_the_state_alone_was_watched_is_recorded(zoo_client):
    with zoo_client.session("copy-ff") as session:
        session.step(np.ones((3, 9), np.float32))
        frames = zoo_client.watch(session.id, "memory", state_only=True)
        recording = recording_of(frames, steps=3)
        frames.close()
        assert (recording.steps, recording.inputs, recording.state_steps.tolist()) == (3, {}, [2])
        assert recording.over_time("memory").shape == (3, 128, 20)


def test_a_recording_is_a_file_of_plain_numpy(zoo_client, tmp_path):
    with zoo_client.session("copy-ff") as session:
        recording = record(zoo_client, session, np.ones((3, 9), np.float32))
    recording.save(tmp_path / "run.npz")
    again = Recording.load(tmp_path / "run.npz")
    assert (again.first_step, again.roles, again.title) == (0, recording.roles, "copy-ff/1")
    for group in ("inputs", "outputs", "state"):
        mine, theirs = getattr(recording, group), getattr(again, group)
        assert mine.keys() == theirs.keys()
        for name in mine:
            np.testing.assert_array_equal(mine[name], theirs[name])
    (tmp_path / "other").write_bytes(b"no archive")
    with pytest.raises(InvalidInput, match="expected one that `save` wrote"):
        Recording.load(tmp_path / "other")


def test_there_is_nothing_to_record_without_steps_or_tensors(zoo_client):
    with zoo_client.session("copy-ff") as session:
        with pytest.raises(InvalidInput, match="at least one step"):
            record(zoo_client, session, [])
        with pytest.raises(InvalidInput, match="usage"):
            record(zoo_client, session, np.ones((1, 9), np.float32), "usage")
        assert session.next_step == 0


def test_the_figure_has_what_went_in_and_out_and_where_the_heads_were(tmp_path):
    recording = Recording(
        first_step=5,
        inputs={"x": np.eye(4, dtype=np.float32)},
        outputs={"y": np.ones((4, 2), np.float32)},
        state_steps=np.array([5, 6, 8]),
        state={"w": np.ones((3, 2, 10), np.float32), "usage": np.arange(30, dtype=np.float32).reshape(3, 10)},
        roles={"w": "write_weighting", "usage": "usage"},
        title="model/1",
    )
    figure = memory_use(recording, slots=slice(3, 9))
    axes = [one for one in figure.axes if one.images and one.get_title(loc="left")]
    titles = [one.get_title(loc="left") for one in axes]
    assert titles == ["input x", "output y", "write weighting w, head 0", "write weighting w, head 1", "usage"]
    # Time to the right, from the first step on; slots by their numbers.
    assert axes[2].images[0].get_extent() == [4.5, 8.5, 8.5, 2.5]
    drawn = axes[2].images[0].get_array()
    assert drawn.shape == (6, 4)
    assert np.isnan(np.ma.filled(drawn, np.nan)[:, 2]).all()
    assert axes[4].images[0].get_clim() == (3.0, 28.0)
    figure.savefig(tmp_path / "use.png")
    assert (tmp_path / "use.png").stat().st_size > 5_000


def test_a_memory_is_drawn_with_nothing_in_the_middle():
    figure = memory(np.array([[-2.0, 0.0], [1.0, 0.0]]), title="memory")
    assert figure.axes[0].images[0].get_clim() == (-2.0, 2.0)
    with pytest.raises(InvalidInput, match=r"\[N, M\]"):
        memory(np.zeros(3))
