"""Tracing: what has a graph of any batch size gets one, and the known traps end in a refusal."""

from typing import Any

import onnx
import onnxruntime as ort
import pytest
import torch
from exporter.steps import Cell, ntm_source, source_of
from torch import Tensor

from ntm_exporter.candidate import make_candidate
from ntm_exporter.errors import TraceFault
from ntm_exporter.source import Source
from ntm_exporter.trace import BATCH_AXIS, OPSET, graph_names
from ntm_models.ntm import NTM, NTMOptions
from ntm_models.tasks import Copy
from ntm_serve.spec import StateSpec, StepSpec, TensorSpec


def model_of(source: Source) -> Any:
    return onnx.load_from_string(make_candidate(source).traced.model)


def axes(values: Any) -> dict[str, list[Any]]:
    return {one.name: [axis.dim_param or axis.dim_value for axis in one.type.tensor_type.shape.dim] for one in values}


class LoopsOverTheBatch(Cell):
    def following(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.cat([self.cell(x[row : row + 1], h[row : row + 1]) for row in range(len(x))])


class KnowsTheBatch(Cell):
    def following(self, x: Tensor, h: Tensor) -> Tensor:
        return self.cell(x, h).reshape(len(x) if not torch.compiler.is_exporting() else 3, 4)


class MakesABatch(Cell):
    def following(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.ones(3, 4) if torch.compiler.is_exporting() else torch.ones(len(x), 4)


class BranchesOnTheBatch(Cell):
    def following(self, x: Tensor, h: Tensor) -> Tensor:
        return self.cell(x, h) if len(x) < 5 else h


class BranchesOnData(Cell):
    def following(self, x: Tensor, h: Tensor) -> Tensor:
        return self.cell(x, h) if x.sum() < 1e9 else h


class CumulativeProduct(Cell):
    def following(self, x: Tensor, h: Tensor) -> Tensor:
        return torch.cumprod(self.cell(x, h), dim=1)


@pytest.mark.parametrize("step", [LoopsOverTheBatch, KnowsTheBatch, MakesABatch, BranchesOnTheBatch])
def test_a_step_that_freezes_the_batch_is_refused(step: type[Cell]) -> None:
    with pytest.raises(TraceFault, match="batch"):
        make_candidate(source_of(step()))


def test_a_tensor_of_the_examples_batch_size_is_refused_by_name() -> None:
    with pytest.raises(TraceFault, match=r"y: expected a symbolic batch axis, got shape \['3', '4'\]"):
        make_candidate(source_of(MakesABatch()))


@pytest.mark.parametrize("step", [BranchesOnData, CumulativeProduct])
def test_what_has_no_graph_is_refused_with_what_torch_says(step: type[Cell]) -> None:
    with pytest.raises(TraceFault, match=r"torch refuses: \w+: \w+"):
        make_candidate(source_of(step()))


def test_every_input_and_output_has_the_same_symbolic_batch_axis() -> None:
    graph = model_of(ntm_source("lstm")).graph

    shapes = [*axes(graph.input).values(), *axes(graph.output).values()]
    assert len(shapes) == 14
    assert {shape[0] for shape in shapes} == {BATCH_AXIS}
    assert all(isinstance(axis, int) for shape in shapes for axis in shape[1:])


def test_the_graph_has_the_names_of_the_step() -> None:
    graph = model_of(source_of(Cell())).graph

    assert [one.name for one in graph.input] == ["x", "h"]
    assert [one.name for one in graph.output] == ["y", "next_h"]


def test_a_state_never_takes_a_name_that_an_input_or_output_has() -> None:
    spec = StepSpec(
        inputs=(TensorSpec("h", "float32", (1,)),),
        outputs=(TensorSpec("next_h", "float32", (1,)),),
        state=(StateSpec("h", "float32", (1,)), StateSpec("c", "float32", (1,))),
    )

    names = graph_names(spec)

    assert names.state_inputs == ("h_", "c")
    assert names.state_outputs == ("next_h_", "next_c")


def test_names_that_torch_gives_to_its_own_tensors_are_free_for_the_step() -> None:
    class Named(Cell):
        def forward(self, inputs: Any, state: Any) -> Any:
            h = torch.sigmoid(torch.tanh(inputs["x"] @ torch.ones(3, 4)) + state["tanh"])
            return {"sigmoid": h + 1, "add": h}, {"tanh": h}

        def initial_state(self) -> Any:
            return {"tanh": torch.zeros(4)}

    graph = model_of(source_of(Named())).graph

    assert [one.name for one in graph.output] == ["sigmoid", "add", "next_tanh"]


def test_state_that_passes_through_or_is_never_read_keeps_its_place() -> None:
    class Passes(Cell):
        def initial_state(self) -> Any:
            return {"h": torch.zeros(4), "constant": torch.ones(2), "count": torch.zeros((), dtype=torch.int64)}

        def forward(self, inputs: Any, state: Any) -> Any:
            y = self.cell(inputs["x"], torch.zeros_like(state["h"]))
            return {"y": y}, {"h": y, "constant": state["constant"], "count": state["count"] + 1}

    graph = model_of(source_of(Passes())).graph

    assert axes(graph.input)["count"] == [BATCH_AXIS]
    assert [one.name for one in graph.output] == ["y", "next_h", "next_constant", "next_count"]


def test_a_callable_that_is_no_module_has_a_graph() -> None:
    class Plain:
        initial_state = Cell.initial_state
        example_inputs = Cell.example_inputs
        weights = torch.ones(3, 4)

        def __call__(self, inputs: Any, state: Any) -> Any:
            h = torch.tanh(inputs["x"] @ self.weights + state["h"])
            return {"y": h}, {"h": h}

    assert len(model_of(source_of(Plain())).graph.node) > 0


def test_the_same_step_gives_the_same_bytes_and_none_of_where_it_was_made() -> None:
    first = make_candidate(ntm_source("gru")).traced.model
    again = make_candidate(ntm_source("gru")).traced.model

    assert first == again
    assert b".py" not in first


def test_the_model_is_self_contained_and_says_its_opset() -> None:
    candidate = make_candidate(source_of(Cell()))
    model = onnx.load_from_string(candidate.traced.model)

    assert [(one.domain, one.version) for one in model.opset_import] == [("", OPSET)]
    assert candidate.traced.opset == OPSET
    assert all(one.data_location == onnx.TensorProto.DEFAULT for one in model.graph.initializer)


# What onnxruntime runs of the 128x20 machine. A step's cost on one row is mostly the number of its nodes.
@pytest.mark.parametrize(("controller", "nodes_max"), [("feed-forward", 58), ("gru", 67), ("lstm", 68)])
def test_the_optimised_graph_of_a_ntm_stays_small(controller: str, nodes_max: int, tmp_path: Any) -> None:
    task = Copy()
    step = NTM(NTMOptions(inputs=task.inputs, outputs=task.outputs, controller=controller)).eval()
    source = ntm_source(controller)
    model = make_candidate(Source("ntm", step, type(source.example_inputs)(task))).traced.model  # type: ignore[call-arg]
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")

    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    assert len(onnx.load(options.optimized_model_filepath).graph.node) <= nodes_max
