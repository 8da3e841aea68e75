"""Sessions that begin with a state of their caller's, as a client opens them; each through both clients."""

import numpy as np
import pytest

from ntm_serve.client import Client
from ntm_serve.errors import InvalidInput, SessionDiffers, TooLarge
from ntm_serve.testing import Doubling, RunningSum, test_server


@pytest.fixture(scope="module")
def server():
    with test_server([RunningSum(width=2), Doubling()]) as running:
        yield running


HUNDRED = {"total": np.array([100, 200], np.float32)}


def test_a_session_begins_with_the_state_that_it_is_given(client):
    with client.session("running-sum", initial_state=HUNDRED) as session:
        assert session.state()["total"].tolist() == [100, 200]
        assert session.step(np.ones(2, np.float32)).tolist() == [101, 201]
        info = session.info()
        assert len(info.initial_state_digest) == 64
        with client.session("running-sum", initial_state=HUNDRED) as other, client.session("running-sum") as own:
            assert other.info().initial_state_digest == info.initial_state_digest
            assert own.info().initial_state_digest == ""
            assert own.step(np.ones(2, np.float32)).tolist() == [1, 1]


def test_a_session_that_began_otherwise_is_not_resumed(client):
    with client.session("running-sum", session_id="s", initial_state=HUNDRED) as session:
        session.step(np.ones(2, np.float32))
        for same in (HUNDRED, {}, None):
            assert client.session("running-sum", session_id="s", resume=True, initial_state=same).next_step == 1
        other = {"total": np.array([100, 201], np.float32)}
        with pytest.raises(SessionDiffers, match="session s: cannot be resumed with this initial_state"):
            client.session("running-sum", session_id="s", resume=True, initial_state=other)
        assert session.step(np.ones(2, np.float32)).tolist() == [102, 202]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"total": [1.0, 2.0]}, r"total: expected float32\[2\], got float64\[2\]"),
        ({"total": np.ones(2, np.int32)}, r"total: expected float32\[2\], got int32\[2\]"),
        ({"total": np.float32([1, np.nan])}, r"total: expected finite numbers, got nan at \[1\]"),
        ({"other": np.ones(2, np.float32)}, r"initial_state: expected some of \['total'\]"),
        ({"total": np.array(["a", "b"])}, "total: expected a dtype of"),
        ({"total": [[1.0], [1.0, 2.0]]}, "initial_state: expected arrays by name"),
        ([np.ones(2, np.float32)], "initial_state: expected arrays by name"),
        (np.ones(2, np.float32), "initial_state: expected arrays by name"),
    ],
)
def test_what_is_no_state_of_the_model_is_refused(client, given, told):
    with pytest.raises(InvalidInput, match=told):
        client.session("running-sum", initial_state=given)
    assert list(client.sessions()) == []


def test_a_version_may_be_a_number(client):
    with client.session("running-sum", version=1) as session:
        assert session.version == "1"


def test_a_model_without_state_begins_with_none(client):
    with pytest.raises(InvalidInput, match=r"initial_state: expected some of \[\], .* got \['total'\]"):
        client.session("doubling", initial_state=HUNDRED)


def test_an_array_that_lies_in_another_order_is_taken_by_its_values(client):
    backwards = np.array([200, 100], np.float32)[::-1]
    with client.session("running-sum", initial_state={"total": backwards}) as session:
        assert session.state()["total"].tolist() == [100, 200]


def test_the_sessions_of_a_group_begin_alike_or_as_a_function_of_the_key_says(client):
    one = np.ones(2, np.float32)
    with client.group("running-sum", prefix="all-", initial_state=HUNDRED) as group:
        made = group.step({"a": one, "b": one})
        assert [y.tolist() for y in made.values()] == [[101, 201]] * 2
    with client.group(
        "running-sum", prefix="own-", initial_state=lambda key: {"total": np.full(2, int(key), np.float32)}
    ) as group:
        keys = [str(number) for number in range(150)]
        made = group.step(dict.fromkeys(keys, one))
        assert [made[key].tolist() for key in keys] == [[int(key) + 1] * 2 for key in keys]


def test_a_key_whose_state_does_not_fit_has_the_error_and_the_others_go_on(client):
    one = np.ones(2, np.float32)
    states = {
        "good": HUNDRED,
        "wide": {"total": np.ones(3, np.float32)},
        "word": {"total": np.array(["x"])},
        "own": None,
    }
    with client.group("running-sum", prefix="some-", initial_state=states.get) as group:
        made = group.step(dict.fromkeys(states, one))
        assert made["good"].tolist() == [101, 201]
        assert made["own"].tolist() == [1, 1]
        assert isinstance(made["wide"], InvalidInput)
        assert isinstance(made["word"], InvalidInput)
        assert len(group) == 2


def test_a_group_takes_up_what_it_began_and_refuses_what_began_otherwise(client):
    one = np.ones(2, np.float32)
    group = client.group("running-sum", prefix="again-", initial_state=HUNDRED)
    group.step({"a": one})
    other = client.group("running-sum", prefix="again-", initial_state={"total": one})
    made = other.step({"a": one, "b": one})
    assert isinstance(made["a"], SessionDiffers)
    assert made["b"].tolist() == [2, 2]
    with client.group("running-sum", prefix="again-", initial_state=HUNDRED) as group:
        assert group.step({"a": one})["a"].tolist() == [102, 202]
    other.close()


@pytest.mark.parametrize(
    ("limit", "told"),
    [
        ("message_bytes_max", "larger than max .200069 vs. 100000."),
        ("tenant_message_bytes_max", "message: expected at most 100000 bytes, got 200069"),
    ],
)
def test_a_state_that_is_larger_than_a_message_may_be_is_refused_with_the_limit(connect, limit, told):
    with test_server([RunningSum(width=50_000)], **{limit: 100_000}) as server:
        client = connect(server.target)
        with pytest.raises(TooLarge, match=told) as refused:
            client.session("running-sum", initial_state={"total": np.zeros(50_000, np.float32)})
        assert refused.value.fields == {"limit": limit, "expected": "100000", "actual": "200069"}
        assert list(client.sessions()) == []


def test_states_count_as_any_others_do():
    with test_server([RunningSum(width=1000)], resident_bytes_max=10_000) as server, Client(server.target) as client:
        for number in range(10):
            total = np.full(1000, number, np.float32)
            assert client.session("running-sum", initial_state={"total": total}).info().state_bytes == 4000
        assert len(list(client.sessions())) <= 2
