"""Watching a session from both clients: what is seen is what there is, and nobody waits for who looks."""

import threading
import time

import numpy as np
import pytest

from ntm_serve.client import Client
from ntm_serve.errors import (
    InvalidInput,
    LimitReached,
    SessionClosed,
    SessionEvicted,
    SessionExpired,
    SessionUnknown,
    StepCancelled,
)
from ntm_serve.testing import Gate, RunningSum, test_server

WAIT_S = 20.0


def test_the_first_frame_comes_at_once_and_is_the_state_as_it_stands(client, session):
    session.step([[1], [2], [3]])
    frame = next(client.watch(session.id))
    assert (frame.next_step, frame.lost, frame.resident) == (3, 0, True)
    assert frame.state["total"].array.tolist() == [6.0]
    assert [one.name for one in frame.of_role("memory")] == ["total"]
    assert frame.first_step == 0
    assert frame.inputs["x"].array.tolist() == [[1.0], [2.0], [3.0]]
    assert frame.outputs["y"].array.tolist() == [[1.0], [3.0], [6.0]]
    assert abs(frame.taken_at_s - time.time()) < WAIT_S


def test_each_message_has_a_frame_where_there_is_time_for_it(client, session):
    frames = client.watch(session.id, frames_per_s=30)
    next(frames)
    for number in range(1, 5):
        session.step([1])
        frame = next(frames)
        assert (frame.next_step, frame.lost) == (number, 0)
        assert frame.state["total"].array.tolist() == [number]
        assert (frame.first_step, frame.inputs["x"].array.shape) == (number - 1, (1, 1))


def test_whoever_is_faster_than_the_frames_loses_none_of_its_steps_inputs(client, session):
    frames = client.watch(session.id, frames_per_s=5)
    seen = [next(frames)]
    for number in range(40):
        session.step([number])
    while seen[-1].next_step < 40:
        seen.append(next(frames))
    # Forty messages, and so many of them as no frame showed.
    assert sum(one.lost for one in seen) == 40 - (len(seen) - 1)
    assert len(seen) < 40
    x = np.concatenate([one.inputs["x"].array for one in seen]).ravel()
    assert x.tolist() == list(range(40))
    assert seen[-1].state["total"].array.tolist() == [sum(range(40))]


def test_whoever_does_not_read_holds_nobody(server):
    with Client(server.target) as watching, Client(server.target) as stepping:
        session = stepping.session("running-sum")
        frames = watching.watch(session.id, frames_per_s=30)
        next(frames)
        assert [y.tolist() for y in session.stream([[1.0]] * 300)] == [[float(n + 1)] for n in range(300)]
        session.close()


def test_frames_go_to_whom_they_are_asked_for(client, session):
    one, other = client.watch(session.id, "total"), client.watch(session.id, "memory", state_only=True)
    next(one), next(other)
    session.step([1])
    seen = next(one), next(other)
    assert [frame.next_step for frame in seen] == [1, 1]
    assert list(seen[0].inputs) == ["x"]
    assert list(seen[1].inputs) == []


def test_a_loop_that_is_left_leaves_nothing(client, server, session):
    before = server.running.service._sessions.viewers
    frames = client.watch(session.id)
    next(frames)
    assert server.running.service._sessions.viewers == before + 1
    frames.close()
    until(lambda: server.running.service._sessions.viewers == before)
    assert server.running.service._sessions.get(session.id).watch is None


def test_it_ends_when_the_session_is_closed(client, server):
    session = client.session("running-sum")
    frames = client.watch(session.id)
    next(frames)
    session.close()
    with pytest.raises(SessionClosed):
        next(frames)
    assert server.running.service._sessions.viewers == 0


def test_a_session_that_is_not_there_cannot_be_watched(client):
    with pytest.raises(SessionUnknown):
        next(client.watch("nobody"))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"frames_per_s": -1.0}, "frames_per_s"),
        ({"frames_per_s": float("nan")}, "frames_per_s"),
        ({"rows_max": -1}, "rows_max"),
        ({"reduction": "median"}, "reduction"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_by_name(client, session, options, named):
    with pytest.raises(InvalidInput, match=named):
        next(client.watch(session.id, **options))


def test_a_tensor_that_there_is_not_is_refused_with_those_that_there_are(client, session):
    with pytest.raises(InvalidInput, match=r"memory.*total.*usage"):
        next(client.watch(session.id, "usage"))


def test_more_names_than_any_model_has_are_refused(client, session):
    with pytest.raises(InvalidInput, match="tensors: expected at most 1000 names, got 1001"):
        next(client.watch(session.id, *["*"] * 1001))
    assert next(client.watch(session.id, *["total"] * 1000)).next_step == 0


def test_a_rewound_session_is_shown_where_it_stands(connect, tmp_path):
    with test_server([RunningSum()], store=f"sqlite:{tmp_path / 'store'}", retain_steps=100) as server:
        client = connect(server.target)
        session = client.session("running-sum")
        session.step([[1], [1], [1]])
        frames = client.watch(session.id, frames_per_s=30)
        assert next(frames).next_step == 3
        session.rewind(1)
        frame = next(frames)
        assert (frame.next_step, frame.state["total"].array.tolist(), frame.lost) == (1, [1.0], 0)
        session.step([5])
        frame = next(frames)
        assert (frame.next_step, frame.state["total"].array.tolist()) == (2, [6.0])
        assert frame.inputs["x"].array.tolist() == [[5.0]]


def test_it_ends_when_the_session_makes_room_and_cannot_come_back(connect):
    with test_server([RunningSum()], resident_bytes_max=40) as server:
        client = connect(server.target)
        first = client.session("running-sum", session_id="first")
        frames = client.watch(first.id)
        next(frames)
        for _ in range(12):
            client.session("running-sum")
        with pytest.raises(SessionEvicted):
            next(frames)


def test_it_ends_when_the_session_expires(connect, monkeypatch):
    monkeypatch.setattr("ntm_serve.app.EXPIRY_INTERVAL_S", 0.02)
    with test_server([RunningSum()], idle_life_s=0.2) as server:
        client = connect(server.target)
        session = client.session("running-sum")
        frames = client.watch(session.id)
        with pytest.raises(SessionExpired):
            for _ in frames:
                pass


def test_so_many_watch_and_no_more(connect):
    with test_server([RunningSum()], watches_max=2) as server:
        client = connect(server.target, retry=None)
        session = client.session("running-sum")
        held = [client.watch(session.id) for _ in range(2)]
        for one in held:
            next(one)
        with pytest.raises(LimitReached, match="at most 2"):
            next(client.watch(session.id))
        held[0].close()
        until(lambda: server.running.service._sessions.viewers == 1)
        assert next(client.watch(session.id)).next_step == 0


def test_an_unfinished_message_is_not_seen(connect):
    gate = Gate()
    with test_server([RunningSum(before_run=gate)]) as server:
        client = connect(server.target)
        session = client.session("running-sum")
        stepping = threading.Thread(target=lambda: session.step([[1], [1]]))
        stepping.start()
        gate.await_run()
        assert next(client.watch(session.id)).next_step == 0
        gate.open()
        stepping.join()
        frames = client.watch(session.id)
        assert next(frames).next_step == 2
        frames.close()


def test_it_ends_with_a_client_that_is_closed(server):
    client = Client(server.target)
    session = client.session("running-sum")
    frames = client.watch(session.id)
    next(frames)
    client.close()
    with pytest.raises(StepCancelled):
        next(frames)


def test_it_goes_on_at_a_server_that_takes_the_place_of_one_that_stopped(connect, tmp_path):
    store = {"store": f"sqlite:{tmp_path / 'store'}"}
    with test_server([RunningSum()], **store) as first:
        port = first.running.port
        client = connect(first.target)
        client.session("running-sum", session_id="s").step([4])
        frames = client.watch("s", frames_per_s=30)
        assert next(frames).next_step == 1
    with test_server([RunningSum()], port=port, **store) as second:
        session = connect(second.target).session("running-sum", session_id="s", resume=True)
        session.step([1])
        frame = next(frames)
        assert (frame.next_step, frame.state["total"].array.tolist()) == (2, [5.0])
        frames.close()


def test_a_memory_too_large_for_the_loop_is_reduced_beside_it(connect):
    class Wide(RunningSum):
        def __init__(self):
            super().__init__(name="wide", width=600_000)

    with test_server([Wide()], message_bytes_max=64 << 20) as server:
        client = connect(server.target)
        session = client.session("wide")
        x = np.zeros(600_000, np.float32)
        x[123_456] = -7.0
        session.step(x)
        frame = next(client.watch(session.id, columns_max=100))
        total = frame.state["total"]
        assert (total.full_shape, total.blocks, total.array.shape) == ((600_000,), (6_000,), (100,))
        assert total.array[20] == -7.0


def until(is_so):
    """Wait until it is so, for a bounded time."""
    end_s = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < end_s, "waited in vain"
        time.sleep(0.005)
