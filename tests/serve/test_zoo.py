"""The models that the project ships, through a running server: what their cards promise."""

import numpy as np
import pytest

from ntm_models.tasks import Copy
from ntm_serve.app import load_models
from ntm_serve.client import Client
from ntm_serve.testing import test_server

from .frontends.wire_client import Wire, request_of

SEQUENCES = 100
# Not the seed of any training, selection or export.
SEED = 20_261_121


@pytest.fixture(scope="module")
def target(zoo):
    with test_server(load_models(zoo, batch_max=64)) as server:
        yield server.target


def exact_copies(target, model, length):
    """How many of the sequences come back without a wrong bit."""
    wire = Wire(target)
    episodes = Copy().episodes(length=length, sequences=SEQUENCES, seed=SEED)
    ids = [f"{model}-{length}-{number}" for number in range(SEQUENCES)]
    for name in ids:
        wire.open(name, model=model)
    outputs = wire.outputs(request_of(ids, {"x": episodes.x}))["y"]
    wire.channel.close()
    return int((episodes.wrong_bits(outputs) == 0).sum())


@pytest.mark.parametrize(
    ("model", "length", "exact_min"),
    [("copy-ff", 20, 100), ("copy-ff", 127, 100), ("copy-lstm", 20, 100)],
)
def test_a_trained_model_copies_through_the_server(target, model, length, exact_min):
    assert exact_copies(target, model, length) >= exact_min


@pytest.mark.parametrize("model", ["copy-ff", "copy-lstm"])
def test_one_step_a_message_many_steps_a_message_and_many_sessions_a_message_give_the_same_bits(target, model):
    x = Copy().episodes(length=10, sequences=1, seed=SEED).x[0]
    with Client(target) as client:
        with client.session(model) as session:
            one_by_one = np.stack([session.step(step) for step in x])
            state = session.state()
        with client.session(model) as session:
            assert np.array_equal(session.step(x), one_by_one)
            assert {name: array.tobytes() for name, array in session.state().items()} == {
                name: array.tobytes() for name, array in state.items()
            }
        with client.session(model) as session:
            assert np.array_equal(np.stack(list(session.stream(x))), one_by_one)
    wire = Wire(target)
    ids = [f"{model}-{number}" for number in range(7)]
    for name in ids:
        wire.open(name, model=model)
    others = Copy().episodes(length=10, sequences=6, seed=SEED + 1).x
    outputs = wire.outputs(request_of(ids, {"x": np.concatenate([x[np.newaxis], others])}))["y"]
    assert outputs[0].tobytes() == one_by_one.tobytes()
    wire.channel.close()
