"""The card: what a reader wants to know of a model directory before serving it, as markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ntm_exporter.verify import Drift, Parity, Score
from ntm_serve.manifest import Exporter, Provenance
from ntm_serve.spec import StepSpec, TensorSpec

CARD_FILE = "README.md"
NOT_STATED = "not stated"


@dataclass(frozen=True)
class CardFacts:
    """Everything that the card says. curve: the file of the training curve's picture, where there is one. given: the
    state tensors that sessions are given when they open.
    """

    name: str
    version: str
    family: str
    task: str
    spec: StepSpec
    opset: int
    parameters: int | None
    sizes: Mapping[str, int]
    tolerance: float
    parity: Parity
    drift: Drift
    scores: Sequence[Score]
    provenance: Provenance
    recipe_text: str
    exporter: Exporter
    curve: str | None
    given: Sequence[str]


def card(facts: CardFacts) -> str:
    """The card's text."""
    sections = (_head, _scores, _curve, _tensors, _proof, _serving, _recipe)
    return "\n\n".join(text for text in (section(facts) for section in sections) if text) + "\n"


def _head(facts: CardFacts) -> str:
    origin = facts.provenance
    rows = [
        ("family", facts.family),
        ("task", facts.task or NOT_STATED),
        ("recipe", origin.recipe + ("" if origin.seed is None else f", seed {origin.seed}")),
        ("parameters", "" if facts.parameters is None else f"{facts.parameters:,}"),
        ("state of one session", f"{facts.spec.state_bytes:,} bytes"),
        ("files", ", ".join(f"{name} {size:,} bytes" for name, size in facts.sizes.items())),
        ("ONNX opset", str(facts.opset)),
        ("licence of the weights", origin.licence or NOT_STATED),
        ("source of the weights", origin.source or NOT_STATED),
    ]
    return f"# {facts.name}, version {facts.version}\n\n" + _table(("", ""), [row for row in rows if row[1]])


def _scores(facts: CardFacts) -> str:
    if not facts.scores:
        return ""
    first = facts.scores[0].entry
    undecided = sum(one.undecided for one in facts.scores)
    unit = facts.scores[0].unit
    note = f"\n\n{undecided} outputs lay so near to the threshold that they are no {unit}." if undecided else ""
    if first.cost_bits_engine is not None:
        return (
            "## Bits of cost\n\n"
            f"What the next bits cost whoever has the outputs: the mean per sequence of the {facts.task} task through "
            f"the server's own engine, on {first.sequences} sequences of each length (seed {first.seed}), beside what "
            "they cost with the optimal estimator.\n\n"
            + _table(("length", "engine", "optimal", "beyond"), _cost_rows(facts))
        )
    rows = [
        (
            str(one.entry.length),
            f"{one.entry.wrong_bits_torch:g}",
            f"{one.entry.wrong_bits_engine:g}",
            f"{one.entry.exact_engine} of {one.entry.sequences}",
        )
        for one in facts.scores
    ]
    return (
        f"## Wrong {unit}\n\n"
        f"Mean wrong {unit} per sequence of the {facts.task} task, by torch and through the server's own engine, on "
        f"the same {first.sequences} sequences of each length (seed {first.seed}).\n\n"
        + _table(("length", "torch", "engine", f"sequences without a wrong {unit[:-1]}, engine"), rows)
        + note
    )


def _cost_rows(facts: CardFacts) -> list[tuple[str, ...]]:
    entries = [one.entry for one in facts.scores]
    return [
        (str(one.length), f"{one.cost_bits_engine:.4g}", f"{one.cost_bits_optimal:.4g}", f"{one.score_engine:.3g}")
        for one in entries
    ]


def _curve(facts: CardFacts) -> str:
    return f"## Training\n\n![Training curve]({facts.curve})" if facts.curve else ""


def _tensors(facts: CardFacts) -> str:
    kinds: Sequence[tuple[str, Sequence[TensorSpec]]] = (
        ("input", facts.spec.inputs),
        ("output", facts.spec.outputs),
        ("state", facts.spec.state),
    )
    rows = [(kind, one.name, str(one), getattr(one, "role", "")) for kind, specs in kinds for one in specs]
    return "## Tensors of one step\n\n" + _table(("kind", "name", "dtype and shape", "role"), rows)


def _proof(facts: CardFacts) -> str:
    parity, drift = facts.parity, facts.drift
    sizes = ", ".join(str(size) for size in parity.batch_sizes)
    if drift.error_max is None:
        free = f"a free run of one session left the finite numbers at step {drift.steps:,}"
    else:
        free = f"a free run of {drift.steps:,} steps drifted by at most {drift.error_max:.3g}, which is no fault"
    made = facts.exporter
    return (
        "## Proof\n\n"
        f"One step at a time from torch's own state, along {parity.steps} steps of {max(parity.batch_sizes)} sessions "
        f"in batches of {sizes}: the largest difference is {parity.error_max:.3g}, {facts.tolerance:g} is allowed; "
        f"{free}. "
        f"Made with ntm-serve {made.ntm_serve}, torch {made.torch}, onnx {made.onnx}; compared on onnxruntime "
        f"{made.onnxruntime}."
    )


def _serving(facts: CardFacts) -> str:
    names = [one.name for one in facts.spec.inputs]
    argument = names[0] if len(names) == 1 else _named(names)
    given = f"given = {_named(facts.given)}\n" if facts.given else ""
    opened = f'"{facts.name}"' + (", initial_state=given" if given else "")
    return (
        "## Serving it\n\n"
        f"From the folder that holds `{facts.name}/`:\n\n"
        "```\nntm-serve serve --models .\n```\n\n"
        "```python\nfrom ntm_serve.client import Client\n\n"
        f'{given}with Client("localhost:8001") as client, client.session({opened}) as session:\n'
        f"    reply = session.step({argument})\n```"
    )


def _named(names: Sequence[str]) -> str:
    """A dictionary of variables of these names."""
    return "{" + ", ".join(f'"{name}": {name}' for name in names) + "}"


def _recipe(facts: CardFacts) -> str:
    return f"## Recipe\n\n```toml\n{facts.recipe_text.strip()}\n```" if facts.recipe_text else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
