"""The same bits in any company: random sessions of trained models against each of them alone; and what a server
says where it cannot promise it.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serve.exposition import scrape, value
from serve.tickets import replies_of, service_of
from structlog.testing import capture_logs

from ntm_serve import engine as engine_module
from ntm_serve.app import load_models
from ntm_serve.client import Client
from ntm_serve.engine import OrtEngine
from ntm_serve.message import StepRequest
from ntm_serve.model_directory import read_model_directory
from ntm_serve.observer import NoObserver
from ntm_serve.scheduler import Scheduler
from ntm_serve.sessions import Limits
from ntm_serve.testing import ManualClock, test_server

SESSIONS = 24
BATCHES_MAX = (3, 8, 20)


@pytest.fixture(scope="module", params=["copy-ff", "copy-lstm"])
def engines(request, zoo):
    """The model with batches of several sizes: an odd one, one that most companies exceed, one that few do."""
    directory = read_model_directory(zoo / request.param / "1")
    return [OrtEngine(directory, name=request.param, version="1", batch_max=rows) for rows in BATCHES_MAX]


class Sent(NamedTuple):
    """A message: these sessions, so many steps, and whether those before it are waited for."""

    sessions: list[int]
    steps: int
    waits: bool


MESSAGES = st.lists(
    st.builds(
        Sent,
        st.lists(st.integers(0, SESSIONS - 1), min_size=1, max_size=SESSIONS, unique=True),
        st.integers(1, 6),
        st.booleans(),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=20, deadline=None)
@given(
    messages=MESSAGES, batch=st.sampled_from(range(len(BATCHES_MAX))), lanes=st.integers(1, 2), seed=st.integers(0, 99)
)
def test_no_bit_of_a_session_depends_on_who_else_is_served(engines, messages, batch, lanes, seed):
    # Given messages of some sessions each, of which several may be on their way at once
    engine, random = engines[batch], np.random.default_rng(seed)
    inputs = [{spec.name: drawn(random, (len(sent.sessions), sent.steps, *spec.shape)) for spec in engine.spec.inputs}
              for sent in messages]  # fmt: skip
    # When they are served together
    outputs, states = asyncio.run(served(engine, lanes, messages, inputs))
    # Then each session has the bits of its steps made alone
    for session in range(SESSIONS):
        state = [array[np.newaxis] for array in engine.initial_state]
        for sent, given_, got in zip(messages, inputs, outputs, strict=True):
            if session not in sent.sessions:
                continue
            place = sent.sessions.index(session)
            for step in range(sent.steps):
                alone, state = engine.run([given_[s.name][place, step][np.newaxis] for s in engine.spec.inputs], state)
                for spec, array in zip(engine.spec.outputs, alone, strict=True):
                    assert got[place].outputs[spec.name][step].tobytes() == array[0].tobytes()
        for spec, array in zip(engine.spec.state, state, strict=True):
            assert states[session][spec.name].tobytes() == array[0].tobytes()


def drawn(random, shape):
    """Bits, as the models were trained on, and anything between."""
    bits = random.integers(0, 2, shape)
    return np.where(random.random() < 0.5, bits, random.random(shape)).astype(np.float32)


async def served(engine, lanes, messages, inputs):
    """The replies of every message, and the sessions' last states."""
    limits, clock = Limits(), ManualClock()
    with ThreadPoolExecutor(lanes) as executor:
        options = {"limits": limits, "steps_waiting_max": 10_000, "observer": NoObserver(), "clock": clock}
        scheduler = Scheduler(engine, executor=executor, lanes=lanes, **options)
        service = service_of(
            [scheduler], limits=limits, clock=clock, sessions_per_message_max=SESSIONS, steps_per_message_max=10
        )
        running = asyncio.create_task(scheduler.run())
        ids = [f"s{number}" for number in range(SESSIONS)]
        for name in ids:
            await service.open_session(engine.card.name, session_id=name)
        steps = []
        for sent, arrays in zip(messages, inputs, strict=True):
            names = [ids[number] for number in sent.sessions]
            steps.append(asyncio.create_task(service.step(StepRequest(names, [None] * len(names), arrays))))
            await asyncio.sleep(0)
            if sent.waits:
                await steps[-1]
        replies = [replies_of(await step) for step in steps]
        states = [(await service.get_state(name, ["*"]))[1] for name in ids]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    return replies, states


@pytest.fixture
def dependent_kernels(monkeypatch):
    """ONNX Runtime, but each row gets a little of its neighbour's."""
    real = engine_module.ort.InferenceSession

    class Session:
        def __init__(self, *arguments, **options):
            self._session = real(*arguments, **options)

        def run(self, *arguments):
            given = self._session.run(*arguments)
            return [array + np.float32(1e-7) * np.roll(array, 1, axis=0) for array in given]

        def __getattr__(self, name):
            return getattr(self._session, name)

    monkeypatch.setattr(engine_module.ort, "InferenceSession", Session)


def what_is_said(zoo, tmp_path):
    """Of the same model: the log of loading it, what a client is told, what Prometheus is."""
    (tmp_path / "copy-ff").symlink_to(zoo / "copy-ff")
    with capture_logs() as logged:
        loaded = load_models(tmp_path, batch_max=8)
    with test_server(loaded) as server, Client(server.target) as client:
        told = client.model("copy-ff").batch_independence.holds
        counted = value(scrape(server), "ntm_serve_batch_independence", model="copy-ff", version="1")
    warned = {line["model"] for line in logged if line["log_level"] == "warning" and "company" in line["event"]}
    return warned, told, counted


@pytest.mark.usefixtures("dependent_kernels")
def test_a_server_whose_bits_depend_on_company_says_so_in_log_reply_and_metric(zoo, tmp_path):
    assert what_is_said(zoo, tmp_path) == ({"copy-ff/1"}, False, 0)


def test_a_server_whose_bits_do_not_says_so_too(zoo, tmp_path):
    assert what_is_said(zoo, tmp_path) == (set(), True, 1)
