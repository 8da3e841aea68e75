"""Recipes: those of the repository are whole, and a bad one is refused by the name of its entry."""

import re
from pathlib import Path

import pytest

from ntm_models.build import build_step
from ntm_models.errors import RecipeFault
from ntm_models.recipe import RECIPES, Selection, Training, find_recipe, parse_recipe, read_recipe, recipe_files

# A whole recipe; those that are shipped change with what is found to work.
GOOD = """
name = "changed"
family = "ntm"
task = "copy"
seed = 1

[model]
controller = "feed-forward"
controller_size = 100
slots = 128
width = 20
read_heads = 1
write_heads = 1

[training]
steps = 6_250
batch = 32
length_min = 1
length_max = 10
learning_rate = 1e-3
clip_norm = 50.0

[selection]
every = 250
lengths = [20, 120]
sequences = 400

[[claims]]
length = 120
score_max = 0
exact_min = 100
"""


def written(folder: Path, *changes: tuple[str, str]) -> Path:
    """A file with that recipe, each first text replaced by the second."""
    text = GOOD
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    path = folder / "changed.toml"
    path.write_text(text)
    return path


def test_every_recipe_of_the_repository_is_named_as_its_file_and_can_be_built():
    assert {path.stem for path in recipe_files()} >= {"copy-ff", "copy-lstm"}
    for path in recipe_files():
        recipe = read_recipe(path)
        assert recipe.name == path.stem
        build_step(recipe)


def test_a_recipe_holds_what_its_file_says(entries):
    recipe = parse_recipe(entries)
    assert (recipe.name, recipe.family, recipe.task, recipe.seed) == ("tiny", "ntm", "copy", 3)
    assert recipe.model == entries["model"]
    assert recipe.training == Training(
        steps=12, batch=2, length_min=1, length_max=2, learning_rate=0.01, clip_norm=10.0
    )
    assert recipe.selection == Selection(every=5, lengths=(2, 3), sequences=2)


def test_a_whole_number_will_do_where_any_number_is_wanted(entries):
    entries["training"]["clip_norm"] = 50
    assert parse_recipe(entries).training.clip_norm == 50.0


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("seed = 1", "seed = -1", "seed: expected at least 0, got -1"),
        ("seed = 1", 'seed = "one"', "seed: expected an integer, got 'one'"),
        ("seed = 1", "seed = true", "seed: expected an integer, got True"),
        ("seed = 1\n", "", "seed: expected an integer, got nothing"),
        ("seed = 1", "seed = 1\nsede = 2", "sede: unknown; expected one of name, family, task, seed,"),
        ('task = "copy"', 'task = "recall"', "task: expected one of copy, repeat-copy, associative-recall, "),
        ('family = "ntm"', 'family = "rnn"', "family: expected one of ntm, dnc, "),
        ("[training]", "[drill]", "drill: unknown; expected one of"),
        ("steps = 6_250", "steps = 0", "training.steps: expected at least 1, got 0"),
        ("steps = 6_250", "steps = 2.5", "training.steps: expected an integer, got 2.5"),
        ("batch = 32\n", "", "training.batch: expected an integer, got nothing"),
        ("length_min = 1\n", "length_min = 0\n", "training.length_min: expected at least 1, got 0"),
        ("length_max = 10", "length_max = 0", "training.length_max: expected at least length_min, 1, got 0"),
        ("learning_rate = 1e-3", "learning_rate = nan", "training.learning_rate: expected a number above 0, got nan"),
        ("clip_norm = 50.0", "clip_norm = 0", "training.clip_norm: expected a number above 0, got 0.0"),
        ("every = 250", "every = 0", "selection.every: expected at least 1, got 0"),
        ("[20, 120]", "[]", "selection.lengths: expected different lengths of at least 1, got []"),
        ("[20, 120]", "[20, 20]", "selection.lengths: expected different lengths of at least 1, got [20, 20]"),
        ("[20, 120]", '[20, "x"]', "selection.lengths[1]: expected an integer, got 'x'"),
        ("[20, 120]", "20", "selection.lengths: expected a list, got 20"),
        ("[training]", '[training]\noptimiser = "sgd"', "training.optimiser: expected one of adam, rmsprop, got 'sgd'"),
        ("seed = 1", "seed = 1\nseeds = 0", "seeds: expected at least 1, got 0"),
        ("exact_min = 100", "exact_min = 101", "claims[0].exact_min: expected 0 to 100, got 101"),
        (
            'task = "copy"',
            'task = "associative-recall"',
            "training.length_min: expected at least 2, the shortest associative-recall, got 1",
        ),
        ("[selection]", "[training.task]\nsize = 2\n[selection]", "training.task.size: unknown; expected one of bits"),
        (
            "[selection]",
            "[training.task]\nbits = 4\n[selection]",
            "training.task: expected 9 channels in and 8 out, as the copy that is scored has, got 5 and 4",
        ),
        ("[training]", "training", "Expected '=' after a key"),
    ],
)
def test_a_bad_recipe_is_refused_by_its_file_and_entry(before, after, message, tmp_path):
    path = written(tmp_path, (before, after))
    with pytest.raises(RecipeFault, match=re.escape(f"{path}: ") + ".*" + re.escape(message)):
        read_recipe(path)


def test_a_table_that_is_no_table_is_refused(entries):
    with pytest.raises(ValueError, match="training: expected a table, got 7"):
        parse_recipe({**entries, "training": 7})


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"controller": "transformer"}, "model.controller: expected one of feed-forward, lstm, gru, got 'transformer'"),
        ({"slots": "many"}, "model.slots: expected an integer, got 'many'"),
        ({"slots": 0}, "model.slots: expected at least 1, got 0"),
        ({"slot": 8}, "model.slot: unknown; expected one of inputs, outputs, controller,"),
        ({"inputs": 8}, "model.inputs: the task decides it; expected nothing, got 8"),
    ],
)
def test_a_bad_model_is_refused_by_its_entry_where_it_is_built(model, message, entries):
    recipe = parse_recipe({**entries, "model": model})
    with pytest.raises(RecipeFault, match=re.escape(f"recipe tiny: {message}")):
        build_step(recipe)


def test_a_file_that_is_not_there_is_refused_by_its_path(tmp_path):
    with pytest.raises(RecipeFault, match=re.escape(f"{tmp_path / 'none.toml'}: cannot be read: No such file")):
        read_recipe(tmp_path / "none.toml")


def test_a_file_that_is_not_text_is_refused_by_its_path(tmp_path):
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeFault, match=re.escape(f"{tmp_path / 'bytes.toml'}: ")):
        read_recipe(tmp_path / "bytes.toml")


def test_a_recipe_is_found_by_name_or_by_path(tmp_path):
    assert find_recipe("copy-ff") == RECIPES / "copy-ff.toml"
    assert find_recipe(str(tmp_path / "mine.toml")) == tmp_path / "mine.toml"


def test_an_unknown_name_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(RecipeFault, match=r"expected one of .*copy-ff, copy-lstm.*, got 'copy'"):
        find_recipe("copy")
    with pytest.raises(RecipeFault, match=r"expected one of a path that ends in \.toml .*, got 'copy'"):
        find_recipe("copy", tmp_path)
