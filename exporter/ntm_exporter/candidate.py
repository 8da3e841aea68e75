"""The candidate: a source, what was read off it, and its graph, before anything is proved of it.

It can be a model directory in memory, so that the server's own engine runs it and no file is written.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import onnx
import torch

import ntm_serve
from ntm_exporter.choice import choice_of
from ntm_exporter.contract import STEPS, examined, example_arrays, given_arrays, initial_arrays
from ntm_exporter.errors import ContractFault
from ntm_exporter.ranges import ranged_spec
from ntm_exporter.source import Source
from ntm_exporter.trace import Traced, trace
from ntm_exporter.verify import begun, golden_steps, record_golden, torch_rows
from ntm_models.tasks import tensors_of
from ntm_serve.engine import ORT_VERSION
from ntm_serve.errors import InvalidInput
from ntm_serve.manifest import (
    AxisEntry,
    Exporter,
    InputEntry,
    Manifest,
    Provenance,
    RangeEntry,
    StateEntry,
    TensorEntry,
    Verification,
)
from ntm_serve.model_directory import Golden, ModelDirectory
from ntm_serve.spec import Array, StepSpec, TensorSpec, expect_within, frozen
from ntm_serve.step_model import State

# What a candidate may claim: its tolerance refuses nothing, because the comparison to come says more
# than the engine's own at load.
UNPROVED = Verification(
    tolerance=inf, batch_sizes=(), parity_steps=0, parity_error_max=inf, drift_steps=0, drift_error_max=None
)


@dataclass(frozen=True)
class Candidate:
    """A source, its spec and first state, torch's golden run, and the graph."""

    source: Source
    spec: StepSpec
    initial: State
    golden: Golden
    traced: Traced

    def examples(self, steps: int, seed: int) -> Mapping[str, Array]:
        """One session's run of the source's own example, `[T, ...]`. Raises ContractFault."""
        return _example(self.source, self.spec, steps, seed)

    def given(self, seed: int) -> Mapping[str, Array]:
        """The state tensors that the session of that example is given, `[...]`. Raises ContractFault."""
        return given_arrays(self.initial_by_name(), self.source.example_state, seed)

    def initial_by_name(self) -> dict[str, Array]:
        return {one.name: array for one, array in zip(self.spec.state, self.initial, strict=True)}

    def in_memory(self) -> ModelDirectory:
        """The model directory that is to be, unproved."""
        return ModelDirectory(
            path=Path(self.source.name), manifest=self.manifest(UNPROVED, Provenance()), spec=self.spec, digest="",
            model=self.traced.model, initial_state=self.initial, golden=self.golden,
        )  # fmt: skip

    def manifest(self, verification: Verification, provenance: Provenance) -> Manifest:
        """The manifest, but for its list of files."""
        names = self.traced.names
        specs = self.spec.state
        state = zip(specs, _entries(specs), names.state_inputs, names.state_outputs, strict=True)
        return Manifest(
            family=self.source.family,
            task=self.source.task,
            opset=self.traced.opset,
            inputs=tuple(_input_entry(one) for one in self.spec.inputs),
            outputs=_entries(self.spec.outputs),
            state=tuple(
                StateEntry(**entry.model_dump(), role=one.role, axes=one.axes, graph_input=taken, graph_output=given)
                for one, entry, taken, given in state
            ),
            axes={axis.name: AxisEntry(min=axis.size_min, max=axis.size_max) for axis in self.spec.axes},
            files={},
            exporter=Exporter(
                ntm_serve=ntm_serve.__version__, torch=torch.__version__, onnx=onnx.__version__, onnxruntime=ORT_VERSION
            ),
            verification=verification,
            provenance=provenance,
        )


def make_candidate(
    source: Source, tracing: Callable[[], None] = lambda: None, *, sizes: Mapping[str, tuple[int, int]] | None = None
) -> Candidate:
    """Examine, trace, record. `tracing` is called after the first. sizes: what sessions may choose, beside what the
    step says. Raises ContractFault, NonFiniteFault, TraceFault.
    """
    choice = choice_of(source.step, sizes or {})
    spec = examined(source.step, source.example_inputs, source.roles, choice, source.example_state)
    if source.scored is not None:
        _expect_task(source, spec)
    arrays = initial_arrays(source.step)
    initial = tuple(frozen(arrays[one.name].copy()) for one in spec.state)
    tracing()
    example = example_arrays(source.example_inputs, STEPS, 0)
    traced = trace(source.step, spec, {name: array[0] for name, array in example.items()}, arrays)
    spec = ranged_spec(spec, traced.ranges, getattr(source.step, "ranges", {}))
    first = begun(spec, initial, given_arrays(arrays, source.example_state, 0))
    run = _example(source, spec, golden_steps(spec), 0)
    golden = record_golden(torch_rows(source.step, spec), spec, first, run)
    return Candidate(source, spec, initial, golden, traced)


def _example(source: Source, spec: StepSpec, steps: int, seed: int) -> Mapping[str, Array]:
    """A run of the source's example, `[T, ...]`, within the ranges of its inputs. Raises ContractFault."""
    arrays = example_arrays(source.example_inputs, steps, seed)
    try:
        for place, bounds in spec.ranged:
            name = spec.inputs[place].name
            expect_within(f"example_inputs({steps}, {seed}): {name}", arrays[name], bounds)
    except InvalidInput as fault:
        raise ContractFault(fault.message) from fault
    return arrays


def _input_entry(one: TensorSpec) -> InputEntry:
    bounds = None if one.range is None else RangeEntry(**one.range._asdict())
    return InputEntry(name=one.name, dtype=one.dtype, shape=one.shape, range=bounds)


def _entries(specs: Sequence[TensorSpec]) -> tuple[TensorEntry, ...]:
    return tuple(TensorEntry(name=one.name, dtype=one.dtype, shape=one.shape) for one in specs)


def _expect_task(source: Source, spec: StepSpec) -> None:
    """Refuse a step that says it does a task whose tensors it does not have."""
    assert source.scored is not None
    inputs, outputs = tensors_of(source.scored)
    taken, given = ({one.name: one.layout for one in specs} for specs in (spec.inputs, spec.outputs))
    # A step may give more than what is scored.
    if taken != inputs or not outputs.items() <= given.items():
        raise ContractFault(
            f"task {source.task!r}: expected inputs and outputs {inputs | outputs}, got {taken | given}"
        )
