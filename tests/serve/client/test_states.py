"""Snapshot, restore, fork and rewind, as a client does them; each through both clients."""

import threading

import pytest

from ntm_serve.client import Durability
from ntm_serve.errors import (
    InvalidInput,
    SessionExists,
    SessionUnknown,
    SnapshotRejected,
    StepAborted,
    StepForgotten,
)
from ntm_serve.testing import Gate, RunningSum, test_server


@pytest.fixture(scope="module")
def in_memory():
    with test_server([RunningSum()]) as running:
        yield running


@pytest.fixture(scope="module")
def with_store(tmp_path_factory):
    store = f"sqlite:{tmp_path_factory.mktemp('store')}/sessions.db"
    with test_server([RunningSum()], store=store, retain_steps=50) as running:
        yield running


@pytest.fixture(params=["in_memory", "with_store"])
def server(request):
    """What a client does at the present is the same for both."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def stored(connect, with_store):
    """A client of the server that has a store."""
    return connect(with_store.target)


def total(session, *values):
    """What the steps give, the last of them."""
    return session.step([[value] for value in values])[-1, 0]


def test_a_snapshot_is_restored_as_a_session_of_its_own(client, session):
    total(session, 1, 2, 3)
    snapshot = session.snapshot()
    assert snapshot.step == 3
    other = client.restore(snapshot.data)
    assert (other.next_step, other.info().model) == (3, "running-sum")
    assert total(other, 10) == 16
    assert total(session, 1) == 7, "the one goes on, unchanged by the other"
    other.close()


def test_a_snapshot_of_another_server_of_the_same_model_is_restored(client, session, connect):
    total(session, 5)
    with test_server([RunningSum()]) as elsewhere:
        there = connect(elsewhere.target)
        assert total(there.restore(session.snapshot().data, session_id="moved"), 1) == 6
        assert there.session_info("moved").durability is Durability.MEMORY


def test_damaged_and_foreign_bytes_are_refused(client, session, connect):
    total(session, 5)
    data = bytearray(session.snapshot().data)
    data[-6] ^= 1
    with pytest.raises(SnapshotRejected, match=r"expected checksum .* it is damaged or cut short"):
        client.restore(bytes(data))
    with pytest.raises(SnapshotRejected, match="expected bytes that begin with"):
        client.restore(b"something else")
    with test_server([RunningSum(name="other")]) as elsewhere:
        there, snapshot = connect(elsewhere.target), session.snapshot()
        with pytest.raises(SnapshotRejected, match="expected one of a model that is served here"):
            there.restore(snapshot.data)


def test_a_fork_goes_its_own_way(client, session):
    total(session, 1, 2)
    fork = session.fork()
    named = client.fork(session.id, f"{session.id}-named")
    assert fork.id != session.id
    assert (fork.next_step, named.next_step, named.id) == (2, 2, f"{session.id}-named")
    assert (total(fork, 10), total(named, 20), total(session, 3)) == (13, 23, 6)
    with pytest.raises(SessionExists):
        session.fork(named.id)
    fork.close()
    named.close()


def test_what_is_past_is_forked_and_rewound_from_a_store(stored):
    session = stored.session("running-sum")
    answers = [total(session, value) for value in range(1, 21)]
    for step in (0, 7, 20):
        fork = session.fork(step=step)
        assert fork.next_step == step
        assert total(fork, 0) == (answers[step - 1] if step else 0)
        assert stored.snapshot(session.id, step=step).step == step
        fork.close()
    assert session.rewind(7).next_step == 7
    assert [total(session, value) for value in range(8, 21)] == answers[7:]
    with pytest.raises(StepForgotten, match="expected a step from 7 to 20, got 6: what led there was let go"):
        session.rewind(6)
    with pytest.raises(InvalidInput, match="expected a step from 7 to 20, got 21"):
        session.fork(step=21)
    assert session.info().oldest_retained_step == 7


def test_in_memory_only_the_present_is_known(client):
    with client.session("running-sum", durability="memory") as session:
        total(session, 1, 2)
        assert session.fork(step=2).next_step == 2
        assert session.rewind(2).next_step == 2
        with pytest.raises(StepForgotten, match="expected a step from 2 to 2, got 1: it lives in memory alone"):
            session.rewind(1)
        assert total(session, 3) == 6


def test_durability_is_chosen_when_a_session_is_opened(stored):
    for word in Durability:
        with stored.session("running-sum", durability=word) as session:
            assert session.info().durability is word
            assert session.fork().info().durability is word, "as the other's, where nothing is said"
            assert session.fork(durability="memory").info().durability is Durability.MEMORY
    with pytest.raises(InvalidInput, match="durability: expected one of memory, process, disk, got 'for ever'"):
        stored.session("running-sum", durability="for ever")


def test_a_server_without_a_store_says_that_it_has_none(connect):
    with test_server([RunningSum()]) as server:
        client = connect(server.target)
        with pytest.raises(InvalidInput, match="expected memory, as this server has no store, got process"):
            client.session("running-sum", durability="process")


def test_steps_that_are_in_flight_when_a_session_is_rewound_are_aborted(connect, tmp_path):
    gate, ended = Gate(), []
    with test_server([RunningSum(before_run=gate)], store=f"sqlite:{tmp_path}/sessions.db") as server:
        session = connect(server.target).session("running-sum", session_id="a")
        gate.let_through(1)
        total(session, 1)
        gate.await_run()

        def step():
            with pytest.raises(StepAborted, match="session a: was rewound to step 0") as aborted:
                total(session, 2)
            ended.append(aborted.value)

        stepping = threading.Thread(target=step)
        stepping.start()
        gate.await_run()
        other = connect(server.target)
        assert other.rewind("a", 0).next_step == 0
        stepping.join(30)
        assert ended
        gate.open()
        assert total(connect(server.target).session("running-sum", session_id="a", resume=True), 5) == 5


def test_a_session_that_there_is_not_has_no_state(client):
    for ask in (
        lambda: client.snapshot("nobody"),
        lambda: client.fork("nobody"),
        lambda: client.rewind("nobody", 0),
    ):
        with pytest.raises(SessionUnknown):
            ask()
