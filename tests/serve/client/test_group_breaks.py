"""What callers of both groups see when connections break and servers go: each key's outputs once and in order, bit for
bit; or an error of that key alone. Through a proxy that breaks real connections to a real server with a store.
"""

import asyncio
import contextlib
import itertools
import secrets
import threading

import numpy as np
import pytest

from benchmarks.chaos.proxy import Chaos, ChaosProxy
from ntm_serve.client import AsyncClient, Client, RetryPolicy
from ntm_serve.errors import (
    DeadlinePassed,
    NtmServeError,
    ServerDraining,
    ServerUnreachable,
    SessionLost,
    StepCancelled,
    StoreUnavailable,
)
from ntm_serve.testing import RunningSum, test_server

QUICK = RetryPolicy(first_backoff_s=0.02, backoff_max_s=0.3, silence_max_s=1.0)
SLOW = RetryPolicy(first_backoff_s=60.0, backoff_max_s=60.0)
KEYS = [f"d{number}" for number in range(8)]
ROUNDS = 40
# Of connections, cut within the first replies.
SEED = 28  # With which some of the first connections are among them.
A_FIFTH = Chaos(cut=0.2, after_bytes=(60, 700))


def rounds_of(seed, rounds=ROUNDS):
    """Rows of all keys, whose sums depend on their order, in the last bits; a key stands up to three times."""
    chance = np.random.default_rng(seed)
    for _ in range(rounds):
        keys = [key for key in KEYS for _ in range(chance.integers(4))]
        yield keys, chance.standard_normal((len(keys), 1)).astype(np.float32)


@pytest.fixture
def undisturbed(server):
    """What the rounds of a seed give where nothing breaks, and the number of each step."""

    def made(seed, rounds=ROUNDS):
        with Client(server.target) as client, client.group("running-sum", prefix=f"{secrets.token_hex(4)}-") as group:
            return [seen(group.step_rows(keys, x)) for keys, x in rounds_of(seed, rounds)]

    return made


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


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """For tests that leave it running, each with keys of its own."""
    with test_server([RunningSum()], store=f"sqlite:{tmp_path_factory.mktemp('store')}/s.db") as server:
        yield server


@pytest.fixture
def proxy(server):
    with ChaosProxy(server.target, seed=SEED) as proxy:
        yield proxy


@pytest.fixture
def prefix():
    return f"{secrets.token_hex(4)}-"


def disturb(proxy, number, chaos=A_FIFTH):
    """Connections are long, so each round may have new ones."""
    proxy.chaos = chaos
    if number % 3 == 0:
        proxy.cut_all()


def test_rounds_are_answered_once_and_in_order_whatever_breaks(connect, proxy, undisturbed, prefix):
    group = connect(proxy.target, retry=QUICK).group("running-sum", prefix=prefix)
    made = []
    for number, (keys, x) in enumerate(rounds_of(1)):
        disturb(proxy, number, Chaos(cut=0.5, cut_at_once=0.1, after_bytes=(0, 2500)))
        made.append(seen(group.step_rows(keys, x)))
    assert proxy.counts["cut"] >= 5
    assert made == undisturbed(1)


@pytest.mark.parametrize(("in_flight_max", "seed"), [(4, 3), (12, 4)])
def test_streamed_rounds_are_answered_once_and_in_order_whatever_breaks(
    connect, proxy, in_flight_max, seed, undisturbed, prefix
):
    group = connect(proxy.target, retry=QUICK).group("running-sum", prefix=prefix)
    made = []
    for number, answers in enumerate(group.stream_rows(rounds_of(seed), in_flight_max=in_flight_max)):
        disturb(proxy, number)
        made.append(seen(answers))
    assert proxy.counts["cut"] >= 1
    assert proxy.counts["connections"] >= 5
    assert made == undisturbed(seed)


@pytest.mark.parametrize("fault", ["cut", "half_close", "duplicate"])
def test_a_stream_of_rounds_outlives_each_fault(connect, proxy, fault, undisturbed, prefix):
    group = connect(proxy.target, retry=QUICK).group("running-sum", prefix=prefix)
    rounds = list(rounds_of(5))
    streamed = group.stream_rows(rounds)
    made = [seen(next(streamed))]
    proxy.chaos = Chaos(**{fault: 0.6}, after_bytes=(300, 1500))
    proxy.cut_all()
    made += map(seen, streamed)
    assert proxy.counts[fault] >= 1
    assert made == undisturbed(5)


def test_a_stream_of_rounds_outlives_the_server(connect, kept, undisturbed):
    group = connect(kept.target, retry=QUICK).group("running-sum")
    made = []
    for number, answers in enumerate(group.stream_rows(rounds_of(6))):
        made.append(seen(answers))
        if number in (10, 25):
            kept.restart()
    assert made == undisturbed(6)


def test_a_stream_goes_on_while_some_of_its_sessions_fail_for_a_while(connect, kept, monkeypatch, undisturbed):
    service, asked = kept.running.running.service, itertools.count(1)
    admit, serve = service._admit, service._expect_serving

    def admit_or_refuse(submission, place, session, *args, **more):
        if next(asked) % 7 == 0:
            service._refuse(submission, place, session.id, StoreUnavailable("away for a moment"))
        else:
            admit(submission, place, session, *args, **more)

    def expect_serving():
        if next(asked) % 29 == 0:
            raise ServerDraining("for a moment")
        serve()

    client = connect(kept.target, retry=QUICK)
    group = client.group("running-sum")
    group.open(KEYS)
    monkeypatch.setattr(service, "_admit", admit_or_refuse)
    monkeypatch.setattr(service, "_expect_serving", expect_serving)
    assert [seen(answers) for answers in group.stream_rows(rounds_of(7, 30))] == undisturbed(7, 30)


def test_a_stream_whose_next_round_waits_goes_on_over_another_connection(connect, proxy, prefix):
    def rounds():
        for number in range(5):
            while proxy.counts["connections"] <= number:  # Asked for before the break, and given after it.
                threading.Event().wait(0.01)
            yield {"a": [1]}

    taken = []
    # The aio group reads rounds on its event loop: such a wait would stop all of it.
    with Client(proxy.target, retry=QUICK) as client:
        for answers in client.group("running-sum", prefix=prefix).stream(rounds()):
            taken.append(answers["a"].item())
            proxy.cut_all()
    assert taken == [1, 2, 3, 4, 5]


def test_a_session_that_a_stream_lost_is_the_error_of_its_key(connect, kept):
    client = connect(kept.target, retry=QUICK)
    client.session("running-sum", session_id="a", durability="memory")
    group = client.group("running-sum")
    taken = []
    for number, answers in enumerate(group.stream([{"a": [1], "b": [1]}] * 20, in_flight_max=2)):
        taken.append(answers)
        if number == 5:
            kept.restart()
    assert [answers["b"].item() for answers in taken] == list(range(1, 21))
    lost = [isinstance(answers["a"], SessionLost) for answers in taken]
    assert lost == sorted(lost), "what was answered comes first"
    assert sum(lost) >= 12


def test_a_loop_left_while_the_connection_breaks_leaves_its_sessions_where_they_stand(connect, proxy, server, prefix):
    group = connect(proxy.target, retry=QUICK).group("running-sum", prefix=prefix)
    streamed = group.stream({"a": [1], "b": [1]} for _ in iter(int, 1))
    for _ in range(5):
        next(streamed)
    proxy.cut_all()
    streamed.close()
    answers = group.step({"a": [1], "b": [1]})
    found = connect(server.target).sessions()
    stands = {info.session_id.removeprefix(prefix): info.next_step for info in found if prefix in info.session_id}
    assert {key: answer.item() for key, answer in answers.items()} == stands == group.next_steps()


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


def test_a_black_hole_costs_a_round_no_more_than_its_time(connect, proxy, prefix):
    group = connect(proxy.target, retry=RetryPolicy()).group("running-sum", prefix=prefix)
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


def test_a_stream_finds_out_that_its_connection_swallows_everything(connect, proxy, undisturbed, prefix):
    group = connect(proxy.target, retry=QUICK).group("running-sum", prefix=prefix)
    streamed = group.stream_rows(rounds_of(8))
    made = [seen(next(streamed))]
    proxy.chaos = Chaos(black_hole=1.0, after_bytes=(2000, 2000))
    proxy.cut_all()
    made += [seen(next(streamed)) for _ in range(6)]
    while not proxy.counts["black_hole"]:
        made.append(seen(next(streamed)))
    proxy.chaos = Chaos()
    made += map(seen, streamed)
    assert made == undisturbed(8)


def test_without_a_policy_a_stream_is_broken_off(connect, proxy, prefix):
    group = connect(proxy.target, retry=None).group("running-sum", prefix=prefix)
    streamed = group.stream({"a": [1]} for _ in iter(int, 1))
    for number in range(1, 5):
        assert next(streamed)["a"].item() == number
    proxy.refuse(30)
    with pytest.raises(ServerUnreachable) as broken:
        list(streamed)
    assert "tried" not in broken.value.message


def test_without_a_policy_each_key_has_the_error_at_once(connect, proxy, prefix):
    group = connect(proxy.target, retry=None).group("running-sum", prefix=prefix)
    group.step({"a": [1]})
    proxy.refuse(30)
    answers = group.step({"a": [1], "b": [1]})
    assert {type(answer) for answer in answers.values()} == {ServerUnreachable}
    assert not any("tried" in answer.message for answer in answers.values())


def test_patience_ends_with_the_error_of_each_key_and_what_was_tried(connect, proxy, prefix):
    policy = RetryPolicy(patience_s=0.5, first_backoff_s=0.02)
    group = connect(proxy.target, retry=policy).group("running-sum", prefix=prefix)
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


def test_sessions_are_closed_through_whatever_breaks(connect, proxy, server, prefix):
    proxy.chaos = Chaos(cut=0.7, after_bytes=(0, 1500))
    for _ in range(2):
        group = connect(proxy.target, retry=QUICK).group("running-sum", prefix=prefix)
        group.open(KEYS)
        proxy.cut_all()
        assert not any(isinstance(end, NtmServeError) for end in group.close().values())
    assert not any(info.session_id.startswith(prefix) for info in connect(server.target).sessions())


def test_of_several_addresses_one_that_answers_is_found(connect, kept):
    with ChaosProxy(kept.target) as one, ChaosProxy(kept.target) as other:
        group = connect(f"{one.target},{other.target}", retry=QUICK).group("running-sum")
        for number in range(1, 4):
            assert group.step({"a": [1]})["a"].item() == number
            one.refuse(30)
        assert other.counts["connections"] == 1


@pytest.mark.parametrize("streamed", [False, True], ids=["step", "stream"])
def test_closing_the_client_ends_what_waits_to_try_again(proxy, streamed, prefix):
    client = Client(proxy.target, retry=SLOW)
    group = client.group("running-sum", prefix=prefix)
    group.step({"a": [1]})
    proxy.refuse(30)
    closing = threading.Timer(0.3, client.close)
    closing.start()
    with pytest.raises(StepCancelled):
        list(group.stream([{"a": [1]}])) if streamed else group.step({"a": [1]})
    closing.join()


@pytest.mark.parametrize("streamed", [False, True], ids=["step", "stream"])
async def test_a_task_is_cancelled_while_it_waits_between_tries(proxy, streamed, prefix):
    async with AsyncClient(proxy.target, retry=SLOW) as client:
        group = client.group("running-sum", prefix=prefix)
        await group.step({"a": [1]})
        proxy.refuse(30)
        answers = group.stream([{"a": [1]}])
        waiting = asyncio.ensure_future(anext(answers) if streamed else group.step({"a": [1]}))
        await asyncio.wait([waiting], timeout=0.3)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting], timeout=10)
        assert waiting.cancelled()
