"""Who runs with whom: pure decisions."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from serve.tickets import admit

from ntm_serve.batcher import Batcher
from ntm_serve.errors import SessionClosed
from ntm_serve.sessions import Limits, Sessions
from ntm_serve.state import StateBlock, StateRow
from ntm_serve.step_model import ModelKey
from ntm_serve.testing import RunningSum

MODEL = RunningSum()
INITIAL = StateBlock.of_one(MODEL.initial_state)
KEY = ModelKey("running-sum", "1")


class Line:
    """Sessions with steps waiting, and a batcher."""

    def __init__(self, batch_max):
        self.batcher = Batcher(batch_max)
        self.sessions = Sessions(Limits())

    def add(self, name, steps):
        session = self.sessions.open(KEY, INITIAL, session_id=name, now_s=0.0)
        self.more(session, steps)
        return session

    def more(self, session, steps):
        inputs = (np.zeros((steps, 1), np.float32),)
        ticket = admit(session, inputs).ticket
        self.batcher.add(session)
        return ticket

    def tick(self):
        """One batch, as if run: the names of its sessions."""
        batch = self.batcher.take()
        for ticket in batch:
            if ticket.settled:
                continue
            after = StateRow(StateBlock([np.zeros((1, 1), np.float32)], 1), 0)
            ticket.take([np.zeros((1, 1, 1), np.float32)], after, 0)
            if ticket.steps_done == ticket.steps:
                ticket.session.commit(ticket, Limits(), 0.0)
                ticket.settle()
        self.batcher.give_back(batch)
        return [ticket.session.id for ticket in batch]


def test_nobody_waiting_is_an_empty_batch():
    assert Batcher(4).take() == []


def test_a_batch_takes_one_step_of_each_session_that_waits():
    line = Line(batch_max=4)
    for name in "abc":
        line.add(name, 1)
    assert line.tick() == ["a", "b", "c"]
    assert line.tick() == []


def test_a_session_with_many_steps_rides_beside_newcomers():
    line = Line(batch_max=4)
    line.add("long", 3)
    assert line.tick() == ["long"]
    line.add("new", 1)
    assert sorted(line.tick()) == ["long", "new"]
    assert line.tick() == ["long"]
    assert line.tick() == []


def test_a_session_with_two_messages_has_one_step_in_a_batch():
    line = Line(batch_max=4)
    session = line.add("a", 1)
    line.more(session, 1)
    assert line.tick() == ["a"]
    assert line.tick() == ["a"]
    assert line.tick() == []


def test_a_message_that_arrives_while_its_session_is_in_a_batch_waits_for_the_next():
    line = Line(batch_max=4)
    session = line.add("a", 1)
    batch = line.batcher.take()
    line.more(session, 1)
    assert line.batcher.take() == []
    line.batcher.give_back(batch)
    assert [ticket.session for ticket in line.batcher.take()] == [session]


def test_a_session_that_ended_while_it_waited_is_left_out():
    line = Line(batch_max=4)
    line.add("a", 1)
    line.add("b", 1)
    line.sessions.end(line.sessions.find("a"), SessionClosed("closed"))
    assert line.tick() == ["b"]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 8))
def test_every_step_runs_and_nobody_waits_longer_than_the_line(lengths, batch_max):
    line = Line(batch_max)
    for number, steps in enumerate(lengths):
        line.add(f"s{number}", steps)
    made = {f"s{number}": 0 for number in range(len(lengths))}
    last_seen = dict.fromkeys(made, -1)
    longest_wait = -(-len(lengths) // batch_max)
    tick = 0
    while batch := line.tick():
        assert len(batch) == len(set(batch)) <= batch_max
        for name in batch:
            assert tick - last_seen[name] <= longest_wait
            last_seen[name], made[name] = tick, made[name] + 1
        tick += 1
    assert list(made.values()) == lengths
