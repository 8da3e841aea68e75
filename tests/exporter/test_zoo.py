"""The model directories that the project ships are those of the weights and recipes beside them."""

from pathlib import Path

import numpy as np
import pytest

from ntm_exporter.source import load_source
from ntm_exporter.verify import engine_rows, one_step_parity, torch_rows
from ntm_models.recipe import read_recipe
from ntm_models.tasks import TASKS
from ntm_serve.model_directory import read_model_directory

MODELS = Path(__file__).parents[2] / "models"
NAMES = sorted(path.name for path in (MODELS / "zoo").iterdir())

# The strongest keys show the last digit of a cosine.
TOLERANCE_MAX = {"priority-sort-ff": 2e-4}


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_model_is_the_function_of_its_weights(name):
    directory = read_model_directory(MODELS / "zoo" / name / "1")
    source = load_source(str(MODELS / "recipes" / f"{name}.toml"), MODELS / "weights" / f"{name}.pt")
    parity = one_step_parity(
        torch_rows(source.step, directory.spec),
        engine_rows(directory, name=name, version="1"),
        spec=directory.spec,
        initial=directory.initial_state,
        examples=source.example_inputs,
        tolerance=directory.manifest.verification.tolerance,
    )
    assert parity.error_max <= directory.manifest.verification.tolerance <= TOLERANCE_MAX.get(name, 2e-5)
    assert directory.manifest.verification.batch_sizes == (1, 2, 7, 64)
    for one, array in zip(directory.spec.state, directory.initial_state, strict=True):
        # Another processor has another last bit of a hyperbolic tangent.
        np.testing.assert_allclose(array, source.step.initial_state()[one.name].detach().numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_says_what_the_manifest_measured(name):
    directory = read_model_directory(MODELS / "zoo" / name / "1")
    card = (MODELS / "zoo" / name / "1" / "README.md").read_text()
    scores = directory.manifest.verification.scores
    assert tuple(score.length for score in scores) == TASKS[directory.manifest.task].lengths_shown
    for score in scores:
        if score.cost_bits_engine is None:
            row = f"| {score.length} | {score.wrong_bits_torch:g} | {score.wrong_bits_engine:g} | "
            assert row + f"{score.exact_engine} of {score.sequences} |" in card
        else:
            assert f"| {score.length} | {score.cost_bits_engine:.4g} | {score.cost_bits_optimal:.4g} | " in card
    assert "curve.png" in card
    assert (MODELS / "recipes" / f"{name}.toml").read_text().strip() in card
    assert directory.manifest.provenance.licence == "Apache-2.0"


def test_every_shipped_model_has_its_recipe_and_its_weights():
    recipes = {path.stem for path in (MODELS / "recipes").glob("*.toml")}
    assert recipes >= {path.stem for path in (MODELS / "weights").glob("*.pt")} >= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_model_promises_something(name):
    assert read_recipe(MODELS / "recipes" / f"{name}.toml").claims
