"""What every family keeps: one suite for all shipped models, through a real server."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ntm_exporter.verify import begun, one_step_parity, torch_rows

# More than a run of the engine takes at once, so that sessions change their company.
SESSIONS, STEPS = 96, 12
LONG_RUN, STEPS_A_MESSAGE = 10_000, 500

# Of a free run; what gates a step is the tolerance of the export.
GOLDEN_TOLERANCE = 1e-3


def opened(client, shown, seed):
    """A session that is given what the session of that example is given."""
    return client.session(shown.name, initial_state=shown.given(seed))


def outputs_of(session, inputs):
    """A session's outputs by name, `[T, ...]` each."""
    outputs = session.step(inputs)
    return outputs if isinstance(outputs, dict) else {session.outputs[0].name: outputs}


def bits(arrays):
    return {name: (str(array.dtype), array.shape, array.tobytes()) for name, array in arrays.items()}


def cut(inputs, *at):
    return {name: array[slice(*at)] for name, array in inputs.items()}


def by_engine(shown, seed, steps):
    """What the engine gives to a session that is alone: outputs `[T, ...]` and the last state, by name."""
    spec, inputs, given = shown.directory.spec, shown.inputs(steps, seed), []
    first = begun(spec, shown.directory.initial_state, shown.given(seed))
    state = [array[np.newaxis] for array in first]
    for at in range(steps):
        outputs, state = shown.engine.run([inputs[one.name][at : at + 1] for one in spec.inputs], state)
        given.append([array[0] for array in outputs])
    return (
        {one.name: np.stack(rows) for one, rows in zip(spec.outputs, zip(*given, strict=True), strict=True)},
        {one.name: array[0] for one, array in zip(spec.state, state, strict=True)},
    )


def test_torch_and_the_graph_are_the_same_function_and_the_server_gives_the_graphs_bits(shown, client):
    directory = shown.directory
    tolerance = directory.manifest.verification.tolerance
    parity = one_step_parity(
        torch_rows(shown.source.step, directory.spec),
        shown.engine.run,
        spec=directory.spec,
        initial=directory.initial_state,
        examples=shown.source.example_inputs,
        given=shown.given,
        tolerance=tolerance,
        batch_sizes=(2, 7),
        steps=24,
    )
    assert parity.error_max <= tolerance <= 2e-5

    outputs, state = by_engine(shown, 5, 24)
    with opened(client, shown, 5) as session:
        assert bits(outputs_of(session, shown.inputs(24, 5))) == bits(outputs)
        assert bits(session.state()) == bits(state)


def test_a_session_has_the_same_bits_in_any_company(shown, client):
    assert client.model(shown.name).batch_independence.holds

    def stepped(seed):
        with opened(client, shown, seed) as session:
            return bits(outputs_of(session, shown.inputs(STEPS, seed))), bits(session.state())

    with ThreadPoolExecutor(SESSIONS) as pool:
        together = list(pool.map(stepped, range(SESSIONS)))
    for seed in range(0, SESSIONS, 13):
        outputs, state = by_engine(shown, seed, STEPS)
        assert together[seed] == (bits(outputs), bits(state))


def test_sessions_that_saw_different_things_differ(shown, client):
    """Or the suite would say nothing of a state that nothing is written to."""
    ends = []
    for seed in (0, 1):
        with opened(client, shown, 0) as session:
            session.step(shown.inputs(STEPS, seed))
            ends.append(bits(session.state()))
    assert ends[0] != ends[1]


def test_the_golden_run_comes_back_through_the_server(shown, client):
    spec, golden = shown.directory.spec, shown.directory.golden
    with opened(client, shown, 0) as session:
        outputs = outputs_of(session, {one.name: array for one, array in zip(spec.inputs, golden.inputs, strict=True)})
        state = session.state()
    for one, array in zip(spec.outputs, golden.outputs, strict=True):
        np.testing.assert_allclose(outputs[one.name], array, rtol=0, atol=GOLDEN_TOLERANCE, err_msg=one.name)
    for one, array in zip(spec.state, golden.state, strict=True):
        np.testing.assert_allclose(state[one.name], array[-1], rtol=0, atol=GOLDEN_TOLERANCE, err_msg=one.name)
        assert str(state[one.name].dtype) == one.dtype


@pytest.mark.parametrize("at", [0, 1, 17])
def test_a_session_that_is_restored_goes_on_with_the_same_bits(shown, client, at):
    inputs = shown.inputs(32, 3)
    with opened(client, shown, 3) as session:
        if at:
            session.step(cut(inputs, at))
        with client.restore(session.snapshot().data) as restored:
            assert restored.next_step == at
            assert bits(restored.state()) == bits(session.state())
            assert bits(outputs_of(restored, cut(inputs, at, 32))) == bits(outputs_of(session, cut(inputs, at, 32)))
            assert bits(restored.state()) == bits(session.state())


def test_ten_thousand_steps_of_what_the_task_gives_leave_every_number_finite(shown, client):
    inputs = shown.inputs(LONG_RUN, 8)
    with opened(client, shown, 8) as session:
        for start in range(0, LONG_RUN, STEPS_A_MESSAGE):
            outputs = outputs_of(session, cut(inputs, start, start + STEPS_A_MESSAGE))
            assert all(np.isfinite(array).all() for array in outputs.values())
        assert session.next_step == LONG_RUN
        assert all(np.isfinite(array).all() for array in session.state().values())
