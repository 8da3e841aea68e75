"""docs/zoo.md: what every model of the zoo scored through a server, as markdown. Pure: findings in, text out."""

from collections.abc import Sequence

from ntm_models.tasks import TASKS
from ntm_models.zoo import FRESH_SEED, FRESH_SEQUENCES, Entry, Finding

HEAD = f"""# The zoo

Written by `make zoo-report` from runs through a server; `make zoo-check` measures it all again, on the sequences of
the cards too, and fails where a promise does not hold. Each figure is the mean of {FRESH_SEQUENCES} sequences that no
training and no selection saw (seed {FRESH_SEED}). Bits are wrong output bits per sequence, at threshold one half; of
tasks whose outputs are classes, answers are those where another class than the right one is the likeliest. Of
dynamic N-grams, whose wanted outputs are drawn by chance, they are bits of cost beyond the optimal estimator's.
"Exact" counts the sequences without a wrong bit or answer. What a recipe promises of a length stands beside the figure.
"""


def report(measured: Sequence[tuple[Entry, Sequence[Finding]]]) -> str:
    """The document. measured: every entry of the zoo, with what it scored on fresh sequences."""
    sections = [HEAD.strip()]
    for name in [*TASKS, ""]:
        of_task = [one for one in measured if (one[0].manifest.task if one[0].scored else "") == name]
        if of_task:
            sections += [f"## {_title(name)}", *(_section(entry, findings) for entry, findings in of_task)]
    return "\n\n".join(sections) + "\n"


def _title(task: str) -> str:
    return f"{task}: lengths are {TASKS[task].length_means}" if task else "Not scored"


def _section(entry: Entry, findings: Sequence[Finding]) -> str:
    origin = entry.manifest.provenance
    size = sum(file.size_bytes for file in entry.manifest.files.values())
    head = (
        f"### [{entry.name}](../models/zoo/{entry.name}/{entry.version}/README.md), version {entry.version}\n\n"
        f"Family {entry.manifest.family}, {size:,} bytes, {origin.source or 'source not stated'}."
    )
    rows = [_row(finding) for finding in findings]
    if not rows:
        return head
    columns = ("length", "steps", findings[0].measured.unit, "exact", "promised")
    return head + "\n\n" + "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, ["---"] * len(columns), *rows))


def _row(finding: Finding) -> tuple[str, ...]:
    one = finding.measured
    bits = f"{one.score:.3g}"
    if one.cost is not None and one.optimum is not None:
        bits += f" ({one.cost:.4g} of cost, {one.optimum:.4g} the optimum)"
    exact = "" if one.exact is None else f"{one.exact} of {one.sequences}"
    promised = f"{finding.promise}{': not held' if finding.fault else ''}"
    return str(one.length), str(one.steps), bits, exact, promised
