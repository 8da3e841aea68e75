"""`ntm-export`, as it is typed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from ntm_exporter.cli import app
from ntm_models.build import build_step
from ntm_models.recipe import read_recipe
from ntm_serve.model_directory import read_model_directory

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "gru_cell.py"

RECIPE = """
name = "tiny"
family = "ntm"
task = "copy"
seed = 3
[model]
controller = "gru"
controller_size = 8
slots = 6
width = 4
read_heads = 1
write_heads = 1
[training]
steps = 1
batch = 1
length_min = 1
length_max = 1
learning_rate = 1e-3
clip_norm = 50.0
[selection]
every = 1
lengths = [1]
sequences = 1
"""


def typed(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "200"})


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """Weights of the documented example, as its author would save them."""
    spec = importlib.util.spec_from_file_location("gru_cell", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(1)
    torch.save(module.build().state_dict(), tmp_path / "w.pt")
    return tmp_path / "w.pt"


def test_the_documented_example_is_exported_by_the_documented_command(tmp_path: Path, weights: Path) -> None:
    command = Path(sys.executable).with_name("ntm-export")
    arguments = ["gru_cell.py:build", "--weights", str(weights), "--name", "mine", "--out", str(tmp_path / "models")]

    done = subprocess.run(
        [str(command), *arguments], cwd=EXAMPLE.parent, capture_output=True, text=True, timeout=110, check=False,
        env={**os.environ, "COLUMNS": "200", "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert "one step against torch" in done.stdout
    directory = read_model_directory(tmp_path / "models" / "mine" / "1")
    assert (directory.manifest.family, directory.manifest.task) == ("gru", "forecast")
    assert [one.role for one in directory.spec.state] == ["controller"]
    in_process = typed(f"{EXAMPLE}:build", "--weights", weights, "--out", tmp_path / "again", "--name", "mine")
    assert in_process.exit_code == 0, in_process.stderr
    # Another process hashes names in another order; the bytes do not show it.
    assert read_model_directory(tmp_path / "again" / "mine" / "1").digest == directory.digest


def test_a_recipe_is_exported_with_its_score(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(RECIPE)
    torch.save(build_step(read_recipe(tmp_path / "tiny.toml")).state_dict(), tmp_path / "best.pt")

    done = typed(tmp_path / "tiny.toml", "--weights", tmp_path / "best.pt", "--out", tmp_path, "--sequences", 1)

    assert done.exit_code == 0, done.stderr
    manifest = read_model_directory(tmp_path / "tiny" / "1").manifest
    assert (manifest.task, manifest.provenance.recipe, manifest.provenance.seed) == ("copy", "tiny", 3)
    assert [one.name for one in manifest.state if one.role == "controller"] == ["controller_h"]
    assert len(manifest.verification.scores) == 6
    assert "wrong bits, length 120" in done.stdout


DNC = RECIPE.replace('"ntm"', '"dnc"').replace('controller = "gru"', 'controller = "lstm"\nlayers = [8]')
DNC = DNC.replace("controller_size = 8\n", "").replace("write_heads = 1\n", "").replace('"copy"', '"copy-reuse"')


def test_a_recipe_whose_weights_do_not_know_the_slots_is_exported_with_others(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_text(DNC)
    torch.save(build_step(read_recipe(tmp_path / "tiny.toml")).state_dict(), tmp_path / "best.pt")

    done = typed(tmp_path / "tiny.toml", "--weights", tmp_path / "best.pt", "--out", tmp_path, "--sequences", 1,
                 "--set", "slots=9", "--source", "here")  # fmt: skip

    assert done.exit_code == 0, done.stderr
    directory = read_model_directory(tmp_path / "tiny" / "1")
    assert {one.name: one.shape for one in directory.spec.state}["link"] == (9, 9)
    assert [one.name for one in directory.spec.state if one.role == "controller"] == ["controller_h", "controller_c"]
    assert directory.manifest.provenance.source == "here, slots 9"


def test_sizes_are_given_to_the_function_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "sized.py").write_text(
        f"import sys\nsys.path.insert(0, {str(EXAMPLE.parent)!r})\nimport torch\nimport gru_cell\n"
        "class Padded(gru_cell.GRUCell):\n"
        "    def __init__(self, slots):\n        super().__init__()\n        self.slots = slots\n"
        "    def initial_state(self):\n        return {**super().initial_state(), 'more': torch.zeros(self.slots)}\n"
        "    def forward(self, inputs, state):\n"
        "        outputs, following = super().forward(inputs, state)\n"
        "        return outputs, {**following, 'more': state['more'] + 1}\n"
        "def build(slots=2):\n    return Padded(slots)\n"
    )
    done = typed(tmp_path / "sized.py:build", "--out", tmp_path, "--set", "slots=5")
    assert done.exit_code == 0, done.stderr
    manifest = read_model_directory(tmp_path / "sized" / "1").manifest
    assert [one.shape for one in manifest.state if one.name == "more"] == [(5,)]
    assert manifest.provenance.source == "slots 5"


def test_a_size_that_cannot_be_chosen_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "ntm.toml").write_text(RECIPE)
    (tmp_path / "dnc.toml").write_text(DNC)
    cases = {
        ("ntm.toml", "slots=9"): "tiny: of the family ntm expected nothing: the weights know every size, got slots",
        ("dnc.toml", "width=9"): "tiny: of the family dnc expected slots, got width",
        ("dnc.toml", "slots=0"): "model.slots: expected at least 1, got 0",
        ("dnc.toml", "slots"): "--set: expected NAME=NUMBER, got 'slots'",
        ("dnc.toml", "slots=-1"): "--set: expected NAME=NUMBER, got 'slots=-1'",
    }
    for (file, pair), message in cases.items():
        given = refused(tmp_path / file, "--weights", tmp_path / "best.pt", "--set", pair, "--out", tmp_path / "models")
        assert message in given
    assert "build() does not take slots: " in refused(f"{EXAMPLE}:build", "--set", "slots=3", "--out", tmp_path)


def test_a_size_that_a_function_wants_and_nobody_set_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "needs.py").write_text("def needs(n, *more, width=2, heads, **others):\n    raise AssertionError\n")
    for said, message in [
        ((), "needs() wants n, heads: --set n=... --set heads=..."),
        (("--set", "n=3"), "needs() wants heads: --set heads=..."),
        (("--set", "slots=3"), "needs() wants n, heads: "),
    ]:
        assert message in refused(f"{tmp_path / 'needs.py'}:needs", *said, "--out", tmp_path)


METHODS_THAT_FAIL = {
    "def initial_state(self):\n        raise KeyError('h')": "initial_state(): failed: KeyError: 'h'",
    "def initial_state(self, batch):\n        return {}": "initial_state(): failed: TypeError: ",
    "def example_inputs(self, steps):\n        return {}": "example_inputs(2, 0): failed: TypeError: ",
    "def example_inputs(self, steps, seed):\n        open('/none')": "example_inputs(2, 0): failed: FileNotFound",
    "def example_state(self):\n        return {}": "example_state(0): failed: TypeError: ",
    "def example_state(self, seed):\n        return 1 / seed": "example_state(0): failed: ZeroDivisionError: ",
    "example_state = {}": "example_state(0): failed: TypeError: ",
    "roles = ['h']": "roles: expected a dictionary, got a list",
    "task = ['copy']": "task: expected a text, got a list",
}


@pytest.mark.parametrize("method", METHODS_THAT_FAIL)
def test_a_method_of_the_users_that_fails_is_one_message(tmp_path: Path, method: str) -> None:
    (tmp_path / "mine.py").write_text(
        f"import sys\nsys.path.insert(0, {str(EXAMPLE.parent)!r})\nimport gru_cell\n"
        f"class Mine(gru_cell.GRUCell):\n    {method}\ndef build():\n    return Mine()\n"
    )
    assert METHODS_THAT_FAIL[method] in refused(f"{tmp_path / 'mine.py'}:build", "--out", tmp_path)


def test_options_may_come_before_the_source(tmp_path: Path, weights: Path) -> None:
    done = typed("--out", tmp_path, "--weights", weights, "--version", 2, f"{EXAMPLE}:build")

    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "gru-cell" / "2" / "manifest.json").exists()


def test_the_command_may_be_written_out_and_says_how_it_is_used() -> None:
    assert "SOURCE" in typed("export", "--help").stdout
    assert "export" in typed("--help").stdout


def refused(*arguments: object) -> str:
    """The one message of a command that fails."""
    done = typed(*arguments)
    assert done.exit_code == 1, done.output
    assert done.stdout == ""
    message = done.stderr.strip()
    assert "Traceback" not in message
    assert message.splitlines()[-1].startswith("ntm-export: ")
    return message


SOURCES = {
    "nonsense": "expected FILE.py:FUNCTION or RECIPE.toml, got 'nonsense'",
    "missing.py:build": "missing.py: expected a Python file, found none",
    "missing.toml": "a recipe needs --weights",
    "{module}:absent": "expected a function absent(), found none",
    "{module}:fails": "fails() failed: ValueError: no",
    "{module}:lacking": "got a Linear without initial_state(), example_inputs(steps, seed)",
    "{broken}:build": "cannot be loaded: SyntaxError",
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_source_that_cannot_be_loaded_is_one_message(source: str, tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(
        "import torch\ndef fails():\n    raise ValueError('no')\ndef lacking():\n    return torch.nn.Linear(1, 1)\n"
    )
    (tmp_path / "broken.py").write_text("def build(:")
    written = source.format(module=tmp_path / "module.py", broken=tmp_path / "broken.py")

    assert SOURCES[source] in refused(written, "--out", tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_weights_that_are_missing_pickled_or_of_another_model_are_one_message(tmp_path: Path, weights: Path) -> None:
    torch.save({"cell": torch.zeros(1)}, tmp_path / "other.pt")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "whole.pt")
    (tmp_path / "noise.pt").write_bytes(b"noise")
    saying = {
        "missing.pt": "cannot be read: No such file",
        "other.pt": "expected the weights of GRUCell, got others: ",
        "whole.pt": "expected tensors alone",
        "noise.pt": "expected tensors alone",
    }

    for file, message in saying.items():
        assert message in refused(f"{EXAMPLE}:build", "--weights", tmp_path / file, "--out", tmp_path / "models")


def test_a_target_that_exists_is_one_message(tmp_path: Path, weights: Path) -> None:
    for version in ("1", "10", "notes"):
        (tmp_path / "gru-cell" / version).mkdir(parents=True)

    assert "exists; --force replaces it, or --version 11 writes one beside it" in refused(
        f"{EXAMPLE}:build", "--weights", weights, "--out", tmp_path
    )
