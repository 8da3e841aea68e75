"""The proof: equal functions pass, another function is refused by tensor, batch and step."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from exporter.steps import Cell, ntm_source, source_of
from torch import Tensor

from ntm_exporter import trace as tracing
from ntm_exporter.candidate import Candidate, make_candidate
from ntm_exporter.errors import NonFiniteFault, ParityFault, ScoreFault
from ntm_exporter.export import Options, prove
from ntm_exporter.source import TaskExample
from ntm_exporter.verify import (
    GOLDEN_BYTES_MAX,
    engine_rows,
    free_drift,
    golden_steps,
    one_step_parity,
    score,
    torch_rows,
)
from ntm_models.tasks import Copy, DynamicNGrams
from ntm_serve.engine import RunRows
from ntm_serve.spec import Array, StateSpec, StepSpec, TensorSpec

OPTIONS = Options(out=Path("unused"))


class Weighting(Cell):
    """h is a weighting, normalised with an epsilon that is all there is where the input is zero."""

    def following(self, x: Tensor, h: Tensor) -> Tensor:
        weighting = torch.relu(self.cell(x, h)) * (x.abs().sum(dim=1, keepdim=True) > 0)
        return weighting / (weighting.sum(dim=1, keepdim=True) + 1e-16)

    def example_inputs(self, steps: int, seed: int) -> dict[str, Any]:
        inputs = super().example_inputs(steps, seed)
        inputs["x"][::3] = 0
        return inputs


class Sharpened(Cell):
    """h is a weighting, sharpened by up to the 75th power."""

    def example_inputs(self, steps: int, seed: int) -> dict[str, Any]:
        return {"x": np.full((steps, 3), 75 if seed else 1, np.float32)}

    def initial_state(self) -> dict[str, Any]:
        return {"h": torch.full((4,), 0.25)}


class SharpenedByPower(Sharpened):
    def following(self, x: Tensor, h: Tensor) -> Tensor:
        raised = h ** x[:, :1]
        return raised / raised.sum(dim=1, keepdim=True)


class SharpenedByLogarithm(Sharpened):
    def following(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.softmax(x[:, :1] * torch.log(h + 1e-6), dim=1)


def sides(candidate: Candidate) -> tuple[RunRows, RunRows]:
    """The step in torch, and its graph on the engine."""
    actual = engine_rows(candidate.in_memory(), name="model", version="1")
    return torch_rows(candidate.source.step, candidate.spec), actual


@pytest.mark.parametrize("controller", ["feed-forward", "gru", "lstm"])
@pytest.mark.parametrize("heads", [{}, {"read_heads": 2, "write_heads": 2}], ids=["one head", "two heads"])
def test_a_ntm_is_the_same_function_in_torch_and_on_the_engine(controller: str, heads: dict[str, int]) -> None:
    candidate = make_candidate(ntm_source(controller, **heads))

    proof = prove(candidate, OPTIONS)

    assert proof.parity.batch_sizes == (1, 2, 7, 64)
    assert 0 < proof.parity.error_max <= 1e-5
    assert proof.drift.steps == 1_000


@pytest.mark.parametrize("tensor", ["y", "next h"])
def test_a_graph_of_other_weights_is_refused_by_tensor_batch_and_step(tensor: str) -> None:
    class Reads(Cell):
        """Two tensors with weights of their own."""

        def __init__(self) -> None:
            super().__init__()
            self.scales = torch.nn.ParameterDict({"y": torch.ones(4), "next h": torch.ones(4)})

        def forward(self, inputs: Any, state: Any) -> Any:
            h = self.cell(inputs["x"], state["h"])
            return {"y": h * self.scales["y"]}, {"h": h * self.scales["next h"]}

    step = Reads()
    candidate = make_candidate(source_of(step))
    with torch.no_grad():
        step.scales[tensor].mul_(1.001)

    with pytest.raises(
        ParityFault, match=rf"^{tensor}: batch of 1, step 0: expected torch's values within 1e-05, got 0"
    ):
        prove(candidate, OPTIONS)


def test_a_difference_in_one_batch_size_alone_is_found() -> None:
    candidate = make_candidate(source_of(Cell()))
    wanted, actual = sides(candidate)

    def wrong_at_seven(inputs: Sequence[Array], state: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        outputs, following = actual(inputs, state)
        return outputs, [array + np.float32(2e-5 if len(array) == 7 else 0) for array in following]

    with pytest.raises(ParityFault, match="next h: batch of 7, step 0"):
        one_step_parity(
            wanted, wrong_at_seven, spec=candidate.spec, initial=candidate.initial,
            examples=candidate.examples, tolerance=1e-5,
        )  # fmt: skip


def test_an_output_of_another_shape_is_refused_even_where_it_broadcasts() -> None:
    candidate = make_candidate(source_of(Cell()))
    wanted, actual = sides(candidate)

    def narrow(inputs: Sequence[Array], state: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        outputs, following = actual(inputs, state)
        return [outputs[0][:, :1]], following

    with pytest.raises(
        ParityFault, match=r"y: batch of 1, step 0: expected torch's float32\[1, 4\], got float32\[1, 1\]"
    ):
        one_step_parity(
            wanted, narrow, spec=candidate.spec, initial=candidate.initial, examples=candidate.examples, tolerance=1e-5
        )


def test_a_small_epsilon_survives() -> None:
    candidate = make_candidate(source_of(Weighting()))

    prove(candidate, OPTIONS)

    constants = [onnx.numpy_helper.to_array(one) for one in constants_of(candidate.traced.model)]
    assert any(one.size == 1 and 0 < float(one.flat[0]) < 1e-15 for one in constants if one.dtype == np.float32)


def test_an_exporter_that_deletes_a_small_epsilon_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxscript.optimizer import optimize_ir

    def everything(model: Any) -> Any:
        optimize_ir(model)
        return model

    monkeypatch.setattr(tracing, "_simplified", everything)
    candidate = make_candidate(source_of(Weighting()))

    with pytest.raises(NonFiniteFault, match=r"y: batch of 1, step 0, the server's engine: .* got nan"):
        prove(candidate, OPTIONS)


def test_a_sharpening_that_underflows_is_refused_by_tensor_and_step() -> None:
    class Late(SharpenedByPower):
        """Even weightings are raised; their 75th powers are below what float32 holds."""

        def example_inputs(self, steps: int, seed: int) -> dict[str, Any]:
            return {"x": np.where(np.arange(steps)[:, None] < 5, 1, 75).astype(np.float32).repeat(3, axis=1)}

    with pytest.raises(NonFiniteFault, match="y: golden run, step 5, torch: expected finite numbers, got nan in row 0"):
        make_candidate(source_of(Late()))


def test_a_sharpening_that_underflows_in_some_session_is_refused() -> None:
    candidate = make_candidate(source_of(SharpenedByPower()))

    with pytest.raises(NonFiniteFault, match="y: batch of 2, step 0, torch: expected finite numbers, got nan in row 1"):
        prove(candidate, OPTIONS)


def test_a_sharpening_by_logarithms_survives() -> None:
    proof = prove(make_candidate(source_of(SharpenedByLogarithm())), OPTIONS)

    assert proof.parity.error_max <= 1e-5


def test_a_free_run_that_leaves_the_finite_numbers_is_reported_and_not_refused() -> None:
    class Grows(Cell):
        def following(self, x: Tensor, h: Tensor) -> Tensor:
            return h * 2 + 1

    proof = prove(make_candidate(source_of(Grows())), OPTIONS)

    assert proof.drift.error_max is None
    assert proof.drift.steps == 127


def test_drift_is_measured_on_each_sides_own_state() -> None:
    candidate = make_candidate(source_of(Cell()))
    wanted, _ = sides(candidate)

    def leaning(inputs: Sequence[Array], state: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        return wanted(inputs, [array + np.float32(1e-4) for array in state])

    drift = free_drift(wanted, leaning, spec=candidate.spec, initial=candidate.initial, examples=candidate.examples)

    assert drift.error_max is not None
    assert drift.error_max > 1e-4


SCORE_SPEC = StepSpec((TensorSpec("x", "float32", (4,)),), (TensorSpec("y", "float32", (3,)),), ())


def constant(value: float) -> RunRows:
    """A step that always answers one value."""
    return lambda inputs, state: ([np.full((len(inputs[0]), 3), value, np.float32)], [])


def scored(wanted: RunRows, actual: RunRows) -> Any:
    return score(wanted, actual, spec=SCORE_SPEC, initial=(), task=Copy(bits=3), length=4, sequences=60)


def test_equal_scores_are_written_down() -> None:
    entry = scored(constant(0.0), constant(0.2)).entry

    episodes = Copy(bits=3).episodes(length=4, sequences=60, seed=entry.seed)
    assert entry.wrong_bits_torch == entry.wrong_bits_engine == episodes.y[:, 5:].sum() / 60
    assert entry.exact_engine == 0


def test_a_score_that_differs_is_refused_by_length_and_sequence() -> None:
    with pytest.raises(ScoreFault, match=r"task of length 4, sequence \d+: expected torch's \d+ wrong bits, got \d+"):
        scored(constant(0.0), constant(1.0))


def test_bits_too_near_to_the_threshold_are_counted_and_may_differ() -> None:
    result = scored(constant(0.50001), constant(0.49999))

    assert result.undecided == 60 * 4 * 3
    assert result.entry.wrong_bits_torch != result.entry.wrong_bits_engine


def test_a_task_of_chance_is_scored_by_its_cost_beside_the_optimum() -> None:
    spec = StepSpec((TensorSpec("x", "float32", (1,)),), (TensorSpec("y", "float32", (1,)),), ())

    def guessing(inputs: Sequence[Array], state: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        return [np.full((len(inputs[0]), 1), 0.5, np.float32)], []

    entry = score(guessing, guessing, spec=spec, initial=(), task=DynamicNGrams(), length=50, sequences=9).entry

    assert entry.cost_bits_engine == 45  # 45 predictions, each a bit by coin.
    assert entry.cost_bits_optimal is not None
    assert 20 < entry.cost_bits_optimal < 45
    assert entry.score_engine == 45 - entry.cost_bits_optimal
    assert scored(constant(0.0), constant(0.0)).entry.cost_bits_engine is None


def test_the_score_of_a_graph_that_forgets_is_refused() -> None:
    candidate = make_candidate(replace(ntm_source("feed-forward"), scored=Copy(bits=3)))
    wanted, actual = sides(candidate)

    def inverted(inputs: Sequence[Array], state: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        outputs, following = actual(inputs, state)
        return [1 - outputs[0]], following

    with pytest.raises(ScoreFault):
        score(
            wanted, inverted, spec=candidate.spec, initial=candidate.initial, task=Copy(bits=3), length=5, sequences=3
        )


def test_a_golden_run_is_shorter_where_the_state_is_large() -> None:
    def spec_of(numbers: int) -> StepSpec:
        return replace(SCORE_SPEC, state=(StateSpec("memory", "float32", (numbers,)),))

    assert golden_steps(SCORE_SPEC) == 32
    assert golden_steps(spec_of(GOLDEN_BYTES_MAX // 4 // 10)) == 10
    assert golden_steps(spec_of(GOLDEN_BYTES_MAX)) == 4


@pytest.mark.parametrize("steps", [1, 2, 32, 41, 100])
def test_a_tasks_example_fills_exactly_the_steps_asked_for(steps: int) -> None:
    example = TaskExample(Copy(bits=3))

    assert example(steps, 1)["x"].shape == (steps, 4)
    assert np.array_equal(example(steps, 1)["x"], example(steps, 1)["x"])


def constants_of(model: bytes) -> list[Any]:
    graph = onnx.load_from_string(model).graph
    nodes = [
        one.t for node in graph.node if node.op_type == "Constant" for one in node.attribute if one.name == "value"
    ]
    return [*graph.initializer, *nodes]


LEVEL = StepSpec(
    inputs=(TensorSpec("x", "float32", (1,)),),
    outputs=(TensorSpec("y", "float32", (1,)),),
    state=(StateSpec("level", "float32", (1,)),),
)


def level_run(error: float, *, from_level: float = 0.0) -> RunRows:
    """level' = level + 1/128, so below 1 where differences are absolute; off by `error` from `from_level` on."""

    def run(inputs: Sequence[Array], state: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        following = state[0] + 1 / 128 + np.where(state[0] >= from_level, error, 0)
        return [state[0]], [following.astype(np.float32)]

    return run


def level_parity(actual: RunRows) -> Any:
    return one_step_parity(
        level_run(0.0),
        actual,
        spec=LEVEL,
        initial=(np.zeros(1, np.float32),),
        examples=lambda steps, seed: {"x": np.zeros((steps, 1), np.float32)},
        tolerance=1e-2,
    )


def test_each_step_is_compared_from_torchs_own_state():
    def wrong_off_the_path(inputs: Sequence[Array], state: Sequence[Array]) -> tuple[list[Array], list[Array]]:
        """A little off on torch's path, which goes in steps of 1/128, and far off beside it."""
        on_path = np.abs(state[0] * 128 - np.round(state[0] * 128)) < 1e-3
        outputs, following = level_run(0.0)(inputs, state)
        return outputs, [following[0] + np.where(on_path, np.float32(0.003), np.float32(0.5))]

    assert level_parity(wrong_off_the_path).error_max == pytest.approx(0.003, abs=1e-6)


def test_a_difference_that_shows_only_late_in_a_run_is_found():
    with pytest.raises(ParityFault, match="step 60"):
        level_parity(level_run(0.5, from_level=60 / 128))


class Recalls(Cell):
    """What its sessions are given, and never what they begin with by themselves, decides what is seen of a fault."""

    fault = 0.0

    def following(self, x: Tensor, h: Tensor) -> Tensor:
        return h + self.fault * h.abs()

    def example_state(self, seed: int) -> dict[str, Any]:
        return {"h": np.random.default_rng(seed).normal(size=4).astype(np.float32)}


def test_the_proof_begins_where_sessions_do_with_what_each_is_given() -> None:
    step = Recalls()
    candidate = make_candidate(source_of(step, example_state=step.example_state))
    np.testing.assert_array_equal(candidate.golden.state[0][0], step.example_state(0)["h"])
    np.testing.assert_array_equal(candidate.initial[0], np.zeros(4, np.float32))
    assert prove(candidate, OPTIONS).parity.error_max == 0
    step.fault = 1e-3
    with pytest.raises(ParityFault, match="y: batch of 1, step 0"):
        prove(candidate, OPTIONS)
