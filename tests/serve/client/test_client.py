"""What both clients promise but for streams: forms, errors, sessions, connections."""

import re
import secrets
import socket

import numpy as np
import pytest

from ntm_serve.errors import (
    DeadlinePassed,
    InvalidInput,
    LimitReached,
    ModelUnknown,
    NonFiniteState,
    ServerUnreachable,
    SessionClosed,
    SessionExists,
    SessionUnknown,
    StepAhead,
    StepConflict,
    StepForgotten,
    TooLarge,
)
from ntm_serve.testing import Gate, RunningSum, test_server

SHAPES = "x: expected shape [1] for one step or [T, 1] for several, got "
ONE_OR_SEVERAL = "x: expected float32[1] for one step or float32[T, 1] for several, got "


def test_one_step_gives_an_output_in_the_form_of_one_step(session):
    y = session.step(np.array([2], np.float32))
    assert (y.dtype, y.shape, y.tolist()) == (np.float32, (1,), [2])


def test_several_steps_give_as_many_outputs(session):
    y = session.step(np.array([[1], [2], [3]], np.float32))
    assert (y.shape, y.tolist()) == ((3, 1), [[1], [3], [6]])
    assert session.next_step == 3


def test_one_step_of_several_keeps_its_axis(session):
    assert session.step(np.ones((1, 1), np.float32)).shape == (1, 1)


@pytest.mark.parametrize("x", [[1], [1.0], (1,), [np.float64(1)], [True]])
def test_lists_and_numbers_take_the_dtype_of_the_spec(session, x):
    y = session.step(x)
    assert (y.dtype, y.tolist()) == (np.float32, [1])


def test_a_mapping_names_the_inputs(session):
    assert session.step({"x": [1]}).tolist() == [1]


def test_an_array_that_is_not_contiguous_arrives_as_it_is(session):
    assert session.step(np.arange(6, dtype=np.float32).reshape(3, 2)[:, :1]).tolist() == [[0], [2], [6]]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros(1), ONE_OR_SEVERAL + "float64[1]"),
        (np.zeros(1, ">f4"), ONE_OR_SEVERAL + ">f4[1]"),
        (np.zeros(2, np.float32), SHAPES + "[2]"),
        (np.zeros((2, 3, 1), np.float32), SHAPES + "[2, 3, 1]"),
        (1.0, SHAPES + "[]"),
        ([], SHAPES + "[0]"),
        (["1"], ONE_OR_SEVERAL + "no numbers: list"),
        (None, ONE_OR_SEVERAL + "no numbers: NoneType"),
        ([[1], [2, 3]], ONE_OR_SEVERAL + "no such array"),
        ([1e300], ONE_OR_SEVERAL + "no such array: overflow"),
        (np.zeros((0, 1), np.float32), "inputs: expected the same T >= 1 steps of each, got [0]"),
        ({"z": [1]}, "inputs: expected ['x'], got ['z']"),
        ({}, "inputs: expected ['x'], got []"),
        ([float("nan")], "x: expected finite numbers, got nan"),
    ],
)
def test_a_wrong_input_is_refused_with_the_expected_and_the_actual(session, x, message):
    with pytest.raises(InvalidInput) as refused:
        session.step(x)
    assert refused.value.message.startswith(message)
    assert session.step([1]).tolist() == [1]


def test_a_session_knows_its_model_and_specs(session):
    assert (session.model, session.version, session.next_step) == ("running-sum", "1", 0)
    assert [str(spec) for spec in (*session.inputs, *session.outputs)] == ["float32[1]", "float32[1]"]


def test_several_sessions_of_one_client_have_memories_of_their_own(client):
    sessions = [client.session("running-sum") for _ in range(5)]
    for turn in range(3):
        for number, session in enumerate(sessions):
            assert session.step([number]).tolist() == [number * (turn + 1)]


def test_models_are_listed_with_what_a_caller_needs(client, session):
    (model,) = client.models()
    assert (model.name, model.version, model.ready, model.fault) == ("running-sum", "1", True, None)
    assert (model.inputs[0].name, str(model.inputs[0])) == ("x", "float32[1]")
    assert (model.state_bytes, model.roles, model.batch_independence.holds) == (4, ("memory",), True)
    assert model.sessions >= 1
    assert client.model("running-sum") == client.model("running-sum", "1") == model


def test_open_sessions_are_listed_by_id_and_by_model(connect):
    with test_server([RunningSum(), RunningSum(name="other")]) as server:
        client = connect(server.target)
        for session_id in ("b", "a", "c"):
            client.session("running-sum", session_id=session_id)
        client.session("other", session_id="aa")
        assert [info.session_id for info in client.sessions()] == ["a", "aa", "b", "c"]
        assert [info.session_id for info in client.sessions("other")] == ["aa"]


def test_more_sessions_than_a_page_are_listed_once_each(connect):
    ids = [f"{number:05}" for number in range(1001)]
    with test_server([RunningSum()]) as server:
        connect(server.target).group("running-sum").open(ids)
        assert [info.session_id for info in connect(server.target).sessions()] == ids


def test_where_a_session_stands_can_be_asked(session):
    session.step(np.ones((3, 1), np.float32))
    info = session.info()
    assert (info.session_id, info.model, info.next_step, info.oldest_step) == (session.id, "running-sum", 3, 0)
    assert (info.steps_in_flight, info.state_bytes) == (0, 4)
    assert 0 <= info.idle_for_s <= info.open_for_s


def test_an_error_of_the_server_comes_back_with_its_class_and_fields(session):
    session.next_step = 5
    with pytest.raises(StepAhead, match="expected step 0, got 5") as ahead:
        session.step([1])
    assert ahead.value.fields == {"expected_step": "0"}
    assert ahead.value.__cause__ is None, "the transport's error is no news"


def test_a_step_whose_reply_is_forgotten_is_told_with_the_oldest(connect):
    with test_server([RunningSum()], window_messages=1) as server:
        session = connect(server.target).session("running-sum")
        for _ in range(3):
            session.step([1])
        session.next_step = 0
        with pytest.raises(StepForgotten) as forgotten:
            session.step([1])
        assert forgotten.value.fields["oldest_step"] == "2"


def test_a_retried_step_is_answered_and_not_run_again(session):
    first = session.step([1])
    session.next_step = 0
    assert session.step([1]).tobytes() == first.tobytes()
    assert session.info().next_step == session.next_step == 1


def test_two_clients_that_step_one_session_learn_of_it(client, session):
    other = client.session("running-sum", session_id=session.id, resume=True)
    session.step([1])
    with pytest.raises(StepConflict, match="does another client step this session"):
        other.step([2])
    assert session.step([1]).tolist() == [2]


def test_a_step_with_an_infinite_result_is_refused_and_the_session_goes_on(session):
    session.step([3e38])
    with pytest.raises(NonFiniteState) as refused:
        session.step([3e38])
    assert refused.value.fields == {"expected_step": "1"}
    assert session.step([-3e38]).tolist() == [0]


def test_unknown_names_are_told_apart(client):
    with pytest.raises(ModelUnknown, match="model nope: expected one of running-sum/1"):
        client.session("nope")
    with pytest.raises(ModelUnknown):
        client.model("running-sum", "2")
    with pytest.raises(SessionUnknown, match="never seen"):
        client.session_info("nope")
    with pytest.raises(InvalidInput, match="session id"):
        client.session("running-sum", session_id="a b")


def test_a_limit_says_when_to_try_again(connect):
    with test_server([RunningSum()], sessions_max=1) as server:
        client = connect(server.target)
        client.session("running-sum")
        with pytest.raises(LimitReached, match="at most 1 open") as reached:
            client.session("running-sum")
        assert reached.value.retry_after_s == 1.0


def test_a_message_over_the_limit_is_refused_with_both_sizes(connect):
    with test_server([RunningSum()], message_bytes_max=1024) as server:
        session = connect(server.target).session("running-sum")
        with pytest.raises(TooLarge, match=r"larger than max \(\d+ vs. 1024\)") as refused:
            session.step(np.ones((1000, 1), np.float32))
        assert refused.value.fields["limit"] == "message_bytes_max"
        assert refused.value.fields["expected"] == "1024"
        assert int(refused.value.fields["actual"]) > 4000
        assert session.step([1]).tolist() == [1]


def test_an_open_session_is_taken_up_where_it_stands(client):
    mine = secrets.token_hex(4)
    first = client.session("running-sum", session_id=mine)
    first.step([[1], [2]])
    with pytest.raises(SessionExists):
        client.session("running-sum", session_id=mine)
    again = client.session("running-sum", session_id=mine, resume=True)
    assert again.next_step == 2
    assert again.step([4]).tolist() == [7]


def test_resuming_a_session_that_is_not_there_opens_it(client):
    assert client.session("running-sum", session_id=secrets.token_hex(4), resume=True).next_step == 0


def test_closing_twice_says_that_it_is_closed(client):
    session = client.session("running-sum")
    session.step([1])
    assert session.close().next_step == 1
    with pytest.raises(SessionClosed, match="was closed after 1 steps"):
        session.close()
    with pytest.raises(SessionClosed):
        session.step([1])


def test_a_block_closes_its_session(client):
    with client.session("running-sum") as session:
        pass
    with pytest.raises(SessionClosed):
        session.info()


def test_a_block_whose_session_was_closed_in_it_ends_well(client):
    with client.session("running-sum") as session:
        session.close()


def test_a_block_whose_session_was_closed_by_another_says_so(client):
    with pytest.raises(SessionClosed), client.session("running-sum") as session:
        client.close_session(session.id)


def test_a_block_that_fails_keeps_its_own_error(client):
    session = client.session("running-sum")
    client.close_session(session.id)
    with pytest.raises(KeyError, match="mine"), session:
        raise KeyError("mine")


def test_no_server_is_an_error_of_its_own(connect):
    with socket.socket() as taken:  # Bound and not listening: nobody answers there, and nobody else can.
        taken.bind(("127.0.0.1", 0))
        client = connect(f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(ServerUnreachable, match="UNAVAILABLE"):
            client.models()


def test_a_step_past_its_deadline_may_be_passed_again_and_is_run_once(connect):
    gate = Gate()
    with test_server([RunningSum(before_run=gate)]) as server:
        client = connect(server.target)
        session = client.session("running-sum")
        with pytest.raises(DeadlinePassed):
            session.step([1], timeout_s=0.1)
        with pytest.raises(DeadlinePassed):
            session.step([1], timeout_s=0.0)  # No time at all, and not the default.
        gate.open()
        assert session.step([1]).tolist() == [1]
        assert session.info().next_step == 1


def test_a_client_has_a_deadline_for_all_its_calls(connect):
    gate = Gate()
    with test_server([RunningSum(before_run=gate)]) as server:
        session = connect(server.target, timeout_s=0.1).session("running-sum")
        with pytest.raises(DeadlinePassed):
            session.step([1])
        gate.open()


def test_sessions_outlive_their_client(connect, server):
    kept = connect(server.target).session("running-sum")
    kept.step([1])
    assert connect(server.target).session("running-sum", session_id=kept.id, resume=True).step([1]).tolist() == [2]


@pytest.mark.parametrize("timeout_s", [-1, -0.5, float("nan"), float("inf"), "5"])
def test_a_time_that_is_none_is_refused(connect, server, client, timeout_s):
    told = re.escape(f"timeout_s: expected seconds, at least 0, or None for no limit, got {timeout_s!r}")
    with pytest.raises(InvalidInput, match=told):
        connect(server.target, timeout_s=timeout_s)
    with client.session("running-sum") as session:
        with pytest.raises(InvalidInput, match=told):
            session.step([1], timeout_s=timeout_s)
        assert session.step([1], timeout_s=np.float32(30)).tolist() == [1], "and nothing was sent before"
    with pytest.raises(InvalidInput, match=told):
        client.group("running-sum").step({"a": [1]}, timeout_s=timeout_s)


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros(2, np.float32), "x: expected shape [1] for one step or [T, 1] for several, got [2]"),
        ([1, 2], "x: expected shape [1] for one step or [T, 1] for several, got [2]"),
        (np.zeros(1), "x: expected float32[1] for one step or float32[T, 1] for several, got float64[1]; "
                      ".astype('float32') makes it that"),
        (np.zeros((2, 2)), "x: expected float32[1] for one step or float32[T, 1] for several, got float64[2, 2]"),
        ("abc", "x: expected float32[1] for one step or float32[T, 1] for several, got no numbers: str"),
        (None, "x: expected float32[1] for one step or float32[T, 1] for several, got no numbers: NoneType"),
    ],
)  # fmt: skip
def test_an_input_that_does_not_fit_is_told_what_is_wrong_of_it(session, x, says):
    with pytest.raises(InvalidInput) as refused:
        session.step(x)
    assert refused.value.message == says
