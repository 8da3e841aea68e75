"""Named arrays from a file, held to the layout of the program that wrote them.

Rules of this file: a file is plain arrays or tensors alone, and nothing in it is unpickled; every fault of a file is
told in one message, with the array's name, the expected and the actual; sizes are read off the arrays, so a layout
fits a model of any size.
"""

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ntm_exporter.errors import SourceFault

Arrays = Mapping[str, NDArray[np.float64]]

# Of each array, in the order of its axes: a number, or a sum of letters with factors: "I+M", "4C", "NM".
Layout = Mapping[str, str]

# How a program's weights are stored does not change what they are; a whole number or a text is no weight.
FLOATS = ("float16", "float32", "float64")

TERM = re.compile(r"(\d*)([A-Z]*)")


def read_arrays(path: Path, unused: Iterable[str] = ()) -> dict[str, NDArray[np.float64]]:
    """The arrays of an .npz file or of a torch state_dict, by name, without those of the names `unused`.

    Raises SourceFault.
    """
    try:
        with path.open("rb") as file:
            plain = zipfile.is_zipfile(file) and _is_npz(path)
        raw = _npz(path) if plain else _state_dict(path)
    except OSError as fault:
        raise SourceFault(f"{path}: cannot be read: {fault.strerror or fault}") from fault
    faults, arrays = [], {}
    for name, array in raw.items():
        if name in unused:
            continue
        if str(array.dtype) not in FLOATS:
            faults.append(f"{name}: expected one of {', '.join(FLOATS)}, got {array.dtype}")
        elif not np.isfinite(array).all():
            faults.append(f"{name}: expected finite numbers, got NaN or infinity")
        arrays[name] = array
    if faults:
        raise SourceFault(f"{path}: {'; '.join(faults)}")
    # Sums of what is stored apart are rounded once, when all is done.
    return {name: np.asarray(array, np.float64) for name, array in arrays.items()}


def expect_layout(arrays: Arrays, layout: Layout, *, of: str) -> dict[str, int]:
    """The sizes behind the layout's letters. Raises SourceFault where names or shapes are not the layout's."""
    faults = [f"{name}: expected [{axes}], got nothing" for name, axes in _spelt(layout) if name not in arrays]
    faults += [f"{name}: expected no such array, got {_shape(arrays[name])}" for name in arrays if name not in layout]
    present = {name: axes.split() for name, axes in layout.items() if name in arrays}
    sizes = _sizes(arrays, present)
    for name, axes in present.items():
        expected = [_value(axis, sizes) for axis in axes]
        if list(arrays[name].shape) != expected:
            numbers = ", ".join("?" if size is None else str(size) for size in expected)
            faults.append(f"{name}: expected [{', '.join(axes)}] = [{numbers}], got {_shape(arrays[name])}")
    if faults:
        raise SourceFault(f"expected the arrays of {of}, got others: {'; '.join(faults)}")
    return sizes


def _is_npz(path: Path) -> bool:
    """torch writes zip archives too; only numpy's have files that end so, and nothing else."""
    with zipfile.ZipFile(path) as archive:
        return all(name.endswith(".npy") for name in archive.namelist())


def _npz(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as fault:
        raise SourceFault(f"{path}: expected plain arrays, as numpy.savez writes them: {fault}") from fault


def _state_dict(path: Path) -> dict[str, NDArray[np.generic]]:
    expected = "expected an .npz file of plain arrays, or tensors alone, as torch.save(module.state_dict()) writes them"
    try:
        with warnings.catch_warnings():
            # torch warns of a pickle that it then refuses.
            warnings.simplefilter("ignore")
            state = torch.load(path, weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as fault:
        raise SourceFault(f"{path}: {expected}") from fault
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise SourceFault(f"{path}: {expected}; got a {type(state).__name__}")
    return {str(name): value.numpy() for name, value in state.items()}


def _sizes(arrays: Arrays, present: Mapping[str, list[str]]) -> dict[str, int]:
    """Letters from the arrays in the layout's order; then those that stand in sums or products with known ones."""
    sizes: dict[str, int] = {}
    for _ in range(2):
        for name, axes in present.items():
            if arrays[name].ndim != len(axes):
                continue
            for axis, size in zip(axes, arrays[name].shape, strict=True):
                unknown = {letter for letter in axis if letter.isalpha() and letter not in sizes}
                if len(unknown) == 1:
                    letter = unknown.pop()
                    at_0, at_1 = (_value(axis, {**sizes, letter: tried}) for tried in (0, 1))
                    assert at_0 is not None
                    assert at_1 is not None
                    if size > at_0 and (size - at_0) % (at_1 - at_0) == 0:
                        sizes[letter] = (size - at_0) // (at_1 - at_0)
    return sizes


def _value(axis: str, sizes: Mapping[str, int]) -> int | None:
    """The number behind "I+M" or "4C"; None where a letter is not known."""
    total = 0
    for term in axis.split("+"):
        matched = TERM.fullmatch(term)
        assert matched, axis
        factor = int(matched[1] or 1)
        for letter in matched[2]:
            if letter not in sizes:
                return None
            factor *= sizes[letter]
        total += factor
    return total


def _spelt(layout: Layout) -> list[tuple[str, str]]:
    return [(name, ", ".join(axes.split())) for name, axes in layout.items()]


def _shape(array: NDArray[np.float64]) -> str:
    return f"[{', '.join(str(size) for size in array.shape)}]"
