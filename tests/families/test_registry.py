"""Families are known to the models alone: the serving side serves them all and names none."""

import re
from pathlib import Path

import pytest
from families.conftest import ENTRIES

from ntm_models.build import step_kind
from ntm_models.families.registry import FAMILIES
from ntm_models.trainable import TrainableStep

SERVING = Path(__file__).parents[2] / "ntm_serve"

# Without a model of its own in the zoo: what memories are measured against, and what is there to be trained.
WITHOUT_A_MODEL = {"lstm", "state-space"}

# The project is named after it.
NAMESAKE = "ntm"


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_a_step_of_its_name(name):
    kind = step_kind(name)
    assert issubclass(kind, TrainableStep)
    assert kind.family == name


def test_every_family_but_those_has_shown_what_it_learned():
    assert {entry.manifest.family for entry in ENTRIES.values()} >= FAMILIES.keys() - WITHOUT_A_MODEL


def test_the_serving_side_names_no_family():
    families = FAMILIES.keys() - {NAMESAKE}
    names = {each for family in families for each in (family, step_kind(family).__name__)}
    pattern = re.compile(rf"(?<![a-z])(?:{'|'.join(map(re.escape, sorted(names)))})(?![a-z])", re.IGNORECASE)
    read = [path for suffix in ("py", "html", "js", "css") for path in SERVING.rglob(f"*.{suffix}")]
    assert len(read) > 100
    for path in read:
        found = pattern.search(path.read_text(encoding="utf-8"))
        assert found is None, f"{path.relative_to(SERVING)}: {found.group()}"
