"""The event loop that waits for gRPC: it is an asyncio loop like any other, and nothing wakes it too late."""

import asyncio
import threading

import grpc
import pytest

from ntm_serve.client import Client
from ntm_serve.frontends.completion_queue import CompletionQueueLoop
from ntm_serve.testing import RunningSum, test_server


def run(main):
    with asyncio.Runner(loop_factory=CompletionQueueLoop) as runner:
        return runner.run(main)


async def echo_once():
    """A line there and back through a socket of the loop; nothing of it is left to the garbage collector."""
    answered = asyncio.Event()

    async def answer(reader, writer):
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        answered.set()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        line = await reader.readline()
        writer.close()
        await writer.wait_closed()
        await answered.wait()
    return line


def test_sockets_timers_and_threads_work_before_any_call_has_come():
    async def main():
        await asyncio.sleep(0.001)
        return await echo_once(), await asyncio.to_thread(lambda: 5)

    assert run(main()) == (b"hello\n", 5)


def test_what_another_thread_posts_is_called_on_the_loop():
    async def main():
        loop, called = asyncio.get_running_loop(), asyncio.Event()
        seen = []

        def callback():
            seen.append(threading.current_thread())
            called.set()

        threading.Thread(target=loop.post, args=(callback,)).start()
        await called.wait()
        return seen

    assert run(main()) == [threading.main_thread()]


def test_sockets_and_posts_are_served_while_calls_come_in():
    """Once a call has come, gRPC's queue is what the loop sleeps on, and it is rung."""
    with test_server([RunningSum()]) as server, Client(server.target) as client:
        session = client.session("running-sum")
        loop = server.running.loop
        for number in range(1, 20):
            assert session.step([1]).tolist() == [number]
            assert asyncio.run_coroutine_threadsafe(echo_once(), loop).result(10) == b"hello\n"
            posted = threading.Event()
            loop.post(posted.set)
            assert posted.wait(10)


def test_a_fault_in_an_event_is_told_and_the_loop_goes_on():
    told = []
    with test_server([RunningSum()]) as server, Client(server.target) as client:
        loop = server.running.loop
        loop.call_soon_threadsafe(loop.set_exception_handler, lambda loop, context: told.append(context["exception"]))
        assert client.session("running-sum").step([1]).tolist() == [1]
        loop.post(lambda: 1 / 0)
        assert client.session("running-sum").step([1]).tolist() == [1]
    assert isinstance(told[0], ZeroDivisionError)


def test_a_fault_in_a_method_is_its_calls_and_says_no_more(monkeypatch):
    monkeypatch.setattr("ntm_serve.frontends.methods.Unary.__call__", lambda self, call: 1 / 0)
    with (
        test_server([RunningSum()]) as server,
        grpc.insecure_channel(server.target) as channel,
        pytest.raises(grpc.RpcError, match="internal fault; the server's log has it") as refused,
    ):
        channel.unary_unary("/ntm_serve.v1.Sessions/List")(b"", timeout=10)
    assert refused.value.code() is grpc.StatusCode.INTERNAL


def test_no_thread_of_a_loop_is_left():
    run(echo_once())
    assert "sockets" not in {thread.name for thread in threading.enumerate()}
