"""The whole server: what starting refuses, what stopping waits for, and that nothing is left of it."""

import asyncio
import contextlib
import socket
import threading

import pytest
from serve.stopping import stopping

from ntm_serve.app import LoadedModels, run, running
from ntm_serve.client import AsyncClient, Client
from ntm_serve.config import read_settings
from ntm_serve.errors import ModelDamaged, NtmServeError, ServerDraining, SettingsFault
from ntm_serve.step_model import ModelKey
from ntm_serve.testing import Gate, RunningSum, test_server


class Broken(BaseException):
    """What no boundary catches."""


def broken(rows):
    raise Broken("mine")


def test_a_scheduler_that_dies_takes_the_server_down_with_its_error():
    # The step that it was to answer never will be: nobody waits drain_s for it.
    with pytest.raises(Broken, match="mine"), test_server([RunningSum(before_run=broken)], drain_s=1000) as server:
        step_until_gone(server)


def test_an_http_server_that_dies_takes_the_server_down_with_its_error(monkeypatch):
    async def die(self):
        raise Broken("http")

    monkeypatch.setattr("uvicorn.Server.main_loop", die)
    with pytest.raises(Broken, match="http"), test_server([RunningSum()]) as server:
        step_until_gone(server)


def step_until_gone(server):
    with Client(server.target, retry=None) as client, contextlib.suppress(NtmServeError):
        while True:
            client.session("running-sum").step([1])


def test_a_server_without_a_model_that_can_be_served_does_not_start():
    faults = {ModelKey("copy", "1"): ModelDamaged("copy/1: golden run: expected less")}
    with pytest.raises(SettingsFault, match="at least one that can be served; copy/1: golden run: expected less"):
        test_server(LoadedModels([], faults, {})).__enter__()


@pytest.mark.parametrize("setting", ["port", "http_port"])
def test_a_taken_port_is_refused_and_the_other_is_free_again(setting):
    other = {"port": "http_port", "http_port": "port"}[setting]
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        numbers = {setting: taken.getsockname()[1], other: free.getsockname()[1]}
        free.close()
        with pytest.raises(SettingsFault, match=rf"^{setting}: expected 127\.0\.0\.1:{numbers[setting]} to be free"):
            test_server([RunningSum()], **numbers).__enter__()
        with socket.create_server(("127.0.0.1", numbers[other])):
            pass


def test_two_servers_never_share_a_port():
    with test_server([RunningSum()]) as server, pytest.raises(SettingsFault):
        test_server([RunningSum()], port=server.running.port).__enter__()


def test_a_host_that_is_none_is_refused():
    with pytest.raises(SettingsFault, match="not-a-host"):
        test_server([RunningSum()], host="not-a-host.invalid").__enter__()


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6 here")
def test_an_address_of_ip_version_6_is_listened_on():
    with test_server([RunningSum()], host="::1") as server, Client(server.target) as client:
        assert server.target.startswith("[::1]:")
        assert client.session("running-sum").step([1]).tolist() == [1]


def test_stopping_waits_for_steps_in_flight_and_tells_streams_to_connect_again():
    with stopping(steps_in_flight=3) as it:
        it.gate.open()
    assert it.outputs == [[1], [2], [3]]
    assert isinstance(it.error, ServerDraining)


def test_a_server_that_stops_takes_nothing_new():
    with stopping() as it, Client(it.server.target, retry=None) as client:
        with pytest.raises(ServerDraining, match="is stopping; connect again"):
            client.session("running-sum")
        assert client.session_info("held").steps_in_flight == 1


def test_stopping_waits_no_longer_than_it_is_allowed():
    gate, errors = Gate(), []

    def step():
        try:
            session.step([1])
        except NtmServeError as error:
            errors.append(error)
        gate.open()  # Only now, so that the server did not wait for it.

    with test_server([RunningSum(before_run=gate)], drain_s=0.1) as server:
        client = Client(server.target, retry=None)
        session = client.session("running-sum")
        stepping = threading.Thread(target=step)
        stepping.start()
        gate.await_run()
    stepping.join()
    client.close()
    assert len(errors) == 1


def test_no_thread_of_a_server_is_left():
    def threads():
        return {one.name for one in threading.enumerate() if one.name.startswith(("compute", "test-server"))}

    with test_server([RunningSum()]) as server, Client(server.target) as client:
        client.session("running-sum").step([1])
        assert threads() == {"test-server", "compute_0"}
    assert threads() == set()


def test_no_task_of_a_server_is_left():
    async def main():
        settings = read_settings({"port": 0, "http_port": 0})
        async with (
            running(settings, LoadedModels([RunningSum()], {}, {})) as server,
            AsyncClient(f"{server.host}:{server.port}") as client,
        ):
            session = await client.session("running-sum")
            async for _ in session.stream([[1]] * 5):
                break
            await session.step([1])
        left = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.sleep(0)
        assert {task for task in left if not task.done()} == set()

    run(main())


def test_a_call_that_is_open_does_not_hold_the_server():
    async def waits():
        yield [1]
        await asyncio.Event().wait()

    async def main():
        settings = read_settings({"port": 0, "http_port": 0})
        async with running(settings, LoadedModels([RunningSum()], {}, {})) as server:
            client = AsyncClient(f"{server.host}:{server.port}", retry=None)
            session = await client.session("running-sum")
            ys = session.stream(waits())
            assert (await anext(ys)).tolist() == [1]
        with pytest.raises(ServerDraining):
            await anext(ys)
        await client.close()

    run(main())


def test_a_server_needs_the_event_loop_that_waits_for_grpc():
    async def main():
        async with running(read_settings({}), LoadedModels([RunningSum()], {}, {})):
            pass

    with pytest.raises(TypeError, match="expected a CompletionQueueLoop"):
        asyncio.run(main())
