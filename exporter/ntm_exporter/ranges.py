"""Which numbers an input of whole numbers may have: found in the program that torch.export made of a step, or said by
the step itself.

Rules of this file:
- an input's numbers are followed, each by itself, through what moves numbers and changes none, to where they are
  indices. Every tensor on the way has a twin that says from which place of the inputs each of its numbers came, and
  what moves the numbers moves the twin, by the same operation of torch;
- nothing is refused that torch takes: nothing is found of numbers that went through arithmetic or a cast in which they
  may wrap, and no upper bound of those that index an axis whose size is free;
- a range is of a whole input: the widest of all its places, and none where one of them may be any number.
"""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from ntm_exporter.errors import ContractFault
from ntm_serve.errors import InvalidInput
from ntm_serve.spec import Range, StepSpec, TensorSpec, held_by

# What moves numbers: of torch's operators without those that write in place, which a program is rid of first.
MOVES = frozenset((
    "_reshape_alias", "_unsafe_view", "alias", "broadcast_to", "cat", "chunk", "clone", "contiguous", "detach",
    "diagonal", "expand", "expand_as", "flatten", "flip", "lift_fresh_copy", "movedim", "narrow", "permute",
    "repeat", "reshape", "roll", "select", "select_scatter", "slice", "slice_scatter", "split", "split_with_sizes",
    "squeeze", "stack", "swapaxes", "t", "tile", "transpose", "unbind", "unflatten", "unfold", "unsqueeze", "view",
    "view_as",
))  # fmt: skip
CASTS = frozenset({"to", "_to_copy", "type_as"})

# What looks numbers up, by its arguments' names: the table and the indices. torch takes 0 to n - 1 of them, where ONNX
# counts from the end what is below 0. The axis is the argument `dim`, where there is one, or the first.
FROM_ZERO: Mapping[str, tuple[str, str]] = {
    "embedding": ("weight", "indices"),
    "embedding_bag": ("weight", "indices"),
    **dict.fromkeys(("gather", "index_select", "scatter", "scatter_add", "scatter_reduce"), ("self", "index")),
}

# A list of indices, one for each axis, of which torch takes -n to n - 1. Those of these dtypes are masks.
BY_AXIS = frozenset({"index", "index_put"})
MASKS = (torch.bool, torch.uint8)

# Of a twin's places whose number is no input's.
OF_NO_INPUT = -1


def found_ranges(program: ExportedProgram, arguments: Sequence[Tensor], spec: StepSpec) -> dict[str, Range]:
    """The ranges of those inputs that have one. arguments: of the program, `[B, ...]`, inputs first."""
    if all(one.numpy_dtype.kind not in "iu" for one in spec.inputs):
        return {}
    follower = _Follower(program.run_decompositions({}).module(), spec.inputs)
    follower.run(*arguments)
    return follower.ranges()


def ranged_spec(spec: StepSpec, found: Mapping[str, Range], said: Mapping[str, Any]) -> StepSpec:
    """The spec with the ranges that were found, or what the step itself says within them. Raises ContractFault."""
    names = [one.name for one in spec.inputs]
    if unknown := [name for name in said if name not in names]:
        raise ContractFault(f"ranges: expected names of inputs, {names}, got {unknown[0]!r}")
    ranges = {**found, **{name: _said(name, bounds, found.get(name)) for name, bounds in said.items()}}
    try:
        return replace(spec, inputs=tuple(replace(one, range=ranges.get(one.name)) for one in spec.inputs))
    except InvalidInput as fault:
        raise ContractFault(fault.message) from fault


def _said(name: str, bounds: Any, found: Range | None) -> Range:
    whole = isinstance(bounds, tuple | list) and all(
        isinstance(one, int | np.integer) and not isinstance(one, bool) for one in bounds
    )
    if not whole or len(bounds) != 2:
        raise ContractFault(f"ranges: {name}: expected two whole numbers, (min, max), got {bounds!r}")
    said = Range(*map(int, bounds))
    if found is not None and not found.min <= said.min <= said.max <= found.max:
        raise ContractFault(f"ranges: {name}: expected numbers within {found}, as the step looks them up, got {said}")
    return said


class _Follower(fx.Interpreter):
    """Runs a program, and follows the numbers of its first arguments, which are those inputs."""

    def __init__(self, program: fx.GraphModule, inputs: Sequence[TensorSpec]) -> None:
        super().__init__(program)
        self._inputs = inputs
        self._twins: dict[fx.Node, Any] = {}
        self._begins: list[int] = []
        self._least, self._most = torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64)

    def ranges(self) -> dict[str, Range]:
        """What was found, after the run."""
        ends = [*self._begins[1:], len(self._least)]
        found = {}
        for one, begin, end in zip(self._inputs, self._begins, ends, strict=True):
            if begin == end:
                continue
            held = held_by(one.dtype)
            least, most = int(self._least[begin:end].min()), int(self._most[begin:end].max())
            bounds = Range(max(least, held.min), min(most, held.max))
            if bounds != held:
                found[one.name] = bounds
        return found

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op == "placeholder" and len(self._begins) < len(self._inputs):
            self._begin(n, value)
        elif n.op == "call_function" and any(one in self._twins for one in n.all_input_nodes):
            self._follow(n, value)
        return value

    def _begin(self, node: fx.Node, value: Tensor) -> None:
        """An input's numbers are given their places, if they are whole."""
        begin = len(self._least)
        self._begins.append(begin)
        if self._inputs[len(self._begins) - 1].numpy_dtype.kind not in "iu":
            return
        self._twins[node] = torch.arange(begin, begin + value.numel()).reshape(value.shape)
        bounds = torch.iinfo(torch.int64)
        self._least = torch.cat([self._least, torch.full((value.numel(),), bounds.min)])
        self._most = torch.cat([self._most, torch.full((value.numel(),), bounds.max)])

    def _follow(self, node: fx.Node, value: Any) -> None:
        if node.target is operator.getitem:
            whole, place = node.args
            assert isinstance(whole, fx.Node)
            self._twins[node] = self._twins[whole][place]
        elif isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "aten":
            name = node.target.name().removeprefix("aten::").partition(".")[0]
            if name in MOVES or name in CASTS:
                self._move(node, value, cast=name in CASTS)
            else:
                self._look_up(node, name)

    def _move(self, node: fx.Node, value: Any, *, cast: bool) -> None:
        given = value if isinstance(value, Tensor) else value[0]
        taken = [self._dtype_of(one) for one in node.all_input_nodes if one in self._twins]
        if not all(_keeps(dtype, given.dtype) for dtype in taken):
            return
        if not cast:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._twin_of)
            self._twins[node] = node.target(*args, **kwargs)  # type: ignore[operator]
        elif (cast_from := node.all_input_nodes[0]) in self._twins:
            self._twins[node] = self._twins[cast_from]

    def _look_up(self, node: fx.Node, name: str) -> None:
        assert isinstance(node.target, torch._ops.OpOverload)
        names = [one.name for one in node.target._schema.arguments]
        given: dict[str, Any] = {**dict(zip(names, node.args, strict=False)), **node.kwargs}
        if name == "one_hot":
            classes = given.get("num_classes", -1)
            self._claim(given["self"], None if classes < 0 else classes, from_the_end=False)
        elif name == "take":
            size = self._size(given["self"])
            self._claim(given["index"], size, from_the_end=True)
        elif name in BY_AXIS:
            axis = 0
            for index in given["indices"]:
                mask = index is not None and self._dtype_of(index) in MASKS
                if index is not None and not mask:
                    self._claim(index, self._size(given["self"], axis), from_the_end=True)
                axis += self.env[index].ndim if mask else 1
        elif name in FROM_ZERO:
            table, index = FROM_ZERO[name]
            self._claim(given[index], self._size(given[table], given.get("dim", 0)), from_the_end=False)

    def _claim(self, index: fx.Node, size: int | None, *, from_the_end: bool) -> None:
        """The numbers of these indices are rows of a table of that size. None: of one whose size is free."""
        if index not in self._twins:
            return
        places = self._twins[index].flatten()
        places = places[places != OF_NO_INPUT]
        if not from_the_end:
            self._least[places] = self._least[places].clamp(min=0)
        if size is None or size < 1:
            return
        if from_the_end:
            self._least[places] = self._least[places].clamp(min=-size)
        self._most[places] = self._most[places].clamp(max=size - 1)

    def _size(self, table: fx.Node, axis: int | None = None) -> int | None:
        """Of a table's axis, or all of it; None where it is free, as a batch is."""
        shape = table.meta["val"].shape
        size = shape.numel() if axis is None else shape[axis] if len(shape) else 1
        return size if isinstance(size, int) else None

    def _dtype_of(self, node: fx.Node) -> torch.dtype:
        value = self.env[node]
        dtype: torch.dtype = (value if isinstance(value, Tensor) else value[0]).dtype
        return dtype

    def _twin_of(self, node: fx.Node) -> Any:
        if node in self._twins:
            return self._twins[node]
        value = self.env[node]
        return torch.full(value.shape, OF_NO_INPUT) if isinstance(value, Tensor) else value


def _keeps(taken: torch.dtype, given: torch.dtype) -> bool:
    """Whether every number of a dtype of whole numbers is the same in another."""
    if given.is_floating_point or given.is_complex or given is torch.bool:
        return False
    return torch.iinfo(given).min <= torch.iinfo(taken).min and torch.iinfo(taken).max <= torch.iinfo(given).max
