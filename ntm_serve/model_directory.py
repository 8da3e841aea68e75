"""A model directory, read and checked: every file by its sha256, every array against its spec.

A model directory is data: reading one runs no code, and no pickle is ever read.
"""

import hashlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ntm_serve.errors import InvalidInput, ModelDamaged, ModelIncomplete, ModelRejected
from ntm_serve.manifest import (
    GOLDEN_FILE,
    INITIAL_STATE_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    REQUIRED_FILES,
    Manifest,
    parse_manifest,
)
from ntm_serve.sizes import expect_same_along_axes
from ntm_serve.spec import Array, StepSpec, TensorSpec, expect_names, expect_tensor, expect_within, frozen
from ntm_serve.step_model import State


@dataclass(frozen=True)
class Golden:
    """A recorded run of T steps of one session: inputs and outputs `[T, ...]`, state `[T + 1, ...]`, each
    in the order of its specs. state[0] is the initial state, state[t + 1] what step t left.
    """

    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    state: tuple[Array, ...]

    @property
    def steps(self) -> int:
        return len(self.inputs[0])


@dataclass(frozen=True)
class ModelDirectory:
    """The content of a model directory whose files are what its manifest promises."""

    path: Path
    manifest: Manifest
    spec: StepSpec
    digest: str
    model: bytes
    initial_state: State
    golden: Golden


def read_model_directory(path: Path) -> ModelDirectory:
    """Read and check a model directory. Raises ModelIncomplete, ModelDamaged, ModelRejected."""
    text = _content(path / MANIFEST_FILE)
    manifest = parse_manifest(text, path / MANIFEST_FILE)
    spec = manifest.step_spec()
    unlisted = [name for name in REQUIRED_FILES if name not in manifest.files]
    if unlisted:
        raise ModelRejected(f"{path / MANIFEST_FILE}: files: expected {list(REQUIRED_FILES)}, missing {unlisted}")
    contents = {name: _checked_content(path, name, manifest) for name in manifest.files}
    initial = _arrays(contents[INITIAL_STATE_FILE], path / INITIAL_STATE_FILE)
    golden = _arrays(contents[GOLDEN_FILE], path / GOLDEN_FILE)
    try:
        initial_state = _by_spec(spec.state, initial, "initial state", leading=())
        expect_same_along_axes(spec, initial_state)
        return ModelDirectory(
            path=path,
            manifest=manifest,
            spec=spec,
            digest=hashlib.sha256(text).hexdigest(),
            model=contents[MODEL_FILE],
            initial_state=initial_state,
            golden=golden_run(spec, golden),
        )
    except InvalidInput as fault:
        raise ModelRejected(f"{path}: {fault.message}") from fault


def golden_arrays(spec: StepSpec, golden: Golden) -> dict[str, Array]:
    """The arrays of a golden run under the names that they have in its file."""
    parts = (
        ("inputs", spec.inputs, golden.inputs),
        ("outputs", spec.outputs, golden.outputs),
        ("state", spec.state, golden.state),
    )
    return {
        f"{kind}/{one.name}": array for kind, specs, arrays in parts for one, array in zip(specs, arrays, strict=True)
    }


def golden_run(spec: StepSpec, arrays: Mapping[str, Array]) -> Golden:
    """A golden run from the arrays of its file. Raises InvalidInput."""
    parts = {
        kind: _by_spec(
            specs,
            {name.removeprefix(f"{kind}/"): array for name, array in arrays.items() if name.startswith(f"{kind}/")},
            f"golden {kind}",
            leading=("T",),
        )
        for kind, specs in (("inputs", spec.inputs), ("outputs", spec.outputs), ("state", spec.state))
    }
    steps = len(parts["inputs"][0])
    lengths = {len(array) for array in parts["inputs"] + parts["outputs"]} | {len(a) - 1 for a in parts["state"]}
    if steps < 1 or lengths != {steps}:
        raise InvalidInput(f"golden run: expected T >= 1 inputs and outputs and T + 1 states, got {sorted(lengths)}")
    for place, bounds in spec.ranged:
        expect_within(f"golden inputs: {spec.inputs[place].name}", parts["inputs"][place], bounds)
    return Golden(parts["inputs"], parts["outputs"], parts["state"])


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as fault:
        raise ModelIncomplete(f"{path}: expected a readable file, got: {fault.strerror}") from fault


def _checked_content(folder: Path, name: str, manifest: Manifest) -> bytes:
    if Path(name).name != name:
        raise ModelRejected(f"{folder / MANIFEST_FILE}: files: expected plain file names, got {name!r}")
    content, promised = _content(folder / name), manifest.files[name]
    actual = hashlib.sha256(content).hexdigest()
    if actual != promised.sha256:
        raise ModelDamaged(
            f"{folder / name}: expected {promised.size_bytes} bytes with sha256 {promised.sha256}, "
            f"got {len(content)} bytes with sha256 {actual}"
        )
    return content


def _arrays(content: bytes, path: Path) -> dict[str, Array]:
    try:
        archive = np.load(io.BytesIO(content), allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("a single array")
        with archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, OSError, BadZipFile, EOFError) as fault:
        raise ModelRejected(f"{path}: expected an npz archive of plain arrays, got: {fault}") from fault


def _by_spec(
    specs: Sequence[TensorSpec], arrays: Mapping[str, Any], kind: str, *, leading: tuple[str, ...]
) -> tuple[Array, ...]:
    expect_names(specs, arrays, kind)
    for spec in specs:
        expect_tensor(spec, arrays[spec.name], leading=leading)
    return tuple(frozen(np.asarray(arrays[spec.name], order="C")) for spec in specs)
