"""Sizes that sessions choose: what a model directory may say of them, and that a batch has one size."""

import asyncio

import numpy as np
import pytest
from serve import slots

from ntm_serve.app import load_models
from ntm_serve.client import Client
from ntm_serve.engine import OrtEngine
from ntm_serve.errors import InvalidInput, ModelRejected, NtmServeError
from ntm_serve.model_directory import read_model_directory
from ntm_serve.sizes import chosen_sizes, sized_spec, sized_state, sizes_of_state
from ntm_serve.spec import Axis, StateSpec, StepSpec, TensorSpec
from ntm_serve.step_model import ResizableModel
from ntm_serve.testing import test_server


@pytest.fixture
def engine(tmp_path):
    return OrtEngine(read_model_directory(slots.write(tmp_path)), name="slots", version="1", batch_max=8)


def test_the_models_own_size_is_no_choice(engine):
    assert isinstance(engine, ResizableModel)
    assert chosen_sizes(engine.spec, {}) == chosen_sizes(engine.spec, {"slots": slots.OWN}) == ()
    assert chosen_sizes(engine.spec, {"slots": 7}) == (("slots", 7),)
    assert sized_spec(engine.spec, ()) is engine.spec


def test_spec_and_state_of_another_size_fit_each_other(engine):
    for size in range(1, slots.MOST + 1):
        sizes = (("slots", size),)
        spec, state = sized_spec(engine.spec, sizes), sized_state(engine.spec, engine.initial_state, sizes)
        assert [one.shape for one in spec.state] == [array.shape for array in state]
        assert spec.axes[0].size == size
        assert (spec.inputs, spec.outputs) == (engine.spec.inputs, engine.spec.outputs)
        assert sizes_of_state(engine.spec, state) == chosen_sizes(engine.spec, {"slots": size})
        assert not any(array.flags.writeable for array in state)


def test_an_engine_of_another_size_has_the_same_bits_in_any_company(engine):
    other = engine.resized((("slots", 9),))
    assert other.batch_independence.holds
    assert (other.card, other.spec.state[0].shape) == (engine.card, (9, slots.WIDTH))
    random = np.random.default_rng(4)
    rows = 8
    x = random.standard_normal((rows, slots.WIDTH)).astype(np.float32)
    state = [random.standard_normal((rows, *one.shape)).astype(np.float32) for one in other.spec.state]
    outputs, following = other.run([x], state)
    for row in range(rows):
        alone = other.run([x[row : row + 1]], [array[row : row + 1] for array in state])
        for given, one in zip([*outputs, *following], [*alone[0], *alone[1]], strict=True):
            assert given[row].tobytes() == one[0].tobytes()
    # And the one that it was made of is what it was.
    assert engine.spec.state[0].shape == (slots.OWN, slots.WIDTH)


def test_a_large_size_is_tested_and_run_in_batches_that_memory_has_room_for(tmp_path):
    slots.write(tmp_path, axes={"slots": (1, 2000)})
    engine = OrtEngine(read_model_directory(tmp_path / "slots" / "1"), name="slots", version="1", batch_max=64)
    large = engine.resized((("slots", 1500),))
    assert large.batch_independence.holds
    assert (engine.batch_max, large.batch_max) == (64, 2)
    assert engine.resized((("slots", 100),)).batch_max == 64


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"onnx": slots.graph(slots.OWN)}, r"expected axes \['slots'\] to be symbolic"),
        (
            {"state": slots.initial() | {"memory": np.arange(12, dtype=np.float32).reshape(4, 3)}},
            "memory: expected an initial state that is the same all along axis 0, slots",
        ),
        ({"axes_of": {**slots.AXES_OF, "usage": ("lots",)}}, r"usage: axes: expected one of \['slots'\], got lots"),
        ({"axes_of": {**slots.AXES_OF, "memory": ("slots",)}}, r"memory: axes: expected 2 names, got \['slots'\]"),
        (
            {"axes_of": {**slots.AXES_OF, "memory": ("slots", "slots")}},
            "memory: axes: expected one of 4, got slots of 3",
        ),
        ({"axes": {"slots": (5, 9)}}, "axes: slots: expected 1 <= least <= 4 <= most, got 5 and 9"),
        ({"axes": {"slots": (1, 9), "heads": (1, 2)}}, "axes: heads"),
    ],
)
def test_a_directory_that_says_what_its_graph_cannot_keep_is_not_served(tmp_path, changes, told):
    """Some of it is refused before it is written."""
    with pytest.raises(ModelRejected, match=told):
        OrtEngine(read_model_directory(slots.write(tmp_path, **changes)), name="slots", version="1", batch_max=4)


def test_a_spec_without_axes_leaves_nothing_to_choose():
    tensor = TensorSpec("x", "float32", (1,))
    spec = StepSpec((tensor,), (TensorSpec("y", "float32", (1,)),), (StateSpec("h", "float32", (2,)),))
    with pytest.raises(InvalidInput, match=r"sizes: expected some of \[\]"):
        chosen_sizes(spec, {"slots": 1})
    with pytest.raises(InvalidInput, match="expected each to be of a state tensor"):
        StepSpec(spec.inputs, spec.outputs, spec.state, (Axis("slots", 2, 1, 3),))


def test_sessions_of_different_sizes_are_counted_together_and_end_with_their_server(tmp_path):
    slots.write(tmp_path)
    with test_server(load_models(tmp_path, batch_max=8)) as server, Client(server.target) as client:
        sessions = [client.session("slots", sizes={"slots": size}) for size in (1, 4, 9, 9)]
        for session in sessions:
            session.step(slots.inputs_of(5)["x"])
        asked = asyncio.run_coroutine_threadsafe(_statistics(server.running.service), server.running.loop)
        [key] = (statistics := asked.result(10)).sessions
        assert statistics.sessions[key] == 4
        assert statistics.state_bytes[key] == sum(4 * (3 * n + n + n * n) for n in (1, 4, 9, 9))
        assert statistics.schedulers[key].steps == 20
        assert statistics.schedulers[key].steps_waiting == 0
        sessions[2].close()
        with pytest.raises(NtmServeError):
            sessions[2].step(slots.inputs_of(1)["x"])


async def _statistics(service):
    return service.statistics()
