"""What a group makes of replies that a test chooses: an order that servers rarely take, and connections that break."""

import numpy as np
import pytest

from ntm_serve.client.roster import Roster
from ntm_serve.client.rounds import ByRow
from ntm_serve.errors import InvalidInput, ServerUnreachable
from ntm_serve.spec import TensorSpec
from ntm_serve.v1 import sessions_pb2
from ntm_serve.wire import tensor_of, wire_spec

X = TensorSpec("x", "float32", (1,))


@pytest.fixture
def roster():
    roster = Roster(next_steps={})
    for key in "ab":
        opened = sessions_pb2.OpenResponse(
            session=sessions_pb2.Session(session_id=key), inputs=[wire_spec(X)], outputs=[wire_spec(X)]
        )
        roster.add(key, opened, 0)
    roster.begin()
    return roster


def sent(roster, keys):
    """A round of these keys, and its messages."""
    form = ByRow(keys, np.arange(len(keys), dtype=np.float32).reshape(-1, 1))
    made = form.round(roster.inputs, roster.outputs, {})
    return form, made, [message for wave in roster.send(made) for message in wave]


def reply(message):
    """As if each step gave its input."""
    (x,) = message.inputs
    values = np.frombuffer(x.data, np.float32).reshape(tuple(x.shape))
    return sessions_pb2.StepResponse(tag=message.tag, session_ids=message.session_ids, outputs=[tensor_of("x", values)])


def test_a_reply_that_comes_early_counts_once_those_before_it_came(roster):
    form, made, (first, second) = sent(roster, ["a", "b", "a", "b", "a"])
    assert [list(message.session_ids) for message in (first, second)] == [["a", "b"], ["a"]]
    roster.take(reply(second))
    assert (roster.next_steps()["a"], made.unanswered) == (0, 4)
    roster.take(reply(first))
    assert (roster.next_steps(), made.unanswered) == ({"a": 3, "b": 2}, 0)
    assert form.answers(made).steps.tolist() == [0, 0, 1, 1, 2]


def test_what_came_early_is_no_answer_where_the_connection_breaks_before_the_rest(roster):
    form, made, (_, second) = sent(roster, ["a", "b", "a", "b", "a"])
    roster.take(reply(second))
    roster.break_off(ServerUnreachable("gone"))
    answers = form.answers(made)
    assert (sorted(answers.errors), answers.steps.tolist()) == ([0, 1, 2, 3, 4], [-1] * 5)
    assert roster.next_steps() == {"a": 0, "b": 0}
    # Passed again they have the numbers that they had.
    _, _, messages = sent(roster, ["a", "b", "a", "b", "a"])
    assert [list(message.first_steps) for message in messages] == [[0, 0], [2]]


def test_sessions_of_other_models_do_not_join(roster):
    other = sessions_pb2.OpenResponse(
        session=sessions_pb2.Session(session_id="c", version="2"),
        inputs=[wire_spec(TensorSpec("x", "float32", (2,)))],
        outputs=[wire_spec(X)],
    )
    with pytest.raises(InvalidInput, match=r"inputs x float32\[1\] and .* got version 2 with x float32\[2\]"):
        roster.add("c", other, 0)
    assert "c" not in roster
