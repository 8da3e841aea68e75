"""`ntm-models` as a user has it: recipes, a training with its bar, an interruption, and what goes wrong."""

import re
import signal
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from ntm_models import train as train_module
from ntm_models.cli import app

RECIPE = """
name = "tiny"
family = "ntm"
task = "copy"
seed = 3

[model]
controller_size = 8
slots = 6
width = 4

[training]
steps = 12
batch = 2
length_min = 1
length_max = 2
learning_rate = 1e-2
clip_norm = 10

[selection]
every = 5
lengths = [2, 3]
sequences = 2
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def signals():
    """The actions of a shell's foreground process: a suite that runs in the background has others."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, action in before.items():
        signal.signal(number, action)


def ntm_models(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def best_of(folder):
    return torch.load(folder / "best.pt", weights_only=True)


def expect_same_weights(one, other):
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_recipes_lists_those_of_the_repository():
    result = ntm_models("recipes")
    assert result.exit_code == 0
    listed = {line.split()[0]: line for line in result.stdout.splitlines()}
    assert re.search(r"copy +ntm, feed-forward", listed["copy-ff"])
    assert "128,000" in listed["copy-ff"]
    assert "copy-lstm" in listed


def test_train_leaves_weights_a_log_and_a_curve_and_says_where(recipe, tmp_path):
    out = tmp_path / "run"
    result = ntm_models("train", recipe, "--out", out)
    assert result.exit_code == 0, result.output
    files = {path.name for path in out.iterdir()}
    assert files == {"best.pt", "checkpoint.pt", "curve.png", "log.jsonl", "recipe.json"}
    assert f"weights: {out / 'best.pt'}" in result.stdout
    assert f"curve: {out / 'curve.png'}" in result.stdout
    assert "bits per sequence, summed over lengths 2, 3: " in result.stdout
    assert "12/12" in result.stderr


def test_train_writes_below_build_where_nothing_else_is_said(recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert ntm_models("train", recipe).exit_code == 0
    assert (tmp_path / "build" / "train" / "tiny" / "best.pt").exists()


def test_the_seed_of_the_command_line_goes_before_the_recipes(recipe, tmp_path):
    for seed in (3, 4):
        assert ntm_models("train", recipe, "--seed", seed, "--out", tmp_path / str(seed)).exit_code == 0
    assert ntm_models("train", recipe, "--out", tmp_path / "plain").exit_code == 0
    expect_same_weights(best_of(tmp_path / "3"), best_of(tmp_path / "plain"))
    assert not torch.equal(best_of(tmp_path / "4")["heads.weight"], best_of(tmp_path / "plain")["heads.weight"])


@pytest.mark.usefixtures("signals")
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_training_says_how_to_go_on_and_the_same_command_does(
    number, status, recipe, tmp_path, monkeypatch
):
    assert ntm_models("train", recipe, "--out", tmp_path / "whole").exit_code == 0
    real, steps = train_module._train_once, []

    def interrupted(*arguments):
        steps.append(None)
        if len(steps) == 7:
            signal.raise_signal(number)
        return real(*arguments)

    monkeypatch.setattr(train_module, "_train_once", interrupted)
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]

    first = ntm_models("train", recipe, "--out", tmp_path / "run")
    assert first.exit_code == status
    assert "stopped after 7 of 12 steps; the same command goes on from there" in first.stderr
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before

    second = ntm_models("train", recipe, "--out", tmp_path / "run")
    assert second.exit_code == 0
    assert len(steps) == 12
    expect_same_weights(best_of(tmp_path / "run"), best_of(tmp_path / "whole"))


@pytest.mark.usefixtures("signals")
def test_a_second_interrupt_does_not_wait_for_the_step(recipe, tmp_path, monkeypatch):
    def endless(*_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("the second interrupt was not raised")

    monkeypatch.setattr(train_module, "_train_once", endless)
    result = ntm_models("train", recipe, "--out", tmp_path / "run")
    assert result.exit_code == 130
    assert "the same command" not in result.stderr


@pytest.mark.usefixtures("signals")
def test_a_signal_that_was_ignored_before_stays_ignored(recipe, tmp_path, monkeypatch):
    real = train_module._train_once

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(train_module, "_train_once", interrupted)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert ntm_models("train", recipe, "--out", tmp_path / "run").exit_code == 0


def test_a_bad_recipe_ends_with_one_line_that_names_the_entry_and_status_1(recipe, tmp_path):
    recipe.write_text(RECIPE.replace("steps = 12", "steps = 0"))
    result = ntm_models("train", recipe, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert result.stderr == f"error: {recipe}: training.steps: expected at least 1, got 0\n"
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_be_built_ends_with_status_1(recipe, tmp_path):
    recipe.write_text(RECIPE.replace("slots = 6", "slots = 0"))
    result = ntm_models("train", recipe, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert result.stderr.strip() == "error: recipe tiny: model.slots: expected at least 1, got 0"


def test_an_unknown_name_ends_with_the_known_ones_and_status_1():
    result = ntm_models("train", "copy-fff")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: recipe: expected one of associative-recall-ff, ")
    assert ", copy-ff, copy-lstm, " in result.stderr


def test_the_folder_of_another_run_is_refused_with_status_1(recipe, tmp_path):
    assert ntm_models("train", recipe, "--out", tmp_path / "run").exit_code == 0
    result = ntm_models("train", recipe, "--seed", 9, "--out", tmp_path / "run")
    assert result.exit_code == 1
    assert "holds a run of another recipe; seed: expected 3, got 9" in result.stderr


def test_a_folder_that_cannot_be_made_is_an_error_and_no_traceback(recipe):
    result = ntm_models("train", recipe, "--out", recipe / "run")
    assert result.exit_code == 1
    assert result.stderr.strip() == f"error: [Errno 20] Not a directory: '{recipe / 'run'}'"


def test_help_says_how_to_go_on():
    result = ntm_models("train", "--help")
    assert result.exit_code == 0
    for word in ("Ctrl-C", "--out", "--threads", "--seed", "best.pt"):
        assert word in result.stdout


@pytest.mark.parametrize("missing", ["torch", "matplotlib"])
def test_without_the_extra_training_says_what_to_install(missing, recipe, tmp_path):
    code = f"import sys; sys.modules[{missing!r}] = None; from ntm_models.cli import main; main()"
    command = [sys.executable, "-c", code, "train", str(recipe), "--out", str(tmp_path / "run")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert result.stderr == f"error: training needs {missing}: pip install 'ntm-serve[export]'\n"


def test_importing_the_command_line_imports_neither_torch_nor_matplotlib():
    code = "import sys, ntm_models.cli; sys.exit(bool({'torch', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
