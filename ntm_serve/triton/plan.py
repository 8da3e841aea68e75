"""What a model directory of a Triton model is to be, from its config and its graph. Pure.

Rules of this file: whatever a config says of a tensor is held against the graph; a control tensor is a state that
says whether a step was made; all faults of a model are told at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from ntm_serve.errors import ModelRejected
from ntm_serve.inference import model_config_pb2 as pb
from ntm_serve.spec import DTYPES, Array, described
from ntm_serve.triton.config import Config
from ntm_serve.triton.graph import OPSET_MIN, Flag, Graph, GraphTensor
from ntm_serve.triton.meaning import is_scalar

DTYPE_OF_TYPE = {
    "TYPE_BOOL": "bool", "TYPE_UINT8": "uint8", "TYPE_UINT16": "uint16", "TYPE_UINT32": "uint32",
    "TYPE_UINT64": "uint64", "TYPE_INT8": "int8", "TYPE_INT16": "int16", "TYPE_INT32": "int32", "TYPE_INT64": "int64",
    "TYPE_FP16": "float16", "TYPE_FP32": "float32", "TYPE_FP64": "float64",
}  # fmt: skip

START, READY, END, CORRID = (pb.ModelSequenceBatching.Control.Kind.Name(kind) for kind in range(4))
UNFED = {
    END: "whether a request is the last of its sequence is not known when its step runs",
    CORRID: "a session's name is no number, and a step must not depend on it",
}


# Of one tensor of one session: beyond it a batch of a few has no room on any machine that serves.
ROW_BYTES_MAX = 1 << 30


@dataclass(frozen=True)
class Wishes:
    """What the user adds to a config. dims: of inputs whose shape it leaves open, without the batch axis. constants:
    values for control tensors that cannot be fed what they ask for.
    """

    dims: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    constants: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor that requests bring or replies carry. shape: without the batch axis; None where it shows in a run."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    @property
    def fixed(self) -> tuple[int, ...]:
        """The shape of an input, which has no axis left open."""
        return tuple(size for size in self.shape if size is not None)


@dataclass(frozen=True)
class PlannedState:
    """A state tensor: its name is that of the graph's input. initial: without the batch axis."""

    name: str
    graph_output: str
    initial: Array
    role: str = ""


@dataclass(frozen=True)
class Plan:
    """left_out: outputs of the graph that no reply carries. notes: what the user is to know."""

    inputs: tuple[PlannedTensor, ...]
    outputs: tuple[PlannedTensor, ...]
    state: tuple[PlannedState, ...]
    flags: tuple[Flag, ...]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]


def plan_of(
    config: Config, graph: Graph, wishes: Wishes, *, name: object, read_initial: Callable[[str], bytes]
) -> Plan:
    """What to write of a model. read_initial: the bytes of a file with an initial state, by its name; it may raise
    OSError. Raises ModelRejected.
    """
    planning = _Planning(config.model, graph, wishes, read_initial)
    plan = planning.plan()
    if planning.faults:
        raise ModelRejected(f"{name}: {'; '.join(planning.faults)}")
    return plan


class _Planning:
    def __init__(
        self, config: pb.ModelConfig, graph: Graph, wishes: Wishes, read_initial: Callable[[str], bytes]
    ) -> None:
        self._config = config
        self._graph = graph
        self._wishes = wishes
        self._read_initial = read_initial
        self.faults: list[str] = []
        self._notes: list[str] = []

    def plan(self) -> Plan:
        config, graph = self._config, self._graph
        if config.max_batch_size < 1 and (config.input or config.output):
            self.faults.append(
                "max_batch_size: 0 says that tensors have no batch axis: expected every tensor of the graph to have one"
                " first, of any size, with dims without it and max_batch_size above 0"
            )
        state = [self._state(one) for one in config.sequence_batching.state]
        controls = [self._control(one) for one in config.sequence_batching.control_input]
        fed = [one.name for one in (*state, *(control for control, _ in controls))]
        inputs = self._asked("input", [(one.name, one) for one in config.input], graph.inputs, fed)
        kept = [one.graph_output for one in state]
        outputs = self._asked("output", [(one.name, one) for one in config.output], graph.outputs, kept)
        named = [*fed, *(one.name for one in inputs)]
        self._expect_once("graph input", named)
        self._expect_once("state output", kept)
        self.faults += [
            f"graph input {one}: is in the config neither an input nor a state nor a control"
            for one in graph.inputs if one not in named
        ]  # fmt: skip
        self._expect_used(named)
        left_out = tuple(one for one in graph.outputs if one not in (*kept, *(output.name for output in outputs)))
        self._notes += [f"output {one}: is not in the config, and left out" for one in left_out]
        return Plan(
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            state=(*state, *(control for control, _ in controls)),
            flags=tuple(flag for _, flag in controls),
            left_out=left_out,
            notes=tuple(self._notes),
        )

    # Inputs and outputs

    def _asked(
        self,
        kind: str,
        given: Sequence[tuple[str, pb.ModelInput | pb.ModelOutput]],
        nodes: Mapping[str, GraphTensor],
        taken: Sequence[str],
    ) -> list[PlannedTensor]:
        """The inputs or outputs that a config names; where it names none, all of the graph that are no state."""
        if not given:
            given = [(name, None) for name in nodes if name not in taken]  # type: ignore[misc]
        planned = []
        for name, one in given:
            node = nodes.get(name)
            if "\0" in name:
                self.faults.append(f"{kind} {name!r}: expected a name without NUL, which ends names in archives")
            elif node is None:
                self.faults.append(f"{kind} {name}: is not in the graph, which has {sorted(nodes)}")
            if node is None:
                continue
            dims = None if one is None else [] if is_scalar(one) else list(one.dims)
            dtype = node.dtype if one is None else self._dtype(f"{kind} {name}", one.data_type)
            planned.append(PlannedTensor(name, dtype, self._shape(kind, name, dtype, dims, node)))
        return planned

    def _dtype(self, what: str, data_type: int) -> str:
        word = _word(pb.DataType, data_type)
        if word not in DTYPE_OF_TYPE:
            self.faults.append(f"{what}: expected a data_type of {', '.join(DTYPE_OF_TYPE)}, got {word}")
        return DTYPE_OF_TYPE.get(word, word)

    def _shape(
        self, kind: str, name: str, dtype: str, dims: list[int] | None, node: GraphTensor
    ) -> tuple[int | None, ...]:
        """A tensor's shape without the batch axis, held against the graph."""
        what, faults = f"{kind} {name}", self.faults
        shown = described(node.dtype, ["?" if one is None else one for one in node.shape])
        if not node.shape or node.shape[0] is not None:
            faults.append(f"{what}: expected the graph's first axis to be a batch of any size, got {shown}")
            return ()
        if dtype != node.dtype or (dims is not None and len(dims) != len(node.shape) - 1):
            given = described(dtype, ["?" if one < 0 else one for one in dims or ()])
            faults.append(f"{what}: expected what the graph has after the batch axis, {shown}, got {given}")
            return ()
        if dtype not in DTYPES:
            faults.append(f"{what}: expected a dtype of {', '.join(DTYPES)}, got {dtype}")
        sizes = self._sizes(name, node) if kind == "input" else list(node.shape[1:])
        for place, size in enumerate(dims or ()):
            if size >= 0 and sizes[place] not in (None, size):
                faults.append(f"{what}: expected the shape of the graph, {shown}, got dims {dims}")
            if size >= 0:
                sizes[place] = size
        if kind != "output" and None in sizes:
            ask = f"--dims {name}=" + ",".join("N" if one is None else str(one) for one in sizes)
            more = f": say what it is with {ask}" if kind == "input" else ""
            faults.append(f"{what}: expected a shape of fixed sizes, got {dims or shown}{more}")
        if any(size is not None and size < 1 for size in sizes):
            faults.append(f"{what}: expected every axis to be at least 1, got {sizes}")
        elif dtype in DTYPES and prod(one or 1 for one in sizes) * np.dtype(dtype).itemsize > ROW_BYTES_MAX:
            faults.append(f"{what}: expected at most {ROW_BYTES_MAX} bytes in a row, got {described(dtype, sizes)}")
        return tuple(sizes)

    def _sizes(self, name: str, node: GraphTensor) -> list[int | None]:
        """What the graph, or the user, says of an input's sizes."""
        wished = self._wishes.dims.get(name)
        if wished is None:
            return list(node.shape[1:])
        fits = len(wished) == len(node.shape) - 1 and all(
            size in (None, asked) for size, asked in zip(node.shape[1:], wished, strict=False)
        )
        if not fits:
            self.faults.append(f"--dims {name}: expected sizes that fit the graph, {node.shape[1:]}, got {wished}")
            return list(node.shape[1:])
        return list(wished)

    # States

    def _state(self, state: pb.ModelSequenceBatching.State) -> PlannedState:
        name, what = state.input_name, f"state {state.input_name}"
        if "\0" in name:
            self.faults.append(f"state {name!r}: expected a name without NUL, which ends names in archives")
        dtype, dims = self._dtype(what, state.data_type), list(state.dims)
        nothing = PlannedState(name, state.output_name, np.zeros(()))
        source, target = self._graph.inputs.get(name), self._graph.outputs.get(state.output_name)
        if source is None or target is None:
            missing = f"input {name!r}" if source is None else f"output {state.output_name!r}"
            self.faults.append(
                f"{what}: expected an input and an output of the graph, which has no {missing}; inputs are "
                f"{sorted(self._graph.inputs)}, outputs {sorted(self._graph.outputs)}"
            )
            return nothing
        before = len(self.faults)
        shape = self._shape("state", name, dtype, dims, source)
        self._shape("state output", state.output_name, dtype, dims, target)
        if len(self.faults) > before:
            return nothing
        return PlannedState(name, state.output_name, self._initial(state, dtype, tuple(one or 1 for one in shape)))

    def _initial(self, state: pb.ModelSequenceBatching.State, dtype: str, shape: tuple[int, ...]) -> Array:
        """A state before the first step; zeros where nothing is said, and where it cannot be told."""
        what, zeros = f"state {state.input_name}: initial_state", np.zeros(shape, dtype)
        if not state.initial_state:
            self._notes.append(f"{what}: is not in the config, so it is zeros")
            return zeros
        if len(state.initial_state) > 1:
            self.faults.append(f"{what}: expected one, got {len(state.initial_state)}")
            return zeros
        given = state.initial_state[0]
        data_dtype = self._dtype(what, given.data_type)
        if data_dtype != dtype or tuple(given.dims) != shape:
            actual = described(data_dtype, given.dims)
            self.faults.append(f"{what}: expected {described(dtype, shape)}, as the state is, got {actual}")
            return zeros
        said = given.WhichOneof("state_data")
        if said is None:
            self.faults.append(f"{what}: expected zero_data or data_file, got neither")
        return zeros if said != "data_file" else self._from_file(what, given.data_file, zeros)

    def _from_file(self, what: str, file: str, zeros: Array) -> Array:
        try:
            content = self._read_initial(file)
        except (OSError, ValueError) as fault:  # The latter of a name that no file can have.
            said = getattr(fault, "strerror", None) or fault
            self.faults.append(f"{what}: {file!r}: expected a readable file, got: {said}")
            return zeros
        if len(content) != zeros.nbytes:
            wanted = f"{zeros.nbytes} bytes of {described(zeros.dtype, zeros.shape)}"
            self.faults.append(f"{what}: {file!r}: expected {wanted}, got {len(content)} bytes")
            return zeros
        return np.frombuffer(content, zeros.dtype.newbyteorder("<")).astype(zeros.dtype).reshape(zeros.shape)

    # Controls

    def _control(self, given: pb.ModelSequenceBatching.ControlInput) -> tuple[PlannedState, Flag]:
        name, what = given.name, f"control {given.name}"
        made = f"{name}_next"
        while made in self._graph.outputs:
            made += "_"
        values, node = self._control_values(given), self._graph.inputs.get(name)
        if node is None:
            self.faults.append(f"{what}: is not in the graph, whose inputs are {sorted(self._graph.inputs)}")
        elif values is not None:
            self._shape("control", name, values[0].dtype.name, [1], node)
        if self._graph.opset < OPSET_MIN:
            self.faults.append(f"{what}: expected a graph of opset {OPSET_MIN} or newer, got {self._graph.opset}")
        first, later = values or (np.zeros(1, np.float32),) * 2
        return PlannedState(name, made, first, role="control"), Flag(name, made, later)

    def _control_values(self, given: pb.ModelSequenceBatching.ControlInput) -> tuple[Array, Array] | None:
        """What a control tensor is at a session's first step, and at every other."""
        what = f"control {given.name}"
        if len(given.control) != 1:
            self.faults.append(f"{what}: expected one control, got {len(given.control)}")
            return None
        control = given.control[0]
        kind = _word(pb.ModelSequenceBatching.Control.Kind, control.kind)
        told = {
            dtype: values
            for dtype, values in (
                ("int32", control.int32_false_true), ("float32", control.fp32_false_true),
                ("bool", control.bool_false_true),
            ) if values
        }  # fmt: skip
        if kind in UNFED:
            dtype = next(iter(told), None) if kind == END else self._dtype(what, control.data_type)
            constant = self._wishes.constants.get(given.name)
            if constant is None:
                self.faults.append(
                    f"{what}: {kind} cannot be fed: {UNFED[kind]}; where outputs and states do not depend on it, "
                    f"--constant {given.name}=0 has it be that always"
                )
            if constant is None or dtype not in DTYPES:
                return None
            self._notes.append(f"{what}: is {constant:g} at every step")
            return (np.full(1, constant, dtype),) * 2
        if kind not in (START, READY):
            self.faults.append(f"{what}: expected a kind of {START}, {READY}, {END} or {CORRID}, got {kind}")
            return None
        if len(told) != 1 or len(next(iter(told.values()))) != 2:
            self.faults.append(f"{what}: expected one of int32, fp32 and bool_false_true with two values")
            return None
        [(dtype, (false, true))] = told.items()
        return np.full(1, true, dtype), np.full(1, false if kind == START else true, dtype)

    # What is said twice, or of nothing

    def _expect_once(self, kind: str, names: Sequence[str]) -> None:
        twice = sorted({name for name in names if names.count(name) > 1})
        self.faults.extend(f"{kind} {name}: expected to be named once in the config" for name in twice)

    def _expect_used(self, named: Sequence[str]) -> None:
        unused = {"--dims": self._wishes.dims, "--constant": self._wishes.constants}
        for option, wishes in unused.items():
            self.faults += [f"{option} {name}: is no input of this graph" for name in wishes if name not in named]


def _word(kinds: Any, number: int) -> str:
    """The name of a value of an enum; a number that has none by itself, as the text format takes any."""
    return str(kinds.Name(number)) if number in kinds.values() else str(number)
