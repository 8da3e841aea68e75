"""What both groups promise: steps of many sessions at once, each with its own answer, and nothing made twice."""

import contextlib
import itertools
import random
import secrets
import threading

import numpy as np
import pytest
from serve.exposition import scrape, value

from ntm_serve.client import RetryPolicy
from ntm_serve.errors import (
    DeadlinePassed,
    EngineFault,
    InvalidInput,
    LimitReached,
    NonFiniteState,
    NtmServeError,
    ServerDraining,
    ServerUnreachable,
    SessionClosed,
    StepAborted,
    StepAhead,
    StepCancelled,
    TooLarge,
)
from ntm_serve.testing import Gate, RunningSum, test_server
from ntm_serve.testing.running_sum import FAILING_INPUT

ONE = np.ones(1, np.float32)
STREAM = {"grpc_service": "ntm_serve.v1.Sessions", "grpc_method": "Stream"}


@pytest.fixture
def group(client):
    """With keys of its own: the server is shared."""
    with client.group("running-sum", prefix=f"{secrets.token_hex(4)}-") as group:
        yield group


def plain(answers):
    """Answers without arrays."""
    return {
        key: type(answer).__name__ if isinstance(answer, Exception) else answer.tolist()
        for key, answer in answers.items()
    }


def rows(*values):
    return np.array(values, np.float32).reshape(-1, 1)


class Counted:
    """More rounds than any test takes, and how many of them were read."""

    def __init__(self, round_=None):
        self.read = 0
        self._round = round_ or {"a": ONE, "b": ONE}

    def __iter__(self):
        for _ in range(3000):
            self.read += 1
            yield self._round


def test_each_key_has_a_session_of_its_own(group):
    for turn in range(1, 4):
        answers = group.step({f"d{number}": [number] for number in range(300)})
        assert plain(answers) == {f"d{number}": [number * turn] for number in range(300)}
    assert len(group) == 300
    assert set(group.next_steps().values()) == {3}


def test_arrays_and_lists_and_several_steps_may_come_together(group):
    answers = group.step({"a": ONE, "b": [2], "c": [[1], [2], [3]], "d": rows(1), "e": {"x": [5]}})
    assert plain(answers) == {"a": [1], "b": [2], "c": [[1], [3], [6]], "d": [[1]], "e": [5]}
    assert (answers["a"].dtype, answers["a"].flags.writeable) == (np.float32, False)
    assert group.next_steps() == {"a": 1, "b": 1, "c": 3, "d": 1, "e": 1}


def test_a_round_of_nothing_gives_nothing(group):
    assert group.step({}) == {}
    assert list(group.stream([{}, {}])) == [{}, {}]
    assert group.step_rows([], rows()).steps.tolist() == []


def test_an_error_is_that_of_its_key_alone(group):
    answers = group.step(
        {
            "a": [1],
            "b c": [1],
            "é": [1],
            7: [1],
            "d": np.zeros(2, np.float32),
            "e": [FAILING_INPUT],
            "f": [float("nan")],
        }
    )
    assert plain(answers) == {
        "a": [1],
        "b c": "InvalidInput",
        "é": "InvalidInput",
        7: "InvalidInput",
        "d": "InvalidInput",
        "e": "EngineFault",
        "f": "InvalidInput",
    }
    assert "got [2]" in answers["d"].message
    assert "session id: expected" in answers["b c"].message
    assert plain(group.step({"a": [1], "d": [1], "e": [1], "f": [1]})) == {"a": [2], "d": [1], "e": [1], "f": [1]}


def test_steps_that_come_together_are_made_together_or_not_at_all(group):
    assert plain(group.step({"a": [[1], [FAILING_INPUT], [1]], "b": [[1], [1], [1]]})) == {
        "a": "EngineFault",
        "b": [[1], [2], [3]],
    }
    assert plain(group.step({"a": [5]})) == {"a": [5]}


def test_a_model_that_is_not_there_is_the_error_of_each_key(client):
    group = client.group("nope")
    assert plain(group.step({"a": [1]})) == {"a": "ModelUnknown"}
    answers = group.step_rows(["a", "a"], rows(1, 1))
    assert [type(error).__name__ for error in answers.errors.values()] == ["ModelUnknown"] * 2


def test_a_session_that_could_not_be_opened_is_tried_again(connect):
    with test_server([RunningSum()], sessions_max=1) as server:
        client = connect(server.target)
        client.session("running-sum", session_id="mine")
        group = client.group("running-sum")
        answers = group.step({"a": [1]})
        assert isinstance(answers["a"], LimitReached)
        client.close_session("mine")
        assert plain(group.step({"a": [1]})) == {"a": [1]}


def test_sessions_that_are_open_are_taken_up_where_they_stand(client):
    key = secrets.token_hex(4)
    session = client.session("running-sum", session_id=key)
    session.step([[1], [1]])
    group = client.group("running-sum")
    assert group.open([key, "a b"])[key] == 2
    assert isinstance(group.open(["a b"])["a b"], InvalidInput)
    assert plain(group.step({key: [5]})) == {key: [7]}


def test_rows_of_a_key_are_its_steps_in_their_order(group):
    keys = ["a", "b", "a", "a", "c", "a", "b"]
    answers = group.step_rows(keys, rows(1, 10, 2, 3, 100, 4, 20))
    assert answers.outputs["y"].ravel().tolist() == [1, 10, 3, 6, 100, 10, 30]
    assert answers.steps.tolist() == [0, 0, 1, 2, 0, 3, 1]
    assert (answers.keys, answers.errors) == (keys, {})


def test_a_row_that_fails_fails_alone(group):
    keys = ["a"] * 8 + ["b"]
    answers = group.step_rows(keys, rows(1, 1, FAILING_INPUT, 1, 1, 1, FAILING_INPUT, 1, 7))
    assert answers.outputs["y"].ravel().tolist() == [1, 2, 0, 3, 4, 5, 0, 6, 7]
    assert answers.steps.tolist() == [0, 1, -1, 2, 3, 4, -1, 5, 0]
    assert {row: type(error) for row, error in answers.errors.items()} == {2: EngineFault, 6: EngineFault}


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 1)), r"x: expected float32\[N, 1\], got float64\[2, 1\]"),
        (rows(1, 2, 3), "x: expected a row for each of 2 keys, got 3"),
        ({"z": rows(1, 2)}, r"inputs: expected \['x'\], got \['z'\]"),
    ],
)
def test_rows_that_do_not_fit_are_refused(group, x, message):
    with pytest.raises(InvalidInput, match=message):
        group.step_rows(["a", "b"], x)
    with pytest.raises(InvalidInput, match=message):
        list(group.stream_rows([(["a", "b"], x)]))
    assert plain(group.step({"a": [1]})) == {"a": [1]}


def test_messages_are_split_at_the_limits_that_the_server_tells(connect):
    with test_server([RunningSum()], sessions_per_message_max=5, steps_per_message_max=3) as server:
        group = connect(server.target).group("running-sum")
        for turn in (1, 2):
            answers = group.step({f"d{number}": [number] for number in range(23)})
            assert plain(answers) == {f"d{number}": [number * turn] for number in range(23)}
        made = group.step_rows(["a"] * 50 + ["b"] * 7, rows(*[1] * 57))
        assert made.outputs["y"].ravel().tolist() == [*range(1, 51), *range(1, 8)]
        streamed = list(group.stream([{f"d{number}": [1] for number in range(23)}] * 6))
        assert [plain(answers)["d0"] for answers in streamed] == [[n] for n in range(1, 7)]
        assert isinstance(group.step({"a": [[1]] * 4})["a"], TooLarge), "the caller's own message is not parted"


@pytest.mark.parametrize("in_flight_max", [1, 4, 16])
def test_rounds_are_answered_in_their_order(group, in_flight_max):
    rounds = [{"a": [number], "b": [-number]} for number in range(100)]
    answers = list(group.stream(rounds, in_flight_max=in_flight_max))
    assert [plain(one) for one in answers] == [{"a": [n * (n + 1) / 2], "b": [-n * (n + 1) / 2]} for n in range(100)]
    assert group.next_steps() == {"a": 100, "b": 100}


def expected_of(rounds, *, go_on):
    """What rows give, one step after another."""
    total, number, stopped, made = {}, {}, set(), []
    for keys, x in rounds:
        for key, one in zip(keys, x.ravel().tolist(), strict=True):
            if key in stopped:
                made.append(StepAborted)
            elif one == FAILING_INPUT:
                made.append(EngineFault)
                if not go_on:
                    stopped.add(key)
            else:
                total[key] = total.get(key, 0) + one
                made.append((number.get(key, 0), total[key]))
                number[key] = number.get(key, 0) + 1
    return made


@pytest.mark.parametrize("seed", range(8))
def test_what_a_session_sees_does_not_depend_on_how_its_steps_travel(group, seed):
    chance = random.Random(seed)
    go_on = bool(seed % 2)
    rounds = []
    for _ in range(12):
        keys = [chance.choice("aaaabbcde") for _ in range(chance.randrange(60))]
        x = [FAILING_INPUT if chance.random() < 0.02 else chance.randrange(9) for _ in keys]
        rounds.append((keys, rows(*x)))
    made = []
    for answers in group.stream_rows(rounds, in_flight_max=chance.choice([1, 4, 12]), go_on=go_on):
        steps, y = answers.steps.tolist(), answers.outputs["y"].ravel().tolist() if len(answers.keys) else []
        made += [
            type(answers.errors[row]) if row in answers.errors else (steps[row], y[row]) for row in range(len(steps))
        ]
    assert made == expected_of(rounds, go_on=go_on)


def test_a_failure_is_told_before_its_session_goes_on(connect):
    told, made = [], []
    with test_server([RunningSum()]) as server:
        group = connect(server.target).group("running-sum")
        client = connect(server.target)

        def note(number, row, error):
            told.append((number, row, type(error), client.session_info("a").next_step))

        rounds = [(["a", "b"], rows(1, 1)), (["b", "a"], rows(1, FAILING_INPUT)), (["a"], rows(1))]
        made = [answers.steps.tolist() for answers in group.stream_rows(rounds, on_failure=note)]
    assert told == [(1, 1, EngineFault, 1)]
    assert made == [[0, 0], [1, -1], [1]]


def test_rounds_are_not_read_further_ahead_than_asked(group):
    rounds = Counted()
    answers = group.stream(rounds, in_flight_max=3)
    for taken, _ in enumerate(itertools.islice(answers, 50), start=1):
        assert rounds.read <= taken + 3
    answers.close()


def test_a_loop_left_early_leaves_its_sessions_after_what_was_sent(client, group):
    rounds = Counted()
    for _ in group.stream(rounds, in_flight_max=8):
        while rounds.read < 8:
            pass
        break
    answers = group.step({"a": ONE})
    assert answers["a"].tolist() == [group.next_steps()["a"]]
    assert 2 <= group.next_steps()["a"] <= rounds.read + 1


def test_a_step_ends_a_stream_that_was_left(group):
    answers = group.stream(Counted())
    next(answers)
    group.step({"a": ONE})
    with pytest.raises(StepCancelled, match="a later call ended this stream"):
        next(answers)


def test_a_fault_of_the_rounds_reaches_the_caller_after_the_answers_before_it(group):
    def rounds():
        yield {"a": [1]}
        yield {"a": [1]}
        raise KeyError("mine")

    taken = []
    with pytest.raises(KeyError, match="mine"):
        taken.extend(map(plain, group.stream(rounds())))
    assert taken == [{"a": [1]}, {"a": [2]}]
    assert plain(group.step({"a": [1]})) == {"a": [3]}


def test_a_bound_that_would_wait_for_ever_is_refused(group):
    with pytest.raises(InvalidInput, match="in_flight_max: expected at least 1, got 0"):
        list(group.stream([], in_flight_max=0))


def test_many_rounds_go_in_few_messages(server, group):
    group.step({key: [0] for key in "abcdefgh"})
    before = value(scrape(server), "grpc_server_msg_received_total", **STREAM)
    keys = [key for key in "abcdefgh" for _ in range(5)]
    list(group.stream_rows([(keys, rows(*[1] * 40))] * 10))
    assert value(scrape(server), "grpc_server_msg_received_total", **STREAM) - before == 20, "of four steps, and of one"


def test_a_step_that_was_not_answered_in_time_is_run_once_when_it_comes_again(connect):
    gate = Gate()
    with test_server([RunningSum(before_run=gate)]) as server:
        client = connect(server.target)
        group = client.group("running-sum")
        group.open(["a", "b"])
        answers = group.step({"a": [1], "b": [2]}, timeout_s=0.2)
        assert {type(answer) for answer in answers.values()} == {DeadlinePassed}
        gate.open()
        assert plain(group.step({"a": [1], "b": [2]})) == {"a": [1], "b": [2]}
        assert group.next_steps() == {"a": 1, "b": 1}
        assert client.session_info("a").next_step == 1


def test_nobody_answering_is_the_error_of_each_key(connect):
    with test_server([RunningSum()]) as server:
        group = connect(server.target, retry=None).group("running-sum")
        group.step({"a": [1]})
    answers = group.step({"a": [1], "b": [1]})
    assert {type(answer) for answer in answers.values()} <= {ServerUnreachable, ServerDraining}
    assert group.next_steps() == {"a": 1}


@pytest.mark.parametrize("retry", [None, RetryPolicy(patience_s=0.5)], ids=["no policy", "some patience"])
def test_when_the_connection_breaks_for_good_what_was_answered_comes_first(connect, retry):
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(test_server([RunningSum()]))
        group = connect(server.target, retry=retry).group("running-sum")
        answers = group.stream(Counted(), in_flight_max=16)
        taken = [next(answers) for _ in range(5)]
        stack.close()
        with pytest.raises((ServerDraining, ServerUnreachable)) as broken:
            taken.extend(answers)
    good = list(itertools.takewhile(lambda one: not isinstance(one["a"], NtmServeError), taken))
    assert [one["a"].tolist() for one in good] == [[n] for n in range(1, len(good) + 1)]
    assert all(isinstance(one["a"], type(broken.value)) for one in taken[len(good) :])
    assert group.next_steps()["a"] == len(good)


def test_outputs_that_were_lost_are_answered_again(client):
    key = secrets.token_hex(4)
    first = client.group("running-sum")
    lost = [first.step({key: [number]})[key] for number in range(1, 5)]
    again = client.group("running-sum", next_steps={key: 1})
    assert again.open([key]) == {key: 1}
    answers = again.step_rows([key] * 4, rows(2, 3, 4, 5))
    assert answers.outputs["y"][:3].tobytes() == np.stack(lost[1:]).tobytes()
    assert answers.steps.tolist() == [1, 2, 3, 4]
    assert client.session_info(key).next_step == 5


def test_a_session_that_stands_lower_than_it_should_is_refused(client):
    key = secrets.token_hex(4)
    group = client.group("running-sum", next_steps={key: 5})
    answer = group.step({key: [1]})[key]
    assert isinstance(answer, StepAhead)
    assert "expected it to stand at step 5 or later, got 0" in answer.message


def test_a_session_that_was_closed_is_told_until_it_is_forgotten(client, group):
    group.step({"a": [1], "b": [1]})
    session_id = next(info.session_id for info in client.sessions() if info.session_id.endswith("-a"))
    client.close_session(session_id)
    for _ in range(2):
        answers = group.step({"a": [1], "b": [1]})
        assert isinstance(answers["a"], SessionClosed)
    group.forget(["a"])
    assert plain(group.step({"a": [1], "b": [1]})) == {"a": [1], "b": [4]}


def test_the_block_closes_its_sessions_and_nothing_else_does(client):
    prefix = f"{secrets.token_hex(4)}-"
    group = client.group("running-sum", prefix=prefix)
    group.step({"a": [1], "b": [1]})
    with client.group("running-sum", prefix=prefix) as other:
        assert plain(other.step({"a": [1]})) == {"a": [2]}
    with pytest.raises(SessionClosed):
        client.session_info(f"{prefix}a")
    assert client.session_info(f"{prefix}b").next_step == 1
    ended = group.close()
    assert isinstance(ended["a"], SessionClosed)
    assert (ended["b"].next_step, len(group)) == (1, 0)


def test_a_step_that_would_leave_the_finite_numbers_is_refused_and_the_next_is_made(group):
    answers = group.step_rows(["a"] * 4, rows(3e38, 3e38, -3e38, 1))
    assert [type(error) for error in answers.errors.values()] == [NonFiniteState]
    assert answers.steps.tolist() == [0, -1, 1, 2]


def test_a_session_that_still_makes_the_steps_of_another_connection_is_waited_for(connect, monkeypatch):
    gate, asked, taken_up = Gate(), threading.Event(), {}
    with test_server([RunningSum(before_run=gate)]) as server:
        service = server.running.service
        get_session = service.get_session
        monkeypatch.setattr(service, "get_session", lambda session_id: (asked.set(), get_session(session_id))[1])
        session = connect(server.target).session("running-sum", session_id="a")
        group = connect(server.target).group("running-sum")
        stepping = threading.Thread(target=session.step, args=([1],))
        stepping.start()
        gate.await_run()
        opening = threading.Thread(target=lambda: taken_up.update(group.open(["a"])))
        opening.start()
        assert asked.wait(30), "the group has opened the session, and asks whether it is done"
        gate.open()
        opening.join()
        stepping.join()
        assert taken_up == {"a": 1}
