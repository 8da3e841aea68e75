"""Files of arrays: inputs that need not fit in memory, and outputs whose file appears once it is whole.

`.npy` for a model with one input or output, `.npz` for several.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from zipfile import BadZipFile

import numpy as np

from ntm_serve.client.conversion import Outputs
from ntm_serve.errors import InvalidInput, SettingsFault
from ntm_serve.spec import Array, TensorSpec, expect_names, expect_tensor


def read_inputs(path: Path, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    """The arrays `[T, ...]` of a file, one for each input. Raises InvalidInput."""
    try:
        arrays = _arrays(path, specs)
    except (OSError, ValueError, EOFError, BadZipFile) as fault:
        raise InvalidInput(f"{path}: expected an .npy or .npz file of plain numbers, got: {fault}") from fault
    expect_names(specs, arrays, str(path))
    for spec in specs:
        expect_tensor(spec, arrays[spec.name], leading=("T",))
    counts = {len(array) for array in arrays.values()}
    if len(counts) != 1 or 0 in counts:
        raise InvalidInput(f"{path}: expected the same T >= 1 steps of each input, got {sorted(counts)}")
    return arrays


def read_state(path: Path | None) -> dict[str, Array] | None:
    """The state tensors of an .npz file, by name; None where there is no file. Raises InvalidInput."""
    if path is None:
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, BadZipFile, AttributeError, TypeError) as fault:
        raise InvalidInput(f"{path}: expected an .npz file with state tensors by name, got: {fault}") from fault


def read_sizes(words: Sequence[str]) -> dict[str, int]:
    """Sizes by the name of their axis. Raises InvalidInput."""
    sizes = {}
    for word in words:
        name, _, size = word.partition("=")
        if not (name and size.isascii() and size.isdigit()):
            raise InvalidInput(f"size: expected AXIS=SIZE, as slots=30, got {word!r}")
        sizes[name] = int(size)
    return sizes


def expect_outputs(specs: Sequence[TensorSpec], names: Sequence[str]) -> None:
    """Refuse names of outputs that there are not. Raises InvalidInput."""
    known = [spec.name for spec in specs]
    if not set(names) <= set(known):
        raise InvalidInput(f"output-name: expected some of {known}, got {sorted(set(names) - set(known))}")


def expect_writable(path: Path) -> None:
    """Refuse a place for outputs before any step is made. Raises SettingsFault."""
    if path.is_dir() or not path.parent.is_dir():
        raise SettingsFault(f"output: expected a file in a folder that is there, got {path}")


class ArrayWriter:
    """Collects outputs `[T, ...]`, message by message; the file is written at the end of the block, and not
    where the block failed.
    """

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


def _arrays(path: Path, specs: Sequence[TensorSpec]) -> dict[str, Array]:
    if path.suffix != ".npz":
        if len(specs) != 1:
            raise InvalidInput(f"{path}: expected an .npz with {[spec.name for spec in specs]}, got one array")
        return {specs[0].name: np.lib.format.open_memmap(path, mode="r")}
    # Opened here, as numpy leaves a file open that it cannot read.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}
