"""What callers of both groups see when connections break and servers go: each key's outputs once and in order, bit for
bit; or an error of that key alone. Through a proxy that breaks real connections to a real server with a store.
"""

import contextlib
import threading

import numpy as np
import pytest

from benchmarks.chaos.proxy import Chaos, ChaosProxy
from ntm_serve.client import Client, RetryPolicy
from ntm_serve.errors import DeadlinePassed, NtmServeError, ServerUnreachable, SessionLost, StepCancelled
from ntm_serve.testing import RunningSum, test_server

QUICK = RetryPolicy(first_backoff_s=0.02, backoff_max_s=0.3, silence_max_s=1.0)
SLOW = RetryPolicy(first_backoff_s=60.0, backoff_max_s=60.0)
KEYS = [f"d{number}" for number in range(8)]
ROUNDS = 60
# Of connections, cut within the first replies.
A_FIFTH = Chaos(cut=0.2, after_bytes=(300, 6000))


def rounds_of(seed, rounds=ROUNDS):
    """Rows of all keys, whose sums depend on their order, in the last bits; a key stands up to three times."""
    chance = np.random.default_rng(seed)
    for _ in range(rounds):
        keys = [key for key in KEYS for _ in range(chance.integers(4))]
        yield keys, chance.standard_normal((len(keys), 1)).astype(np.float32)


def undisturbed(seed, rounds=ROUNDS):
    """What the rounds give where nothing breaks, and the number of each step."""
    with test_server([RunningSum()]) as server, Client(server.target) as client:
        group = client.group("running-sum")
        return [seen(group.step_rows(keys, x)) for keys, x in rounds_of(seed, rounds)]


def seen(answers):
    assert not answers.errors
    return answers.steps.tolist(), answers.outputs["y"].tobytes() if len(answers.keys) else b""


class Restarted:
    """A server with a store, that is stopped and started again where it was."""

    def __init__(self, where, stack):
        self._settings = {"store": f"sqlite:{where}/s.db"}
        self._stack = stack
        self._start()

    def _start(self):
        self._server = contextlib.ExitStack()
        self.running = self._server.enter_context(test_server([RunningSum()], **self._settings))
        self._settings["port"] = self.running.running.port
        self._stack.callback(self._server.close)

    def stop(self):
        self._server.close()

    def restart(self):
        self.stop()
        self._start()

    @property
    def target(self):
        return self.running.target


@pytest.fixture
def kept(tmp_path):
    with contextlib.ExitStack() as stack:
        yield Restarted(tmp_path, stack)


@pytest.fixture
def proxy(kept):
    with ChaosProxy(kept.target) as proxy:
        yield proxy


def disturb(proxy, number, chaos=A_FIFTH):
    """Connections are long, so each round may have new ones."""
    proxy.chaos = chaos
    if number % 3 == 0:
        proxy.cut_all()


def test_rounds_are_answered_once_and_in_order_whatever_breaks(connect, proxy):
    group = connect(proxy.target, retry=QUICK).group("running-sum")
    made = []
    for number, (keys, x) in enumerate(rounds_of(1)):
        disturb(proxy, number, Chaos(cut=0.6, cut_at_once=0.1, after_bytes=(0, 2500)))
        made.append(seen(group.step_rows(keys, x)))
    assert proxy.counts["cut"] >= 5
    assert made == undisturbed(1)


def test_steps_by_key_outlive_the_server(connect, kept):
    group = connect(kept.target, retry=QUICK).group("running-sum")
    xs = [np.random.default_rng(number).standard_normal((len(KEYS), 1)).astype(np.float32) for number in range(12)]
    made = []
    for number, x in enumerate(xs):
        if number == 6:
            kept.stop()
            starting = threading.Timer(0.5, kept._start)
            starting.start()
        made.append(group.step(dict(zip(KEYS, x, strict=True))))
    starting.join()
    sums = np.cumsum(np.stack(xs), axis=0, dtype=np.float32)
    assert [[answers[key].item() for key in KEYS] for answers in made] == sums[..., 0].tolist()
    assert set(group.next_steps().values()) == {12}


def test_a_black_hole_costs_a_round_no_more_than_its_time(connect, proxy):
    group = connect(proxy.target, retry=RetryPolicy()).group("running-sum")
    group.step({"a": [1], "b": [1]})
    proxy.chaos = Chaos(black_hole=1.0, after_bytes=(200, 200))
    proxy.cut_all()
    answers = {}
    while not any(isinstance(answer, NtmServeError) for answer in answers.values()):
        answers = group.step({"a": [0], "b": [0]}, timeout_s=0.5)
    assert {type(answer) for answer in answers.values()} == {DeadlinePassed}
    proxy.chaos = Chaos()
    proxy.cut_all()
    again = group.step({"a": [0], "b": [0]})
    assert {key: answer.item() for key, answer in again.items()} == {"a": 1, "b": 1}, "they may be passed again"


def test_without_a_policy_each_key_has_the_error_at_once(connect, proxy):
    group = connect(proxy.target, retry=None).group("running-sum")
    group.step({"a": [1]})
    proxy.refuse(30)
    answers = group.step({"a": [1], "b": [1]})
    assert {type(answer) for answer in answers.values()} == {ServerUnreachable}
    assert not any("tried" in answer.message for answer in answers.values())


def test_patience_ends_with_the_error_of_each_key_and_what_was_tried(connect, proxy):
    policy = RetryPolicy(patience_s=0.5, first_backoff_s=0.02)
    group = connect(proxy.target, retry=policy).group("running-sum")
    group.step({"a": [1]})
    proxy.refuse(30)
    answers = group.step({"a": [1]})
    assert isinstance(answers["a"], ServerUnreachable)
    assert "without a new reply" in answers["a"].message


def test_a_session_that_went_with_its_server_is_the_error_of_its_key(connect, kept):
    client = connect(kept.target, retry=QUICK)
    client.session("running-sum", session_id="a", durability="memory")
    group = client.group("running-sum")
    group.step({"a": [1], "b": [1]})
    kept.restart()
    answers = group.step({"a": [1], "b": [1]})
    assert isinstance(answers["a"], SessionLost)
    assert answers["a"].fields == {"answered_step": "1"}
    assert answers["b"].item() == 2
    group.forget(["a"])
    assert group.step({"a": [1]})["a"].item() == 1


def test_sessions_are_closed_through_whatever_breaks(connect, proxy, kept):
    proxy.chaos = Chaos(cut=0.7, after_bytes=(0, 1500))
    for _ in range(6):
        group = connect(proxy.target, retry=QUICK).group("running-sum")
        group.open(KEYS)
        proxy.cut_all()
        assert not any(isinstance(end, NtmServeError) for end in group.close().values())
    assert proxy.counts["cut"] >= 1
    assert list(connect(kept.target).sessions()) == []


def test_of_several_addresses_one_that_answers_is_found(connect, kept):
    with ChaosProxy(kept.target) as one, ChaosProxy(kept.target) as other:
        group = connect(f"{one.target},{other.target}", retry=QUICK).group("running-sum")
        for number in range(1, 4):
            assert group.step({"a": [1]})["a"].item() == number
            one.refuse(30)
        assert other.counts["connections"] == 1


def test_closing_the_client_ends_what_waits_to_try_again(proxy):
    client = Client(proxy.target, retry=SLOW)
    group = client.group("running-sum")
    group.step({"a": [1]})
    proxy.refuse(30)
    closing = threading.Timer(0.3, client.close)
    closing.start()
    with pytest.raises(StepCancelled):
        group.step({"a": [1]})
    closing.join()
