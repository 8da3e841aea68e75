"""What callers of both clients see when connections break and servers go: each output once and in order, bit for bit;
or an error that says what became of the session. Through a proxy that breaks real connections to a real server.
"""

import asyncio
import signal
import threading

import numpy as np
import pytest
from serve.exposition import scrape, value

from benchmarks.chaos.proxy import FAULTS, Chaos, ChaosProxy
from ntm_serve.client import AsyncClient, Client, RetryPolicy, conversion
from ntm_serve.errors import DeadlinePassed, ServerUnreachable, SessionLost, StepCancelled
from ntm_serve.testing import Gate, RunningSum, test_server

from .blocking import BlockingClient

QUICK = RetryPolicy(first_backoff_s=0.02, backoff_max_s=0.3, silence_max_s=1.0)
# Waits in which a test has time to do something.
SLOW = RetryPolicy(first_backoff_s=60.0, backoff_max_s=60.0)
STEPS = 150
SESSIONS = 8


def inputs_of(seed):
    """Whose sums depend on their order, in the last bits."""
    return np.random.default_rng(seed).standard_normal((STEPS, 1)).astype(np.float32)


class Counted:
    """Inputs one by one, and how many of them were read."""

    def __init__(self, xs):
        self.read = 0
        self._xs = xs

    def __iter__(self):
        for x in self._xs:
            self.read += 1
            yield x


@pytest.fixture
def proxy(server):
    with ChaosProxy(server.target) as proxy:
        yield proxy


@pytest.fixture
def lines_of_their_own(monkeypatch):
    """Clients of one process share a connection to the same address, were they not asked to have their own."""
    options = (*conversion.CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
    monkeypatch.setattr(conversion, "CHANNEL_OPTIONS", options)


def undisturbed(server, seeds):
    """What each seed's inputs give, by a session that nobody disturbs."""
    with Client(server.target) as client:
        return [client.session("running-sum").step(inputs_of(seed)).tobytes() for seed in seeds]


def through(kind, target, seed):
    """What a seed's inputs give through a client of its own: by steps, or by a stream of messages large and small."""
    xs = Counted(inputs_of(seed))
    with kind(target, retry=QUICK) as client, client.session("running-sum") as session:
        if seed % 2:
            ys = [session.step(x) for x in xs]
        else:
            ys = list(session.stream(xs, in_flight_max=1 + seed % 7, steps_per_message=1 + seed % 3))
        assert (len(ys), xs.read, session.next_step, session.info().next_step) == (STEPS,) * 4
    return np.stack(ys).tobytes()


@pytest.mark.parametrize("kind", [Client, BlockingClient], ids=["sync", "aio"])
@pytest.mark.parametrize(
    ("chaos", "seed"),
    [
        (Chaos(cut=0.2, after_bytes=(300, 6000)), 3),
        (Chaos(cut=0.9, after_bytes=(300, 4000)), 1),
        (
            Chaos(
                cut_at_once=0.1, cut=0.3, half_close=0.1, duplicate=0.2, stall=0.1, refuse=0.05, black_hole=0.05,
                stall_s=0.1, refuse_s=0.1, after_bytes=(300, 6000), latency_s=(0.0, 0.001),
            ),
            1,
        ),
    ],
    ids=["a fifth is cut", "most are cut", "anything"],
)  # fmt: skip
def test_many_sessions_see_each_output_once_whatever_breaks(server, lines_of_their_own, kind, chaos, seed):
    ends = {}
    with ChaosProxy(server.target, chaos, seed=seed) as proxy:

        def work(number):
            try:
                ends[number] = through(kind, proxy.target, number)
            except BaseException as error:
                ends[number] = error

        threads = [threading.Thread(target=work, args=(number,)) for number in range(SESSIONS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert proxy.counts["cut"] >= 1
        assert proxy.counts["connections"] > SESSIONS
    assert [ends[number] for number in range(SESSIONS)] == undisturbed(server, range(SESSIONS))


@pytest.mark.parametrize("streamed", [False, True], ids=["steps", "stream"])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_session_outlives_each_fault(server, connect, fault, streamed):
    chaos = Chaos(**{fault: 0.7}, stall_s=0.05, refuse_s=0.1, after_bytes=(300, 3000))
    xs = inputs_of(5)[:60]
    with ChaosProxy(server.target, chaos, seed=2) as proxy:
        session = connect(proxy.target, retry=QUICK).session("running-sum")
        ys = list(session.stream(xs)) if streamed else [session.step(x) for x in xs]
        assert proxy.counts[fault] >= 1
    assert np.stack(ys).tobytes() == connect(server.target).session("running-sum").step(xs).tobytes()
    assert session.next_step == len(xs)


def test_replies_that_come_twice_are_seen_once(server, connect):
    with ChaosProxy(server.target, Chaos(duplicate=1.0, after_bytes=(200, 400)), seed=4) as proxy:
        session = connect(proxy.target, retry=QUICK).session("running-sum")
        ys = [y.item() for y in session.stream([[1]] * 300)]
        assert proxy.counts["duplicate"] >= 5
    assert ys == list(range(1, 301))


def test_a_server_that_is_away_for_two_seconds_is_waited_for(proxy, connect):
    session = connect(proxy.target, retry=QUICK).session("running-sum")
    assert session.step([1]).item() == 1
    proxy.refuse(2.0)
    assert session.step([1]).item() == 2
    ys = session.stream([[1]] * 50, in_flight_max=4)
    taken = [next(ys).item() for _ in range(10)]
    proxy.refuse(2.0)
    taken += [y.item() for y in ys]
    assert taken == list(range(3, 53))


def test_a_stream_whose_next_input_waits_goes_on_over_another_connection(proxy):
    taken = []

    def xs():
        for number in range(6):
            while proxy.counts["connections"] <= number:  # Asked for before the break, and given after it.
                threading.Event().wait(0.01)
            yield [1]

    with Client(proxy.target, retry=QUICK) as client:
        for y in client.session("running-sum").stream(xs()):
            taken.append(y.item())
            proxy.cut_all()
    assert taken == [1, 2, 3, 4, 5, 6]


async def test_an_aio_stream_whose_next_input_waits_goes_on_over_another_connection(proxy):
    taken = []

    async def xs():
        for number in range(6):
            while proxy.counts["connections"] <= number:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            yield [1]

    async with AsyncClient(proxy.target, retry=QUICK) as client:
        session = await client.session("running-sum")
        async for y in session.stream(xs()):
            taken.append(y.item())
            await asyncio.to_thread(proxy.cut_all)
    assert taken == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("streamed", [False, True], ids=["step", "stream"])
def test_without_a_policy_the_error_comes_at_once(proxy, connect, streamed):
    session = connect(proxy.target, retry=None).session("running-sum")
    ys = session.stream([1] for _ in iter(int, 1))
    for number in range(1, 5):
        assert next(ys).item() == number
    if not streamed:
        ys.close()
    proxy.refuse(30)
    with pytest.raises(ServerUnreachable) as broken:
        list(ys) if streamed else session.step([1])
    assert "tried" not in broken.value.message


@pytest.mark.parametrize("streamed", [False, True], ids=["step", "stream"])
def test_patience_ends_with_the_last_error_and_what_was_tried(proxy, connect, streamed):
    policy = RetryPolicy(patience_s=0.5, first_backoff_s=0.02)
    session = connect(proxy.target, retry=policy).session("running-sum")
    proxy.refuse(30)
    with pytest.raises(ServerUnreachable, match=r"tried \d+ times in 0\.[5-9] s without a new reply"):
        list(session.stream([[1]])) if streamed else session.step([1])


def test_a_black_hole_costs_a_step_no_more_than_its_time(proxy, connect):
    session = connect(proxy.target, retry=RetryPolicy()).session("running-sum")
    assert session.step([1]).item() == 1
    proxy.chaos = Chaos(black_hole=1.0, after_bytes=(200, 200))
    proxy.cut_all()
    with pytest.raises(DeadlinePassed):
        [session.step([0], timeout_s=0.5) for _ in range(100)]
    proxy.chaos = Chaos()
    proxy.cut_all()
    assert session.step([0]).item() == 1, "it may be passed again"
    assert session.info().next_step == session.next_step


def test_a_stream_finds_out_that_its_connection_swallows_everything(proxy, connect):
    session = connect(proxy.target, retry=QUICK).session("running-sum")
    ys = session.stream([[1]] * 300)
    proxy.chaos = Chaos(black_hole=1.0, after_bytes=(2000, 2000))
    taken = [next(ys).item()]
    proxy.cut_all()
    taken += [next(ys).item() for _ in range(40)]
    proxy.chaos = Chaos()
    taken += [y.item() for y in ys]
    assert taken == list(range(1, 301))
    assert proxy.counts["black_hole"] >= 1


@pytest.mark.parametrize("streamed", [False, True], ids=["step", "stream"])
def test_a_session_that_went_with_its_server_is_lost_and_not_begun_anew(proxy, connect, streamed):
    with test_server([RunningSum()]) as first:
        proxy.upstream = first.target
        session = connect(proxy.target, retry=QUICK).session("running-sum")
        ys = session.stream([1] for _ in iter(int, 1))
        taken = [next(ys).item() for _ in range(5)]
        if not streamed:
            ys.close()
    with test_server([RunningSum()]) as second:
        proxy.upstream = second.target
        with pytest.raises(SessionLost, match=r"does not know it any more.*durability") as lost:
            taken += [y.item() for y in ys] if streamed else [session.step([1]).item()]
        assert list(connect(second.target).sessions()) == []
    stood = int(lost.value.fields["answered_step"])
    assert stood >= 5
    assert f"session {session.id}: stood at step {stood}" in lost.value.message


def test_what_follows_a_stream_that_broke_for_good_follows_what_was_run(proxy, connect):
    policy = RetryPolicy(patience_s=0.2, first_backoff_s=0.02)
    session = connect(proxy.target, retry=policy).session("running-sum")
    ys = session.stream([1] for _ in iter(int, 1))
    next(ys)
    proxy.refuse(1.0)
    with pytest.raises(ServerUnreachable):
        list(ys)
    while True:  # The listener may take longer than patience.
        try:
            y = session.step([1])
            break
        except ServerUnreachable:
            pass
    assert y.item() == session.next_step == session.info().next_step


def test_a_session_is_opened_asked_for_and_closed_through_whatever_breaks(connect):
    chaos = Chaos(cut_at_once=0.2, cut=0.5, after_bytes=(100, 600))
    with test_server([RunningSum()]) as server, ChaosProxy(server.target, chaos, seed=7) as proxy:
        client = connect(proxy.target, retry=QUICK)
        for _ in range(8):
            session = client.session("running-sum")
            session.step([1])
            assert session.info().next_step == 1
            assert session.id in {info.session_id for info in client.sessions()}
            assert session.close().next_step == 1
            proxy.cut_all()
        assert client.models()[0].sessions == 0
        assert proxy.counts["cut"] + proxy.counts["cut_at_once"] >= 4


def test_closing_the_client_ends_what_waits_to_try_again(proxy):
    client = Client(proxy.target, retry=SLOW)
    session = client.session("running-sum")
    proxy.refuse(30)
    closing = threading.Timer(0.3, client.close)
    closing.start()
    with pytest.raises(StepCancelled):
        session.step([1])
    closing.join()


@pytest.mark.parametrize("streamed", [False, True], ids=["step", "stream"])
def test_ctrl_c_ends_a_wait_between_tries(proxy, streamed):
    with Client(proxy.target, retry=SLOW) as client:
        session = client.session("running-sum")
        proxy.refuse(30)
        thread = threading.main_thread().ident
        pressing = threading.Timer(0.3, signal.pthread_kill, (thread, signal.SIGINT))
        pressing.start()
        with pytest.raises(KeyboardInterrupt):
            list(session.stream([[1]])) if streamed else session.step([1])
        pressing.join()


@pytest.mark.parametrize("streamed", [False, True], ids=["step", "stream"])
async def test_a_task_is_cancelled_while_it_waits_between_tries(proxy, streamed):
    async with AsyncClient(proxy.target, retry=SLOW) as client:
        session = await client.session("running-sum")
        proxy.refuse(30)
        ys = session.stream([[1]])
        waiting = asyncio.ensure_future(anext(ys) if streamed else session.step([1]))
        await asyncio.wait([waiting], timeout=0.3)
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait([waiting], timeout=10)
        assert waiting.cancelled()


@pytest.mark.parametrize("streamed", [False, True], ids=["step", "stream"])
async def test_what_the_caller_cancels_is_not_tried_again(streamed):
    gate, method = Gate(), {"grpc_method": "Stream" if streamed else "Step"}
    with test_server([RunningSum(before_run=gate)]) as server:
        async with AsyncClient(server.target, retry=QUICK) as client:
            session = await client.session("running-sum")
            waiting = asyncio.ensure_future(anext(session.stream([[1]])) if streamed else session.step([1]))
            await asyncio.to_thread(gate.await_run)
            waiting.cancel()
            await asyncio.wait([waiting], timeout=10)
            assert waiting.cancelled()
            gate.open()
            while (info := await session.info()).steps_in_flight:
                pass
            text = await asyncio.to_thread(scrape, server)
            assert value(text, "grpc_server_started_total", grpc_service="ntm_serve.v1.Sessions", **method) == 1
            session = await client.session("running-sum", session_id=session.id, resume=True)
            assert (await session.step([2])).item() == 2 + info.next_step
