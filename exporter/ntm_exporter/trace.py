"""From a step to ONNX bytes whose batch size is free, or a refusal.

Rules of this file:
- torch.export is asked itself, because torch.onnx.export answers its refusal of a free batch with
  other ways that freeze the batch and report success;
- of the exporter's optimisations only those run that never compare a number with another: inlining,
  constant folding, common subexpressions, and shapes made constant. The full set takes an epsilon of
  1e-8 for zero and deletes it. ONNX Runtime optimises when it loads;
- the same step gives the same bytes: no stack traces, no paths, names of our own.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes import common as passes
from onnxscript.optimizer import fold_constants
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules.common import materialize_reshape_shape_rule
from torch import Tensor, nn

from ntm_exporter.contract import Step
from ntm_exporter.errors import TraceFault
from ntm_exporter.ranges import found_ranges
from ntm_serve.spec import Array, Range, StateSpec, StepSpec

# Every onnxruntime that the server accepts has it, and every torch that the exporter accepts writes it.
OPSET = 20

# More than one, because torch takes 0 and 1 for constants; any other would do.
ROWS = 3

BATCH_AXIS = "batch"

# Of an axis whose size may be chosen torch is promised no less: it would refuse what is another layout for one or two
# alone. The graph is compared with the step at the least size as well.
TRACED_SIZE_MIN = 3


@dataclass(frozen=True)
class GraphNames:
    """The names of a step's tensors in its graph, each in the order of its specs."""

    inputs: tuple[str, ...]
    state_inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    state_outputs: tuple[str, ...]


@dataclass(frozen=True)
class Traced:
    """A self-contained ONNX model. ranges: of those inputs whose numbers it looks up in tables, by name."""

    model: bytes
    names: GraphNames
    opset: int
    ranges: Mapping[str, Range]


def graph_names(spec: StepSpec) -> GraphNames:
    """Inputs and outputs keep their names; state goes in under its own and comes out as `next_<name>`.

    A name that is taken gets underscores at its end, because a graph has one space of names.
    """
    taken = {one.name for one in (*spec.inputs, *spec.outputs)}

    def free(name: str) -> str:
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    return GraphNames(
        inputs=tuple(one.name for one in spec.inputs),
        state_inputs=tuple(free(one.name) for one in spec.state),
        outputs=tuple(one.name for one in spec.outputs),
        state_outputs=tuple(free(f"next_{one.name}") for one in spec.state),
    )


def trace(step: Step, spec: StepSpec, inputs: Mapping[str, Array], state: Mapping[str, Array]) -> Traced:
    """The step as ONNX. inputs and state are one session's, without the batch axis. Raises TraceFault."""
    names = graph_names(spec)
    rows = [inputs[one.name] for one in spec.inputs] + [state[one.name] for one in spec.state]
    arguments = tuple(torch.stack([torch.tensor(row)] * ROWS) for row in rows)
    batch = torch.export.Dim(BATCH_AXIS)
    dims = {
        axis.name: torch.export.Dim(axis.name, min=min(axis.size, TRACED_SIZE_MIN), max=axis.size_max)
        for axis in spec.axes
    }
    free: list[dict[int, Any]] = [{0: batch} for _ in spec.inputs]
    free += [{0: batch} | {1 + at: dims[axis] for at, axis in enumerate(one.axes) if axis} for one in spec.state]
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(
                _Positional(step, spec).eval(),
                arguments,
                dynamic_shapes=(tuple(free),),
                strict=False,
            )
            ranges = found_ranges(program, arguments, spec)
            exported = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False, opset_version=OPSET)
    except Exception as fault:  # torch has no common root for what it refuses, and all of it is the user's to read.
        sizes = "".join(f" and any {axis.name}" for axis in spec.axes)
        raise TraceFault(
            f"step: expected a graph of any batch size{sizes}, torch refuses: {_first_lines(fault)}"
        ) from fault
    if exported is None:
        raise TraceFault("step: expected an ONNX program, torch.onnx.export returned none")
    graph = _simplified(exported.model)
    expect_free_batch(graph.graph.inputs, (*names.inputs, *names.state_inputs))
    expect_free_batch(graph.graph.outputs, (*names.outputs, *names.state_outputs))
    expect_free_axes(graph.graph.inputs, graph.graph.outputs, spec)
    return Traced(_serialised(graph, names, spec), names, graph.opset_imports[""], ranges)


def expect_free_batch(values: Sequence[ir.Value], names: Sequence[str]) -> None:
    """Refuse a graph with an input or output whose first axis is a number. Raises TraceFault."""
    if len(values) != len(names):
        raise TraceFault(f"graph: expected {list(names)}, got {[value.name for value in values]}")
    for value, name in zip(values, names, strict=True):
        shape = list(value.shape) if value.shape is not None else []
        if not shape or isinstance(shape[0], int):
            raise TraceFault(
                f"{name}: expected a symbolic batch axis, got shape {[str(axis) for axis in shape]}: "
                "the step makes a tensor of the example's batch size"
            )


def expect_free_axes(inputs: Sequence[ir.Value], outputs: Sequence[ir.Value], spec: StepSpec) -> None:
    """Refuse a graph where an axis whose size may be chosen is a number. Raises TraceFault."""
    for values in (inputs, outputs):
        for value, one in _state_of(values, spec):
            shape = list(value.shape or [])
            fixed = [axis for axis, size in zip(one.axes, shape[1:], strict=False) if axis and isinstance(size, int)]
            if fixed:
                raise TraceFault(
                    f"{one.name}: expected symbolic axes {fixed}, got shape {[str(axis) for axis in shape]}: the step "
                    "makes a tensor of the example's size"
                )


def _state_of(values: Sequence[ir.Value], spec: StepSpec) -> Iterator[tuple[ir.Value, StateSpec]]:
    """A graph's inputs or outputs that are state, which come last."""
    return zip(values[len(values) - len(spec.state) :], spec.state, strict=True)


class _Positional(nn.Module):
    """The step with tensors in and out in the order of its spec, as a graph has them."""

    def __init__(self, step: Step, spec: StepSpec) -> None:
        super().__init__()
        self.step = step
        self.inputs = [one.name for one in spec.inputs]
        self.outputs = [one.name for one in spec.outputs]
        self.state = [one.name for one in spec.state]

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        split = len(self.inputs)
        inputs = dict(zip(self.inputs, tensors[:split], strict=True))
        outputs, following = self.step(inputs, dict(zip(self.state, tensors[split:], strict=True)))
        return (*(outputs[name] for name in self.outputs), *(following[name] for name in self.state))


def _simplified(model: ir.Model) -> ir.Model:
    """The model after the optimisations that cannot change what it computes."""
    passes.InlinePass()(model)
    # Twice: shapes made constant leave more constants to fold.
    for _ in range(2):
        fold_constants(model, onnx_shape_inference=True)
        RewritePass([materialize_reshape_shape_rule])(model)
        passes.RemoveUnusedNodesPass()(model)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.RemoveUnusedOpsetsPass()(model)
    # A tensor that is two outputs, or an input and an output, gets an Identity: each needs a name.
    passes.OutputFixPass()(model)
    return model


def _serialised(model: ir.Model, names: GraphNames, spec: StepSpec) -> bytes:
    """The model under our names, without what would tell where it was made."""
    for kind, wanted in (
        (model.graph.inputs, (*names.inputs, *names.state_inputs)),
        (model.graph.outputs, (*names.outputs, *names.state_outputs)),
    ):
        for value, name in zip(kind, wanted, strict=True):
            value.name = name
            assert value.shape is not None
            value.shape[0] = BATCH_AXIS
        for value, one in _state_of(kind, spec):
            assert value.shape is not None
            for at, axis in enumerate(one.axes):
                if axis:
                    value.shape[1 + at] = axis
    passes.NameFixPass()(model)
    passes.ClearMetadataAndDocStringPass()(model)
    model.graph.name = "step"
    proto = ir.to_proto(model)
    # Inner shapes name the batch axis as torch did; onnxruntime infers them anew.
    del proto.graph.value_info[:]
    onnx.checker.check_model(proto, full_check=True)
    return bytes(proto.SerializeToString(deterministic=True))


def _first_lines(fault: BaseException) -> str:
    """The innermost cause's first lines: the rest is advice on how to write an exporter."""
    while fault.__cause__ is not None:
        fault = fault.__cause__
    lines = list(dict.fromkeys(line.strip() for line in str(fault).splitlines() if line.strip()))
    return f"{type(fault).__name__}: {' '.join(lines[:3])}"


@contextmanager
def _quiet() -> Iterator[Any]:
    """Without torch's remarks on its own deprecations and on packages that it can do without."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        registration.setLevel(level)
