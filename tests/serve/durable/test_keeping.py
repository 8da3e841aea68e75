"""Keeping: what a message adds to the store, and what it lets go; and that what is known here is what the store has."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntm_serve.durability import Durability
from ntm_serve.keeping import RECORD_OVERHEAD_BYTES, Kept, Retention
from ntm_serve.record import Committed, read_record
from ntm_serve.snapshot import decoded
from ntm_serve.state import StateBlock
from ntm_serve.store import Head
from ntm_serve.stores.memory import MemoryStore
from ntm_serve.testing import RunningSum

from .replicas import CompanySum

NEVER = Retention(snapshot_steps=10**9, log_bytes_min=10**9)


class Line:
    """A session in a store, and what is known of it."""

    def __init__(self, model=None, *, width=1, retention=NEVER, window_steps=0):
        self.model = model or RunningSum(width=width)
        self.width = width
        self.retention = retention
        self.window_steps = window_steps
        self.store = MemoryStore()
        card = self.model.card
        head = Head(card.name, card.version, card.digest, "process", 0.0)
        self.kept = Kept(self.store.create("s", head, owner="a", now_s=0.0), Durability.PROCESS, [0], 0)
        self.next_step = 0

    def add(self, steps):
        """A message; what of it is committed."""
        x = np.ones((steps, self.width), np.float32)
        message = Committed(self.next_step, (x,), (x,))
        self.next_step += steps
        state = StateBlock.of_one((np.full(self.width, self.next_step, np.float32),))
        window_step = max(0, message.first_step - self.window_steps)
        commit = self.kept.commit_of(
            message, state, self.model, self.retention, window_step=window_step, used_at_s=float(self.next_step)
        )
        assert self.store.commit([commit]) == [None]
        self.kept.advance(commit)
        return commit

    def restart(self, step):
        claim, model = self.kept.claim, self.model
        start = self.kept.snapshot_of(step, (np.full(self.width, step, np.float32),), model)
        self.store.restart(claim, start, used_at_s=0.0)
        self.kept = Kept(claim, Durability.PROCESS, [step], 0)
        self.next_step = step

    def stored_steps(self):
        """Of the states that the store has, and how many bytes of log follow the newest."""
        stored = self.store.read("s")
        steps = [one.step for one in stored.snapshots]
        if self.store._open["s"].oldest_step == 0 and 0 not in steps:
            steps = [0, *steps]
        log = sum(len(one.payload) + RECORD_OVERHEAD_BYTES for one in stored.records if one.end_step > steps[-1])
        return steps, log


def test_a_message_adds_its_record():
    line = Line()
    commit = line.add(3)
    (record,) = commit.records
    assert read_record("s", record, line.model.spec).inputs[0].tolist() == [[1]] * 3
    assert (commit.snapshot, commit.keep_from_step, commit.used_at_s) == (None, None, 3.0)


def test_a_snapshot_is_due_before_more_steps_run_again_than_may():
    line = Line(retention=Retention(snapshot_steps=4, log_bytes_min=10**9))
    snapshots = [line.add(1).snapshot for _ in range(9)]
    assert [number + 1 for number, one in enumerate(snapshots) if one is not None] == [4, 8]
    assert decoded(snapshots[3].payload).state[0].tolist() == [4]
    assert line.add(7).snapshot.step == 16


def test_a_snapshot_is_due_when_the_log_outweighs_its_share_of_the_state():
    line = Line(width=1000, retention=Retention(snapshot_steps=10**9, log_share=2.5, log_bytes_min=0))
    one_bytes = len(line.add(1).records[0].payload) + RECORD_OVERHEAD_BYTES
    due = [line.add(1).snapshot is not None for _ in range(8)]
    assert 2 * one_bytes <= 2.5 * 4000 < 3 * one_bytes
    assert due == [False, True, False, False, True, False, False, True]


def test_a_log_of_few_bytes_is_no_reason_for_a_snapshot():
    line = Line(retention=Retention(snapshot_steps=10**9, log_share=0.0, log_bytes_min=4096))
    due = next(number for number in range(1000) if line.add(1).snapshot is not None)
    one_bytes = line.kept.snapshot_of(0, (np.zeros(1, np.float32),), line.model) and 10 + 4 + RECORD_OVERHEAD_BYTES
    assert due == 4096 // one_bytes


def test_without_the_same_bits_in_any_company_every_commit_has_outputs_and_state():
    line = Line(CompanySum())
    for number in range(1, 4):
        commit = line.add(1)
        assert commit.snapshot.step == number
        assert read_record("s", commit.records[0], line.model.spec).outputs[0].tolist() == [[1]]
    assert line.kept.log_bytes == 0


@pytest.mark.parametrize(("window", "retain"), [(0, 0), (5, 0), (0, 7), (3, 9)])
def test_no_more_is_let_go_than_window_and_retention_allow(window, retain):
    retention = Retention(snapshot_steps=2, log_bytes_min=10**9, retain_steps=retain)
    line = Line(retention=retention, window_steps=window)
    for _ in range(30):
        before = line.next_step
        line.add(1)
        oldest = line.kept.oldest_step
        assert oldest <= max(0, before - window)
        assert oldest <= max(0, line.next_step - retain)
    # And not much less: a snapshot's distance.
    assert oldest >= 30 - max(window + 1, retain) - 2 * 2


@given(st.data())
@settings(deadline=None, max_examples=150)
def test_what_is_known_of_a_session_is_what_the_store_has(data):
    retention = Retention(
        snapshot_steps=data.draw(st.integers(1, 6)),
        log_bytes_min=data.draw(st.sampled_from([0, 200, 10**9])),
        log_share=data.draw(st.sampled_from([0.0, 40.0, 10**9])),
        retain_steps=data.draw(st.integers(0, 12)),
    )
    model = data.draw(st.sampled_from([RunningSum, CompanySum]))()
    line = Line(model, retention=retention, window_steps=data.draw(st.integers(0, 8)))
    for action in data.draw(st.lists(st.sampled_from(["add"] * 8 + ["restart"]), min_size=1, max_size=40)):
        if action == "add":
            line.add(data.draw(st.integers(1, 4)))
        else:
            line.restart(data.draw(st.integers(line.kept.oldest_step, line.next_step)))
        steps, log_bytes = line.stored_steps()
        assert line.kept.snapshot_steps == steps
        assert line.kept.oldest_step == steps[0]
        assert line.kept.log_bytes == log_bytes
        assert line.next_step - steps[-1] <= retention.snapshot_steps
