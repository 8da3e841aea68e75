"""The families that are made of an NTM's parts: who sees what, in which order."""

import numpy as np
import pytest
import torch

from ntm_models.families.cascaded import CascadedNTM, CascadedOptions
from ntm_models.families.gru_ntm import GRUNTM, GRUNTMOptions
from ntm_models.families.speaker_memory import SpeakerMemory, SpeakerMemoryOptions


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(11)


def begun(step, rows=2):
    return {name: value.detach().expand(rows, *value.shape) for name, value in step.initial_state().items()}


def cascaded():
    return CascadedNTM(CascadedOptions(inputs=4, feedback=6, outputs=3, slots=5, width=7))


def test_the_first_stage_of_a_cascade_does_not_see_what_is_said_and_the_second_sees_both():
    step = cascaded()
    x, feedback = torch.rand(2, 4), torch.rand(2, 6)
    once, first = step({"x": x, "feedback": feedback}, begun(step))
    otherwise_said, second = step({"x": x, "feedback": torch.rand(2, 6)}, begun(step))
    otherwise_shown, third = step({"x": torch.rand(2, 4), "feedback": feedback}, begun(step))
    assert torch.equal(first["x_memory"], second["x_memory"])
    assert not torch.equal(first["x_memory"], third["x_memory"])
    for other, state in ((otherwise_said, second), (otherwise_shown, third)):
        assert not torch.equal(once["y"], other["y"])
        assert not torch.equal(first["feedback_memory"], state["feedback_memory"])


def test_a_cascade_is_its_stages_one_after_the_other():
    step = cascaded()
    x, feedback, state = torch.rand(2, 4), torch.rand(2, 6), begun(step)
    of_stage = {
        stage: {name.removeprefix(stage): value for name, value in state.items() if name.startswith(stage)}
        for stage in ("x_", "feedback_")
    }
    passed, _ = step.shown.logits({"x": x}, of_stage["x_"])
    wanted, _ = step.said({"x": torch.cat([feedback, torch.tanh(passed)], dim=1)}, of_stage["feedback_"])
    torch.testing.assert_close(step({"x": x, "feedback": feedback}, state)[0]["y"], wanted["y"])


def test_a_gru_ntm_is_a_gru_and_then_an_ntm_and_the_ntm_sees_the_input_through_the_gru_alone():
    step = GRUNTM(GRUNTMOptions(inputs=4, outputs=3))
    x, state = torch.rand(2, 4), begun(step)
    h, _ = step.gru(x, {"controller_h": state["gru_h"]})
    wanted, memory = step.ntm({"x": h}, state)
    given, following = step({"x": x}, state)
    torch.testing.assert_close(given["y"], wanted["y"])
    torch.testing.assert_close(following, {"gru_h": h, **memory})


def test_the_speakers_are_passed_on_bit_for_bit_and_the_m_vector_is_a_mean_of_them_by_cosine():
    step = SpeakerMemory(SpeakerMemoryOptions(inputs=4, outputs=3, speakers=5, width=6))
    state = begun(step) | {"speakers": torch.randn(2, 5, 6)}
    with torch.no_grad():
        _, following = step({"x": torch.rand(2, 4)}, state)
        key, strength = step.key(following["encoder_h"]).split([6, 1], dim=1)
    assert torch.equal(following["speakers"], state["speakers"])
    for row in range(2):
        k, beta = key[row].numpy(), 1 + np.log1p(np.exp(strength[row, 0].numpy()))
        rows = state["speakers"][row].numpy()
        scores = np.exp([beta * (k @ one) / (np.linalg.norm(k) * np.linalg.norm(one)) for one in rows])
        np.testing.assert_allclose(following["read_weighting"][row, 0].numpy(), scores / scores.sum(), rtol=1e-4)


def test_whom_the_memory_holds_changes_what_is_heard():
    step = SpeakerMemory(SpeakerMemoryOptions(inputs=4, outputs=3, speakers=5, width=6))
    state = begun(step)
    x = torch.rand(2, 4)
    given = step({"x": x}, state | {"speakers": torch.randn(2, 5, 6)})[0]["y"]
    assert not torch.allclose(given, step({"x": x}, state)[0]["y"], atol=1e-3)


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="slots: expected at least 1, got 0"):
        CascadedOptions(inputs=1, feedback=1, outputs=1, slots=0)
    with pytest.raises(ValueError, match="gru_size: expected at least 1, got 0"):
        GRUNTMOptions(inputs=1, outputs=1, gru_size=0)
    with pytest.raises(ValueError, match="speakers: expected at least 1, got 0"):
        SpeakerMemoryOptions(inputs=1, outputs=1, speakers=0, width=1)
