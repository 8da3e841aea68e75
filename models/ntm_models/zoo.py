"""The zoo: every trained model that is shipped, what it promises, and whether a server gives it.

Rules of this file: no torch; a promise is read from the files and measured through a server; what a card says
of sequences that can be drawn again is measured on those, what a recipe claims on fresh ones.
"""

import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ntm_models.errors import EvaluationFault
from ntm_models.evaluate import Evaluation, evaluate, task_for
from ntm_models.recipe import RECIPES, Claim, parse_recipe
from ntm_models.tasks import TASKS
from ntm_serve.client import Client
from ntm_serve.manifest import MANIFEST_FILE, Manifest, ScoreEntry

# Of the fresh sequences: the seed of no training, no selection and no export.
FRESH_SEED = 20_261_121
FRESH_SEQUENCES = 100

# How far a figure that is measured again may be from the card's. On the machine that made the card it is the same
# one; another machine's last bits can turn an output that lies at the threshold, and a memory carries that on.
FIGURE_SLACK_BITS, FIGURE_SLACK_SHARE = 0.05, 0.05


Advance = Callable[[], object]


@dataclass(frozen=True)
class Entry:
    """One version of one model of the zoo. claims: those of its recipe; none where it has no recipe here."""

    name: str
    version: str
    manifest: Manifest
    claims: tuple[Claim, ...]

    @property
    def scored(self) -> bool:
        """Whether the model learned a task that can be scored here."""
        return self.manifest.task in TASKS


@dataclass(frozen=True)
class Finding:
    """One promise and what was measured. fault: what does not hold; empty where it does."""

    entry: Entry
    promise: str
    measured: Evaluation
    fault: str = ""


def read_zoo(folder: Path, recipes: Path = RECIPES) -> list[Entry]:
    """Every entry of a repository of models, by name and version. Raises EvaluationFault."""
    entries = []
    for path in sorted(folder.glob(f"*/*/{MANIFEST_FILE}")):
        try:
            manifest = Manifest.model_validate_json(path.read_bytes())
        except ValidationError as fault:
            raise EvaluationFault(f"{path}: expected a manifest: {fault}") from fault
        recipe = recipes / f"{manifest.provenance.recipe}.toml"
        claims: tuple[Claim, ...] = ()
        if manifest.provenance.recipe and recipe.is_file():
            claims = parse_recipe(tomllib.loads(recipe.read_text(encoding="utf-8"))).claims
        entries.append(Entry(path.parts[-3], path.parts[-2], manifest, claims))
    return entries


def check(client: Client, entry: Entry, *, advance: Advance = lambda: None) -> Iterator[Finding]:
    """Measure every promise of an entry through a server. Raises EvaluationFault, and what the client raises."""
    for claim in entry.claims if entry.scored else ():
        measured = _measured(client, entry, claim.length, FRESH_SEQUENCES, FRESH_SEED, advance)
        yield Finding(entry, promise_of(claim, measured.unit), measured, fault_of_claim(claim, measured))
    for figure in entry.manifest.verification.scores if entry.scored else ():
        measured = _measured(client, entry, figure.length, figure.sequences, figure.seed, advance)
        promise = f"{figure.score_engine:g} {measured.unit} on the card's sequences"
        yield Finding(entry, promise, measured, fault_of_figure(figure, measured))


def survey(client: Client, entry: Entry, *, advance: Advance = lambda: None) -> Iterator[Finding]:
    """Measure an entry on fresh sequences of every length that its task shows or its recipe claims something of.

    Raises as `check`.
    """
    claims = {claim.length: claim for claim in entry.claims}
    for length in lengths_of(entry):
        measured = _measured(client, entry, length, FRESH_SEQUENCES, FRESH_SEED, advance)
        if claim := claims.get(length):
            yield Finding(entry, promise_of(claim, measured.unit), measured, fault_of_claim(claim, measured))
        else:
            yield Finding(entry, "", measured)


def lengths_of(entry: Entry) -> list[int]:
    """The lengths that a survey measures."""
    shown = TASKS[entry.manifest.task].lengths_shown if entry.scored else ()
    return sorted({*shown, *(claim.length for claim in entry.claims)})


def sequences_to_check(entry: Entry) -> int:
    """How many sequences `check` runs, for a bar."""
    figures = sum(figure.sequences for figure in entry.manifest.verification.scores)
    return FRESH_SEQUENCES * len(entry.claims) + figures if entry.scored else 0


def sequences_to_survey(entry: Entry) -> int:
    """How many sequences `survey` runs, for a bar."""
    return FRESH_SEQUENCES * len(lengths_of(entry))


def _measured(client: Client, entry: Entry, length: int, sequences: int, seed: int, advance: Advance) -> Evaluation:
    task = task_for(client.model(entry.name, entry.version), entry.manifest.task)
    return evaluate(
        client, entry.name, task, version=entry.version, length=length, sequences=sequences, seed=seed, advance=advance
    )


def promise_of(claim: Claim, unit: str = "bits") -> str:
    """A claim in words."""
    exact = f", {claim.exact_min} of {FRESH_SEQUENCES} exact" if claim.exact_min else ""
    return f"at most {claim.score_max:g} {unit}{exact}"


def fault_of_claim(claim: Claim, measured: Evaluation) -> str:
    """What of a claim does not hold; empty where it does."""
    if not measured.score <= claim.score_max:
        return f"expected at most {claim.score_max:g} {measured.unit}, got {measured.score:g}"
    if claim.exact_min and (measured.exact is None or measured.exact < claim.exact_min):
        nothing_wrong = f"no wrong {measured.unit.removesuffix('s')} in {claim.exact_min}"
        return f"expected {nothing_wrong} of {measured.sequences} sequences, got {measured.exact}"
    return ""


def fault_of_figure(figure: ScoreEntry, measured: Evaluation) -> str:
    """What of a card's figure does not hold; empty where it does."""
    slack = FIGURE_SLACK_BITS + FIGURE_SLACK_SHARE * abs(figure.score_engine)
    if not abs(measured.score - figure.score_engine) <= slack:
        card = f"the card's {figure.score_engine:g} {measured.unit}"
        return f"expected {card} within {slack:.2g}, got {measured.score:g}"
    return ""
