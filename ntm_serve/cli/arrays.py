"""Files of arrays: inputs read without loading them whole, outputs written as they come.

`.npy` for a model with one input or output, `.npz` for several. An output file appears once it is whole.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from ntm_serve.client.conversion import Outputs
from ntm_serve.errors import InvalidInput
from ntm_serve.spec import Array, TensorSpec, expect_names, expect_tensor


def read_inputs(path: Path, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The arrays `[T, ...]` of a file, one for each input. Raises InvalidInput."""
    try:
        loaded = np.load(path, mmap_mode="r" if path.suffix == ".npy" else None, allow_pickle=False)
    except (OSError, ValueError) as fault:
        raise InvalidInput(f"{path}: expected an .npy or .npz file of plain numbers, got: {fault}") from fault
    if isinstance(loaded, np.ndarray):
        if len(specs) != 1:
            raise InvalidInput(f"{path}: expected an .npz with {[spec.name for spec in specs]}, got one array")
        arrays: dict[str, Array] = {specs[0].name: loaded}
    else:
        with loaded:
            arrays = {name: loaded[name] for name in loaded.files}
    expect_names(specs, arrays, str(path))
    for spec in specs:
        expect_tensor(spec, str(arrays[spec.name].dtype), arrays[spec.name].shape, leading=("T",))
    counts = {len(array) for array in arrays.values()}
    if len(counts) != 1 or 0 in counts:
        raise InvalidInput(f"{path}: expected the same T >= 1 steps of each input, got {sorted(counts)}")
    return arrays


class ArrayWriter:
    """Writes outputs `[T, ...]`, message by message. Leaving the block with an error leaves no file."""

    def __init__(self, path: Path, specs: Sequence[TensorSpec], steps: int) -> None:
        if len(specs) != 1 and path.suffix != ".npz":
            raise InvalidInput(f"{path}: expected an .npz file for {[spec.name for spec in specs]}")
        self._path = path
        self._specs = specs
        self._arrays = {spec.name: np.zeros((steps, *spec.shape), spec.numpy_dtype) for spec in specs}
        self._at = 0

    def write(self, outputs: Outputs) -> int:
        """Append what one message gave; returns how many steps that was."""
        named = outputs if isinstance(outputs, Mapping) else {self._specs[0].name: outputs}
        count = len(next(iter(named.values())))
        for name, array in named.items():
            self._arrays[name][self._at : self._at + count] = array
        self._at += count
        return count

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            return
        beside = self._path.with_name(self._path.name + ".part")
        with beside.open("wb") as file:
            if self._path.suffix == ".npz":
                np.savez(file, **self._arrays)  # type: ignore[arg-type]
            else:
                np.save(file, next(iter(self._arrays.values())))
        beside.replace(self._path)
