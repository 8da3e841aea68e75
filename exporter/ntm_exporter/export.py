"""One export, from a source to a model directory: examine, trace, prove, write, read back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from torch import nn

from ntm_exporter.candidate import Candidate, make_candidate
from ntm_exporter.card import CARD_FILE, CardFacts, card
from ntm_exporter.choice import further_sizes
from ntm_exporter.source import Source
from ntm_exporter.verify import (
    Drift,
    Parity,
    Score,
    engine_rows,
    free_drift,
    one_step_parity,
    parity_at_sizes,
    score,
    torch_rows,
)
from ntm_serve.bundle import file_entries, npz, target_directory, write_directory
from ntm_serve.errors import SettingsFault
from ntm_serve.manifest import GOLDEN_FILE, INITIAL_STATE_FILE, MODEL_FILE, Manifest, Provenance, Verification
from ntm_serve.model_directory import golden_arrays, read_model_directory
from ntm_serve.sizes import Sizes

CURVE_SUFFIXES = (".svg", ".png")

STAGES = ("examine the step", "trace it", "compare single steps", "measure drift", "score the task", "write")

Report = Callable[[str], None]


def unheard(stage: str) -> None:
    """The report of an export that nobody watches."""


@dataclass(frozen=True)
class Options:
    """What the user decides. name: None takes the source's. curve: a picture of the training. sizes: the least and the
    most of axes of the state, by name, that sessions may choose.
    """

    out: Path
    name: str | None = None
    version: str = "1"
    tolerance: float = 1e-5
    sequences: int = 100
    licence: str = ""
    provenance: str = ""
    curve: Path | None = None
    force: bool = False
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Proof:
    """What was measured."""

    parity: Parity
    drift: Drift
    scores: tuple[Score, ...]
    # Where a session may choose the sizes of its state: those at which single steps were compared too.
    sizes: tuple[Sizes, ...] = ()


@dataclass(frozen=True)
class Exported:
    """A finished model directory."""

    path: Path
    manifest: Manifest
    proof: Proof


def export(source: Source, options: Options, report: Report = unheard) -> Exported:
    """Export, or refuse and leave the target as it was. Raises ExportFault, SettingsFault, ModelRejected,
    ModelDamaged.
    """
    name = options.name or source.name
    target = target_directory(options.out, name, options.version, force=options.force)
    curve = _curve_file(options.curve)
    report(STAGES[0])
    candidate = make_candidate(source, lambda: report(STAGES[1]), sizes=options.sizes)
    proof = prove(candidate, options, report)
    report(STAGES[5])
    files = {
        MODEL_FILE: candidate.traced.model,
        INITIAL_STATE_FILE: npz(candidate.initial_by_name()),
        GOLDEN_FILE: npz(golden_arrays(candidate.spec, candidate.golden)),
    }
    manifest = candidate.manifest(_verification(options, proof), _provenance(source, options))
    facts = _facts(candidate, manifest, proof, name=name, version=options.version, files=files, curve=curve)
    files |= {**curve, CARD_FILE: card(facts).encode()}
    manifest = manifest.model_copy(update={"files": file_entries(files)}).signed()
    check = partial(_read_back, name=name, version=options.version)
    write_directory(target, files, manifest, force=options.force, check=check)
    return Exported(target, manifest, proof)


def prove(candidate: Candidate, options: Options, report: Report = unheard) -> Proof:
    """Compare the graph, on the server's own engine, with the step in torch. Raises ProofFault."""
    source, spec, initial = candidate.source, candidate.spec, candidate.initial
    wanted = torch_rows(source.step, spec)
    directory = candidate.in_memory()
    actual = engine_rows(directory, name=source.name, version=options.version)
    report(STAGES[2])
    parity = one_step_parity(
        wanted, actual, spec=spec, initial=initial, examples=candidate.examples, given=candidate.given,
        tolerance=options.tolerance,
    )  # fmt: skip
    further = tuple(further_sizes(spec))
    at_sizes = partial(parity_at_sizes, wanted, directory, examples=candidate.examples, tolerance=options.tolerance)
    errors = [parity.error_max, *(at_sizes(sizes=sizes).error_max for sizes in further)]
    parity = replace(parity, error_max=max(errors))
    report(STAGES[3])
    drift = free_drift(wanted, actual, spec=spec, initial=initial, examples=candidate.examples, given=candidate.given)
    report(STAGES[4])
    if source.scored is None:
        return Proof(parity, drift, (), further)
    scored = partial(score, wanted, actual, spec=spec, initial=initial, task=source.scored, sequences=options.sequences)
    return Proof(parity, drift, tuple(scored(length=length) for length in source.scored.lengths_shown), further)


def _verification(options: Options, proof: Proof) -> Verification:
    return Verification(
        tolerance=options.tolerance,
        batch_sizes=proof.parity.batch_sizes,
        parity_steps=proof.parity.steps,
        parity_error_max=proof.parity.error_max,
        drift_steps=proof.drift.steps,
        drift_error_max=proof.drift.error_max,
        sizes=tuple(dict(sizes) for sizes in proof.sizes),
        scores=tuple(one.entry for one in proof.scores),
    )


def _provenance(source: Source, options: Options) -> Provenance:
    said = [options.provenance, *(f"{name} {size}" for name, size in source.sizes.items())]
    origin = ", ".join(one for one in said if one)
    return Provenance(licence=options.licence, source=origin, recipe=source.recipe, seed=source.seed)


def _facts(
    candidate: Candidate, manifest: Manifest, proof: Proof, *,
    name: str, version: str, files: dict[str, bytes], curve: dict[str, bytes],
) -> CardFacts:  # fmt: skip
    step = candidate.source.step
    return CardFacts(
        name=name,
        version=version,
        family=manifest.family,
        task=manifest.task,
        spec=candidate.spec,
        opset=manifest.opset,
        parameters=sum(each.numel() for each in step.parameters()) if isinstance(step, nn.Module) else None,
        sizes={file: len(content) for file, content in files.items()},
        tolerance=manifest.verification.tolerance,
        parity=proof.parity,
        drift=proof.drift,
        scores=proof.scores,
        provenance=manifest.provenance,
        recipe_text=candidate.source.recipe_text,
        exporter=manifest.exporter,
        curve=next(iter(curve), None),
        given=tuple(candidate.given(0)),
    )


def _read_back(folder: Path, *, name: str, version: str) -> None:
    """Load what was written as the server will: by its files, its golden run and its tolerance."""
    engine_rows(read_model_directory(folder), name=name, version=version)


def _curve_file(path: Path | None) -> dict[str, bytes]:
    """The picture under the name that it has in every model directory. Raises SettingsFault."""
    if path is None:
        return {}
    if path.suffix not in CURVE_SUFFIXES:
        raise SettingsFault(f"--curve: expected a file ending in {' or '.join(CURVE_SUFFIXES)}, got {str(path)!r}")
    try:
        return {f"curve{path.suffix}": path.read_bytes()}
    except OSError as fault:
        raise SettingsFault(f"--curve: {path}: cannot be read: {fault.strerror}") from fault
