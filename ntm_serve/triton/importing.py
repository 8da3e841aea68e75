"""Import: the models of a Triton repository, read, run, and written as model directories.

Rules of this file: a directory is written whole, and loaded as a server will before it has its name; a model that is
refused keeps none of its neighbours from being imported; nothing of Triton's is run, and nothing of it is changed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import ntm_serve
from ntm_serve.bundle import NAME, VERSION, file_entries, npz, target_directory, write_directory
from ntm_serve.engine import ORT_VERSION, OrtEngine
from ntm_serve.errors import ModelRejected, NtmServeError, SettingsFault
from ntm_serve.inference.model_config_pb2 import ModelConfig
from ntm_serve.manifest import (
    GOLDEN_FILE,
    INITIAL_STATE_FILE,
    MODEL_FILE,
    Exporter,
    InputEntry,
    Manifest,
    Provenance,
    StateEntry,
    TensorEntry,
    Verification,
)
from ntm_serve.model_directory import Golden, golden_arrays, read_model_directory
from ntm_serve.step_model import BatchIndependence
from ntm_serve.triton.config import Config, read_config
from ntm_serve.triton.graph import changed, read_graph
from ntm_serve.triton.meaning import expect_servable, ignored
from ntm_serve.triton.plan import Plan, Wishes, plan_of
from ntm_serve.triton.recording import Example, recorded_run

CONFIG_FILE = "config.pbtxt"
INITIAL_STATE_FOLDER = "initial_state"

LEFT_ALONE = "a version has no leading zero and at most nine digits"

# How far another machine's kernels may differ from the recorded run: as an export's.
TOLERANCE = 1e-5

# Up to which batch a new directory is tested at once; a server tests on.
BATCH_MAX = 64


@dataclass(frozen=True)
class Options:
    """What the user decides. models: their names; none is all. example: inputs for the recorded run; None makes them
    up.
    """

    out: Path
    models: Sequence[str] = ()
    wishes: Wishes = field(default_factory=Wishes)
    example: Example | None = None
    licence: str = "unknown"
    force: bool = False


@dataclass(frozen=True)
class Imported:
    """What became of a version of a model. path: where it was written, None where it was refused with the fault."""

    model: str
    version: str
    path: Path | None = None
    notes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    fault: NtmServeError | None = None


def import_repository(repository: Path, options: Options) -> Iterator[Imported]:
    """Each version that Triton would serve, as it is done. Raises SettingsFault."""
    for folder in _folders(repository, options.models):
        try:
            config = _config(folder)
            versions = _versions(folder, config.model)
        except Exception as fault:
            yield Imported(folder.name, "", fault=_refusal(folder, fault))
            continue
        for version in versions:
            yield _import(folder, version, config, options)


def _refusal(folder: Path, fault: Exception) -> NtmServeError:
    """The boundary: whatever is in a folder, its neighbours are imported."""
    if isinstance(fault, NtmServeError):
        return fault
    if isinstance(fault, OSError):
        return ModelRejected(f"{folder}: expected readable files, got: {fault}")
    return ModelRejected(f"{folder}: cannot be imported: {fault!r}")


def _folders(repository: Path, wanted: Sequence[str]) -> list[Path]:
    if not repository.is_dir():
        raise SettingsFault(f"expected a Triton model repository, got {repository}, which is not a folder")
    if (repository / CONFIG_FILE).exists():
        above = repository.resolve().parent
        raise SettingsFault(f"{repository}: is a model of a Triton repository, expected the repository: {above}")
    folders = sorted(one for one in repository.iterdir() if one.is_dir() and not one.name.startswith("."))
    missing = sorted(set(wanted) - {one.name for one in folders})
    if missing or not folders:
        raise SettingsFault(
            f"{repository}: expected folders of models {missing or ''}, got {[f.name for f in folders]}"
        )
    return [one for one in folders if not wanted or one.name in wanted]


def _config(folder: Path) -> Config:
    """A model's config; where there is none, all is in the graph. Raises ModelRejected."""
    path = folder / CONFIG_FILE
    try:
        text = _content(path).decode()
    except FileNotFoundError:
        text = ""
    except (OSError, UnicodeError) as fault:
        raise ModelRejected(f"{path}: expected a readable text, got: {fault}") from fault
    config = read_config(text, path)
    if config.model.name not in ("", folder.name):
        raise ModelRejected(f"{path}: name: expected that of its folder, {folder.name}, got {config.model.name!r}")
    if not NAME.fullmatch(folder.name):
        raise ModelRejected(f"{folder}: expected a name of letters, digits and '.', '_', '-', got {folder.name!r}")
    expect_servable(config, path)
    return config


def _versions(folder: Path, config: ModelConfig) -> list[str]:
    """The versions that Triton would serve: the highest where nothing is said. Raises ModelRejected."""
    found = sorted((one.name for one in folder.iterdir() if one.is_dir() and VERSION.fullmatch(one.name)), key=int)
    policy = config.version_policy
    if not found:
        others = f"none; {LEFT_ALONE}: {left_alone}" if (left_alone := _left_alone(folder)) else "none"
        raise ModelRejected(f"{folder}: expected folders of versions named by whole numbers from 1 on, got {others}")
    if policy.WhichOneof("policy_choice") == "all":
        return found
    if policy.WhichOneof("policy_choice") == "specific":
        wanted = list(dict.fromkeys(str(one) for one in policy.specific.versions))
        if missing := [one for one in wanted if one not in found]:
            raise ModelRejected(f"{folder}: version_policy: expected versions {missing}, got {found}")
        return wanted
    return found[-(policy.latest.num_versions or 1) :]


def _left_alone(folder: Path) -> list[str]:
    """Folders with the name of a number that is no version's: 01 would be another 1."""
    return sorted(
        one.name for one in folder.iterdir() if one.is_dir() and one.name.isdigit() and not VERSION.fullmatch(one.name)
    )


def _import(folder: Path, version: str, config: Config, options: Options) -> Imported:
    folders = [f"folder {name}: {LEFT_ALONE}" for name in _left_alone(folder)]
    named = partial(Imported, folder.name, version, ignored=(*ignored(config), *folders))
    try:
        target = target_directory(options.out, folder.name, version, force=options.force, version_chosen=False)
        path = _model_file(folder / version, config.model)
        graph = read_graph(path.read_bytes(), path)
        plan = plan_of(config, graph, options.wishes, name=path, read_initial=partial(_initial_state, folder))
        model = changed(graph, flags=plan.flags, left_out=plan.left_out)
        golden = recorded_run(model, path, plan, options.example)
        independence = _write(target, model, graph.opset, plan, golden, folder.name, options)
    except Exception as fault:
        return named(fault=_refusal(folder / version, fault))
    notes = plan.notes if independence.holds else (*plan.notes, "bits depend on the batch on this machine")
    return named(path=target, notes=notes)


def _model_file(folder: Path, config: ModelConfig) -> Path:
    name = config.default_model_filename or MODEL_FILE
    path = folder / name
    if "\0" in name:
        raise ModelRejected(f"{folder}: default_model_filename: expected the name of a file, got {name!r}")
    if Path(name).name != name or not path.is_file():
        raise ModelRejected(f"{path}: expected the model as one file, got {'a folder' if path.is_dir() else 'none'}")
    return path


def _initial_state(folder: Path, file: str) -> bytes:
    if Path(file).name != file:
        raise OSError(f"a name without folders, in {INITIAL_STATE_FOLDER}")
    return _content(folder / INITIAL_STATE_FOLDER / file)


def _content(path: Path) -> bytes:
    """A file's bytes. Raises OSError also for a pipe or a device, which may have no end."""
    if not path.is_file() and path.exists():
        raise OSError(f"{path} is no file")
    return path.read_bytes()


def _write(
    target: Path, model: bytes, opset: int, plan: Plan, golden: Golden, name: str, options: Options
) -> BatchIndependence:
    """Write the directory, once a server could load it. Raises SettingsFault, ModelRejected, ModelDamaged."""
    found: list[BatchIndependence] = []

    def load(folder: Path) -> None:
        directory = read_model_directory(folder)
        engine = OrtEngine(directory, name=name, version=target.name, batch_max=BATCH_MAX)
        found.append(engine.batch_independence)

    manifest = _manifest(plan, golden, opset, name, options.licence)
    arrays = {one.name: one.initial for one in plan.state}
    golden_file = npz(golden_arrays(manifest.step_spec(), golden))
    files = {MODEL_FILE: model, INITIAL_STATE_FILE: npz(arrays), GOLDEN_FILE: golden_file}
    signed = manifest.model_copy(update={"files": file_entries(files)}).signed()
    write_directory(target, files, signed, force=options.force, check=load)
    return found[0]


def _manifest(plan: Plan, golden: Golden, opset: int, name: str, licence: str) -> Manifest:
    shaped = zip(plan.outputs, golden.outputs, strict=True)
    return Manifest(
        family="onnx",
        opset=opset,
        inputs=tuple(InputEntry(name=one.name, dtype=one.dtype, shape=one.fixed) for one in plan.inputs),
        outputs=tuple(TensorEntry(name=one.name, dtype=one.dtype, shape=array.shape[1:]) for one, array in shaped),
        state=tuple(
            StateEntry(
                name=one.name,
                dtype=one.initial.dtype.name,
                shape=one.initial.shape,
                role=one.role,
                graph_input=one.name,
                graph_output=one.graph_output,
            )
            for one in plan.state
        ),
        files={},
        exporter=Exporter(ntm_serve=ntm_serve.__version__, onnxruntime=ORT_VERSION),
        # The graph is what was there before: nothing was traced that could differ from it.
        verification=Verification(
            tolerance=TOLERANCE,
            batch_sizes=(),
            parity_steps=0,
            parity_error_max=0.0,
            drift_steps=0,
            drift_error_max=None,
        ),
        provenance=Provenance(licence=licence, source=f"Triton model repository, model {name}"),
    )
