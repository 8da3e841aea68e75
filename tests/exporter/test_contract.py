"""The step contract: what keeps it is described, what breaks it is named."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from exporter.steps import Cell, ntm_source
from torch import Tensor

from ntm_exporter.contract import examined, expect_step
from ntm_exporter.errors import ContractFault
from ntm_serve.spec import StateSpec, TensorSpec

SPAN = {"x": np.zeros((2, 3), np.float32)}


class KeptOnTheModule(Cell):
    kept: Any = 0.0

    def following(self, x: Tensor, h: Tensor) -> Tensor:
        self.kept = self.kept + 1
        return super().following(x, h) + self.kept


class InPlace(Cell):
    def following(self, x: Tensor, h: Tensor) -> Tensor:
        return h.add_(1)


class Random(Cell):
    def following(self, x: Tensor, h: Tensor) -> Tensor:
        return h + torch.rand_like(h)


class MixesRows(Cell):
    def following(self, x: Tensor, h: Tensor) -> Tensor:
        return super().following(x - x.mean(dim=0), h)


class Fails(Cell):
    def following(self, x: Tensor, h: Tensor) -> Tensor:
        return self.cell(x[:, :2], h)


def with_initial(**state: Any) -> Cell:
    step = Cell()
    step.initial_state = lambda: state  # type: ignore[method-assign]
    return step


def with_reply(reply: Callable[[Tensor], Any]) -> Cell:
    step = Cell()
    step.forward = lambda inputs, state: reply(step.cell(inputs["x"], state["h"]))  # type: ignore[method-assign]
    return step


def with_example(example: Callable[[int, int], Any]) -> Cell:
    step = Cell()
    step.example_inputs = example  # type: ignore[method-assign]
    return step


def test_the_spec_is_read_off_the_step() -> None:
    step = Cell()

    spec = examined(step, step.example_inputs, {"h": "controller"})

    assert spec.inputs == (TensorSpec("x", "float32", (3,)),)
    assert spec.outputs == (TensorSpec("y", "float32", (4,)),)
    assert spec.state == (StateSpec("h", "float32", (4,), "controller"),)


def test_a_ntm_keeps_the_contract() -> None:
    source = ntm_source("lstm")

    spec = examined(source.step, source.example_inputs, {})

    assert [one.name for one in spec.state][:2] == ["memory", "read_weighting"]


def test_a_step_without_state_keeps_the_contract() -> None:
    step = with_initial()
    step.forward = lambda inputs, state: ({"y": inputs["x"] * 2}, {})  # type: ignore[method-assign]

    assert examined(step, step.example_inputs, {}).state == ()


def test_an_object_without_the_methods_is_refused_by_the_names_of_those_it_lacks() -> None:
    with pytest.raises(ContractFault, match=r"got a Linear without initial_state\(\), example_inputs\(steps, seed\)"):
        expect_step(torch.nn.Linear(1, 1), needs_example=True)


BROKEN = {
    "next state's shape": (
        with_reply(lambda h: ({"y": h}, {"h": h[:, :2]})),
        r"h: expected float32\[2, 4\], got float32\[2, 2\]",
    ),
    "next state's dtype": (
        with_reply(lambda h: ({"y": h}, {"h": h.double()})),
        r"h: expected float32\[2, 4\], got float64",
    ),
    "next state's names": (with_reply(lambda h: ({"y": h}, {"c": h})), r"next state: expected \['h'\], got \['c'\]"),
    "no pair": (with_reply(lambda h: h), r"expected a tuple of 2, \(outputs, next state\), got a Tensor"),
    "three": (with_reply(lambda h: ({}, {}, h)), "expected a tuple of 2, .* got a tuple of 3"),
    "no dictionary": (
        with_reply(lambda h: (h, {"h": h})),
        "outputs: expected a dictionary of tensors by name, got a Tensor",
    ),
    "no tensor": (with_reply(lambda h: ({"y": 1.0}, {"h": h})), "outputs: y: expected a tensor, got a float"),
    "no rows": (
        with_reply(lambda h: ({"y": h.mean()}, {"h": h})),
        r"outputs: y: expected \[2, ...\] for 2 rows, got \[\]",
    ),
    "a name twice": (with_reply(lambda h: ({"x": h}, {"h": h})), r"expected names that no input has, got \['x'\]"),
    "a bad name": (with_reply(lambda h: ({"the y": h}, {"h": h})), "got 'the y'"),
    "a dtype without numpy": (with_initial(h=torch.zeros(4, dtype=torch.bfloat16)), "initial_state: h: .*BFloat16"),
    "a complex state": (with_initial(h=torch.zeros(4, dtype=torch.complex64)), "h: expected a dtype of"),
    "an empty axis": (with_initial(h=torch.zeros(0)), "h: expected every axis to be at least 1"),
    "an initial NaN": (with_initial(h=torch.tensor([0, float("nan"), 0, 0])), r"initial_state: h: .* got nan at \[1\]"),
    "an initial array": (with_initial(h=np.zeros(4)), "initial_state: h: expected a tensor, got a ndarray"),
    "a short example": (
        with_example(lambda steps, seed: {"x": np.zeros((1, 3))}),
        r"expected shape \[2, ...\], got \[1, 3\]",
    ),
    "an example with infinity": (
        with_example(lambda steps, seed: {"x": SPAN["x"] + np.inf}),
        "example_inputs: x: .* got inf",
    ),
    "an example without a seed": (
        with_example(lambda steps, seed: {"x": np.random.default_rng().normal(size=(steps, 3))}),
        "expected the same arrays for the same seed",
    ),
    "state on the module": (KeptOnTheModule(), "outputs: y: expected the same values from the same inputs and state"),
    "random numbers": (Random(), "outputs: y: expected the same values from the same inputs and state"),
    "written in place": (InPlace(), "state: h: expected the step to leave it as it was"),
    "rows mixed": (MixesRows(), "outputs: y: expected a row not to depend on the other rows"),
    "an exception": (Fails(), r"step: failed on x \[2, 3\], h \[2, 4\]: RuntimeError"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_step_that_breaks_the_contract_is_refused_by_name(broken: str) -> None:
    step, message = BROKEN[broken]

    with pytest.raises(ContractFault, match=message):
        examined(step, step.example_inputs, {})


def test_a_role_of_an_unknown_state_is_refused() -> None:
    step = Cell()

    with pytest.raises(ContractFault, match=r"roles: expected names of the state, \['h'\], got \['memory'\]"):
        examined(step, step.example_inputs, {"memory": "memory"})


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"h": ("slots", "")}, r'axes: h: expected a name or "" for each axis of \[4\], 1 in all, got'),
        ({"h": ()}, "axes: h: expected a name"),
        ({"h": "slots"}, "1 in all, got 'slots'"),
        ({"k": ("slots",)}, r"axes: expected names of the state, \['h'\], got 'k'"),
    ],
)
def test_names_of_axes_must_be_those_of_the_state_though_nobody_chooses_sizes(axes: Any, message: str) -> None:
    step = Cell()
    step.axes = axes

    with pytest.raises(ContractFault, match=message):
        examined(step, step.example_inputs, {})


def test_a_step_that_fails_later_than_at_first_is_refused() -> None:
    class Tires(Cell):
        calls = 0

        def following(self, x: Tensor, h: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > 2:
                raise ValueError("no more")
            return super().following(x, h)

    step = Tires()
    with pytest.raises(ContractFault, match=r"step: failed on x \[2, 3\], h \[2, 4\]: ValueError: no more"):
        examined(step, step.example_inputs, {})


def test_what_sessions_are_given_must_be_state_of_the_steps_dtype_and_shape() -> None:
    step = Cell()
    for given, message in [
        ({"k": np.zeros(4, np.float32)}, r"example_state: expected names of the state, \['h'\], got 'k'"),
        ({"h": np.zeros(4)}, r"example_state: h: expected float32\[4\], got float64\[4\]"),
        ({"h": np.zeros(5, np.float32)}, r"example_state: h: expected float32\[4\], got float32\[5\]"),
        ({"h": np.full(4, np.nan, np.float32)}, "example_state: h"),
    ]:
        with pytest.raises(ContractFault, match=message):
            examined(step, step.example_inputs, {}, example_state=lambda seed, given=given: given)


def test_a_step_that_fails_on_what_its_sessions_are_given_is_refused() -> None:
    class Picky(Cell):
        def following(self, x: Tensor, h: Tensor) -> Tensor:
            if h.any():
                raise ValueError("a state that is not zero")
            return h

    step = Picky()
    with pytest.raises(ContractFault, match="a state that is not zero"):
        examined(step, step.example_inputs, {}, example_state=lambda seed: {"h": np.ones(4, np.float32)})
