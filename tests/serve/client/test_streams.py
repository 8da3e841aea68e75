"""What both clients promise of streams: order, grouping, the bound on reading ahead, and every way to end one."""

import itertools
import threading

import numpy as np
import pytest
from serve.exposition import scrape, value

from ntm_serve.errors import EngineFault, InvalidInput, NonFiniteState, SessionClosed, StepCancelled, TooLarge
from ntm_serve.testing import Gate, RunningSum, test_server
from ntm_serve.testing.running_sum import FAILING_INPUT

ONE = np.ones(1, np.float32)
STREAM = {"grpc_service": "ntm_serve.v1.Sessions", "grpc_method": "Stream"}


class Unusual(BaseException):
    """Not an Exception: as KeyboardInterrupt, but one that event loops treat as any other."""


class Counted:
    """More ones than any test takes, and how many of them were read."""

    def __init__(self):
        self.read = 0

    def __iter__(self):
        for _ in range(3000):
            self.read += 1
            yield ONE


def test_outputs_come_in_the_order_of_inputs(session):
    ys = list(session.stream(([number] for number in range(200)), in_flight_max=7))
    assert [y.tolist() for y in ys] == [[n * (n + 1) / 2] for n in range(200)]
    assert session.next_step == 200


def test_a_stream_of_nothing_gives_nothing(session):
    assert list(session.stream([])) == []
    assert session.step([1]).tolist() == [1]


def messages_received(server):
    return value(scrape(server), "grpc_server_msg_received_total", **STREAM)


def test_steps_go_together_in_messages_and_come_back_one_by_one(server, session):
    before = messages_received(server)
    ys = list(session.stream([ONE] * 10, steps_per_message=4))
    assert [y.tolist() for y in ys] == [[n] for n in range(1, 11)]
    assert messages_received(server) - before == 3


def test_steps_that_come_together_stay_together(server, session):
    before = messages_received(server)
    xs = [[1], [1], [[1], [1]], [1], [[1]]]
    ys = list(session.stream(xs, steps_per_message=4))
    assert [y.tolist() for y in ys] == [[1], [2], [[3], [4]], [5], [[6]]]
    assert messages_received(server) - before == 4


@pytest.mark.parametrize("steps_per_message", [1, 3])
def test_inputs_are_not_read_further_ahead_than_asked(session, steps_per_message):
    xs, ahead = Counted(), 4 * steps_per_message
    ys = session.stream(xs, in_flight_max=4, steps_per_message=steps_per_message)
    for taken, _ in enumerate(itertools.islice(ys, 60), start=1):
        message = -(-taken // steps_per_message)
        assert xs.read <= message * steps_per_message + ahead
    ys.close()


def test_no_input_is_read_while_there_is_no_room(connect):
    gate, xs = Gate(), Counted()
    with test_server([RunningSum(before_run=gate)]) as server:
        client = connect(server.target)
        session = client.session("running-sum")
        ys = session.stream(xs, in_flight_max=3)
        first = threading.Thread(target=next, args=(ys,))
        first.start()
        while client.session_info(session.id).steps_in_flight < 3:
            pass
        for _ in range(30):
            assert client.session_info(session.id).steps_in_flight == 3
        assert xs.read == 3
        gate.open()
        first.join()
        ys.close()


@pytest.mark.parametrize("option", ["in_flight_max", "steps_per_message"])
def test_a_bound_that_would_wait_for_ever_is_refused(session, option):
    with pytest.raises(InvalidInput, match=f"{option}: expected at least 1, got 0"):
        list(session.stream([ONE], **{option: 0}))


def test_a_loop_left_early_leaves_the_session_after_what_was_sent(client, session):
    xs = Counted()
    for _ in session.stream(xs, in_flight_max=16):
        while client.session_info(session.id).next_step < 10:  # Far beyond the y that is taken.
            pass
        break
    info = session.info()
    assert (info.steps_in_flight, info.next_step) == (0, session.next_step)
    assert 10 <= info.next_step <= xs.read
    assert session.step(ONE).tolist() == [info.next_step + 1]


def test_a_step_ends_a_stream_that_was_left_and_goes_after_it(session):
    ys = session.stream(Counted())
    next(ys)
    y = session.step(ONE)
    assert y.tolist() == [session.next_step]
    with pytest.raises(StepCancelled, match="a later call ended this stream"):
        next(ys)
    assert session.step(ONE).tolist() == [session.next_step]


def test_a_stream_ends_another_that_was_left(session):
    left = session.stream(Counted())
    next(left)
    ys = list(session.stream([ONE] * 3))
    assert ys[-1].tolist() == [session.next_step]
    left.close()


def test_leaving_a_loop_waits_no_longer_than_a_call_may_take(connect):
    gate = Gate()
    with test_server([RunningSum(before_run=gate)]) as server:
        client = connect(server.target, timeout_s=0.2)
        session = client.session("running-sum")
        gate.let_through(1)
        for _ in session.stream(Counted()):
            break
        while client.session_info(session.id).steps_in_flight:
            pass
        gate.open()


@pytest.mark.parametrize("fault", [KeyError("mine"), InvalidInput("mine"), Unusual("mine")])
def test_a_fault_of_the_inputs_reaches_the_caller_after_the_outputs_before_it(session, fault):
    def xs():
        yield from [ONE] * 3
        raise fault

    taken = []
    with pytest.raises(type(fault), match="mine"):
        taken.extend(map(np.ndarray.tolist, session.stream(xs())))
    assert taken == [[1], [2], [3]]
    assert session.step(ONE).tolist() == [4]


def test_a_wrong_input_in_a_stream_is_refused_where_it_stands(session):
    taken = []
    with pytest.raises(InvalidInput, match=r"got \[2\]"):
        taken.extend(map(np.ndarray.tolist, session.stream([ONE, ONE, np.ones(2, np.float32), ONE])))
    assert taken == [[1], [2]]
    assert session.step(ONE).tolist() == [3]


@pytest.mark.parametrize(
    ("bad", "error"), [(3.4e38, NonFiniteState), (FAILING_INPUT, EngineFault), (float("nan"), InvalidInput)]
)
def test_an_error_of_the_server_ends_the_loop_and_the_session_goes_on(session, bad, error):
    session.step([1e38])
    session.step([-1e38])
    session.step([3e38])
    taken = []
    with pytest.raises(error):
        taken.extend(map(np.ndarray.tolist, session.stream([[-3e38], [0], [3.4e38], [bad], *[[0]] * 20])))
    assert len(taken) == 3
    assert session.info().steps_in_flight == 0
    assert session.info().next_step == session.next_step == 6
    session.step([-1e38])


def test_a_message_that_cannot_be_read_is_refused_after_the_outputs_before_it(connect):
    gate = Gate()
    with test_server([RunningSum(before_run=gate)], steps_per_message_max=2) as server:
        session = connect(server.target).session("running-sum")
        gate.let_through(1)

        def xs():
            yield ONE
            yield np.ones((2, 1), np.float32)
            yield np.ones((3, 1), np.float32)
            gate.open()

        taken = []
        with pytest.raises(TooLarge, match="expected 1 <= T <= 2 steps, got T = 3"):
            taken.extend(map(np.ndarray.tolist, session.stream(xs())))
        assert taken == [[1], [[2], [3]]]
        assert session.step(ONE).tolist() == [4]


def test_the_rest_of_a_stream_that_failed_is_never_run(client, session):
    # The inputs after the bad one are on their way when the caller goes on at its number.
    for _ in range(20):
        with pytest.raises(EngineFault):
            list(session.stream([[FAILING_INPUT], *[[100]] * 15]))
        session.step([1])
    assert session.step([0]).tolist() == [20]


def test_a_session_that_is_closed_ends_its_stream(client, session):
    ys = session.stream(Counted(), in_flight_max=2)
    next(ys)
    client.close_session(session.id)
    with pytest.raises(SessionClosed):
        list(ys)
    with pytest.raises(SessionClosed):
        session.close()
    session._closed = True


def test_sessions_of_one_client_stream_side_by_side(client):
    sessions = [client.session("running-sum") for _ in range(4)]
    streams = [session.stream([[number]] * 50, in_flight_max=5) for number, session in enumerate(sessions)]
    for turn, ys in enumerate(zip(*streams, strict=True), start=1):
        assert [y.tolist() for y in ys] == [[number * turn] for number in range(4)]


def test_threads_may_share_a_client_each_with_its_session(client):
    ends = {}

    def work(number):
        with client.session("running-sum") as session:
            *_, ends[number] = session.stream([[number]] * 100)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: y.tolist() for number, y in ends.items()} == {n: [100 * n] for n in range(4)}
