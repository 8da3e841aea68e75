"""A server that is stopping while a step is held in its engine: what others see meanwhile."""

import contextlib
import threading
from dataclasses import dataclass

from ntm_serve.client import Client
from ntm_serve.testing import Gate, RunningSum, TestServer, test_server


@dataclass
class Stopping:
    """A server that drains until the gate is opened, and the outputs that a stream got until then."""

    server: TestServer
    gate: Gate
    outputs: list
    error: Exception | None = None


@contextlib.contextmanager
def stopping(*, steps_in_flight: int = 1, **settings):
    """Yields once the server drains; a client's stream has that many steps in flight."""
    gate = Gate()
    it = Stopping(None, gate, [])
    with contextlib.ExitStack() as stack:
        serving = test_server([RunningSum(before_run=gate)], **settings)
        it.server = serving.__enter__()
        stack.callback(gate.open)
        client = stack.enter_context(Client(it.server.target, retry=None))
        session = client.session("running-sum", session_id="held")
        more = threading.Event()
        stack.callback(more.set)

        def xs():
            yield from [[1.0]] * steps_in_flight
            more.wait(30)

        def take():
            try:
                it.outputs.extend(y.tolist() for y in session.stream(xs()))
            except Exception as error:
                it.error = error

        taking = threading.Thread(target=take)
        taking.start()
        while client.session_info("held").steps_in_flight < steps_in_flight:
            pass
        leaving = threading.Thread(target=serving.__exit__, args=(None, None, None))
        leaving.start()
        while not it.server.running.service.draining:
            pass
        try:
            yield it
        finally:
            gate.open()
            leaving.join()
            taking.join()
