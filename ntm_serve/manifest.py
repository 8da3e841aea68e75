"""The manifest: what a model directory says of itself, and the one schema it is written and read by."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ntm_serve.errors import InvalidInput, ModelDamaged, ModelRejected
from ntm_serve.spec import Axis, Range, StateSpec, StepSpec, TensorSpec

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"
INITIAL_STATE_FILE = "initial_state.npz"
GOLDEN_FILE = "golden.npz"
REQUIRED_FILES = (MODEL_FILE, INITIAL_STATE_FILE, GOLDEN_FILE)


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TensorEntry(_Entry):
    """An input or output: the name is also the name in the ONNX graph; the shape is without the batch axis."""

    name: str
    dtype: str
    shape: tuple[int, ...]


class RangeEntry(_Entry):
    """The numbers that an input of whole numbers may have, both bounds included."""

    min: Annotated[int, Field(strict=True)]
    max: Annotated[int, Field(strict=True)]


class InputEntry(TensorEntry):
    """An input. range: None where its numbers may be whatever the dtype holds."""

    range: RangeEntry | None = None


class StateEntry(TensorEntry):
    """A state tensor, the graph input that takes it, the graph output that gives the next one, its role, and the names
    of its axes: see StateSpec.
    """

    role: str = ""
    axes: tuple[str, ...] = ()
    graph_input: str
    graph_output: str


class AxisEntry(_Entry):
    """The sizes that a session may choose for the axes of a name; the shapes have the model's own."""

    min: int
    max: int


class FileEntry(_Entry):
    """A file of the directory, by its content."""

    sha256: str
    size_bytes: int


class Exporter(_Entry):
    """What made the directory."""

    ntm_serve: str
    torch: str = ""
    onnx: str = ""
    onnxruntime: str = ""


class ScoreEntry(_Entry):
    """The task's score by torch and by the server's own engine, on the same sequences; means per sequence.

    wrong_bits: of a task whose outputs are classes, wrong answers. cost_bits_engine and cost_bits_optimal: of a task
    of chance what the outputs cost, and what the best that there can be cost; None of any other task.
    """

    length: int
    sequences: int
    seed: int
    wrong_bits_torch: float
    wrong_bits_engine: float
    exact_engine: int
    cost_bits_engine: float | None = None
    cost_bits_optimal: float | None = None

    @property
    def score_engine(self) -> float:
        """What should be small: the wrong bits or answers, or of a task of chance those of cost beyond the optimum."""
        if self.cost_bits_engine is None or self.cost_bits_optimal is None:
            return self.wrong_bits_engine
        return self.cost_bits_engine - self.cost_bits_optimal


class Verification(_Entry):
    """What the export proved, with the tolerance that it set."""

    tolerance: float
    batch_sizes: tuple[int, ...]
    parity_steps: int
    parity_error_max: float
    drift_steps: int
    drift_error_max: float | None
    # Other sizes of the state's axes at which single steps were compared too.
    sizes: tuple[dict[str, int], ...] = ()
    scores: tuple[ScoreEntry, ...] = ()


class Provenance(_Entry):
    """Where the weights come from and under which licence."""

    licence: str = ""
    source: str = ""
    recipe: str = ""
    seed: int | None = None


class Manifest(_Entry):
    """See ARCHITECTURE.md, "Model directory"."""

    schema_version: Literal[1] = 1
    family: str
    task: str = ""
    opset: int
    inputs: tuple[InputEntry, ...]
    outputs: tuple[TensorEntry, ...]
    state: tuple[StateEntry, ...]
    axes: dict[str, AxisEntry] = Field(default_factory=dict)
    files: dict[str, FileEntry]
    exporter: Exporter
    verification: Verification
    provenance: Provenance = Field(default_factory=Provenance)
    # Of everything else in the manifest: it vouches for the other files, and this vouches for it.
    sha256: str = ""

    def step_spec(self) -> StepSpec:
        """The step's spec. Raises ModelRejected where an entry cannot be one."""
        try:
            return StepSpec(
                inputs=tuple(_input_spec(entry) for entry in self.inputs),
                outputs=tuple(TensorSpec(entry.name, entry.dtype, entry.shape) for entry in self.outputs),
                state=tuple(
                    StateSpec(entry.name, entry.dtype, entry.shape, entry.role, entry.axes) for entry in self.state
                ),
                axes=tuple(Axis(name, self._size_of(name), one.min, one.max) for name, one in self.axes.items()),
            )
        except InvalidInput as fault:
            raise ModelRejected(f"{MANIFEST_FILE}: {fault.message}") from fault

    def signed(self) -> "Manifest":
        """The same manifest with the sha256 of its content."""
        return self.model_copy(update={"sha256": content_sha256(self._dumped())})

    def to_json(self) -> str:
        """The text that is written, with a line feed at its end."""
        return json.dumps(self._dumped(), indent=2) + "\n"

    def _dumped(self) -> dict[str, Any]:
        """What is written: of a model whose sizes nobody chooses no word about them, and of an input that takes any
        number no range.
        """
        content = self.model_dump(mode="json")
        for entry in content["inputs"]:
            if entry["range"] is None:
                del entry["range"]
        if not self.axes:
            del content["axes"], content["verification"]["sizes"]
            for entry in content["state"]:
                del entry["axes"]
        return content

    def _size_of(self, axis: str) -> int:
        """The model's own; 0 where no state tensor has the axis, which no spec takes."""
        sizes = [size for one in self.state for name, size in zip(one.axes, one.shape, strict=False) if name == axis]
        return sizes[0] if sizes else 0


def _input_spec(entry: InputEntry) -> TensorSpec:
    bounds = None if entry.range is None else Range(entry.range.min, entry.range.max)
    return TensorSpec(entry.name, entry.dtype, entry.shape, range=bounds)


def content_sha256(entries: Mapping[str, Any]) -> str:
    """The sha256 of a manifest's entries without the one that holds it, whatever their order and spacing."""
    content = {name: entry for name, entry in entries.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def parse_manifest(text: bytes, path: Path) -> Manifest:
    """A manifest from the bytes of its file; `path` is for messages. Raises ModelRejected, ModelDamaged."""
    try:
        entries = json.loads(text)
    except ValueError as fault:
        raise ModelRejected(f"{path}: expected JSON, got: {fault}") from fault
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as fault:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in error['loc']) or 'manifest'}: {error['msg']}" for error in fault.errors()
        )
        raise ModelRejected(f"{path}: {faults}") from fault
    actual = content_sha256(entries)
    if manifest.sha256 != actual:
        raise ModelDamaged(f"{path}: expected content with sha256 {manifest.sha256 or 'of its own'}, got {actual}")
    return manifest
