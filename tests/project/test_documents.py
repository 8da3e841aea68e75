"""The documents: links lead somewhere, examples run, names exist."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from serve import onnx_graphs
from serve.triton.repositories import put

from ntm_serve.app import load_models
from ntm_serve.cli.commands import app
from ntm_serve.cli.options import Connection
from ntm_serve.cli.pipe import pipe
from ntm_serve.model_directory import read_model_directory
from ntm_serve.testing import test_server

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md"), *(ROOT / "models").glob("**/*.md")])
LINK = re.compile(r"\]\(([^)#]+)(#[^)]*)?\)")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_within_the_project_leads_somewhere(document):
    for target, _ in LINK.findall(document.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_readmes_client_runs_and_copies_without_a_wrong_bit():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (client,) = [block for block in blocks if "client.session" in block]
    with test_server(load_models(ROOT / "models" / "zoo", batch_max=8)) as server:
        ours = client.replace("localhost:8001", server.target)
        assert ours != client
        ran = subprocess.run([sys.executable, "-c", ours], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.splitlines() == ["wrong bits: 0", "memory: (128, 20)"]


def test_the_example_of_a_memory_of_its_own_runs():
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "sessions.md").read_text(), re.DOTALL)
    with test_server(load_models(ROOT / "models" / "zoo", batch_max=8)) as server:
        ours = program.replace("localhost:8001", server.target)
        assert ours != program
        ran = subprocess.run([sys.executable, "-c", ours], capture_output=True, text=True, timeout=60, check=True)
    *told, last = ran.stdout.splitlines()
    assert "memory float32[128, 20]: memory" in told
    assert last == "its own memory: True digest: 64 digits"


def test_the_gateways_example_and_its_file_of_events_run(tmp_path):
    text = (ROOT / "docs" / "gateway.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (events,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    (command,) = re.findall(r"^ntm-serve (pipe .*)$", text, re.MULTILINE)
    (tmp_path / "events.jsonl").write_text(events)
    with test_server(load_models(ROOT / "models" / "zoo", batch_max=64)) as server:
        ours = program.replace("localhost:8001", server.target)
        assert ours != program
        ran = subprocess.run([sys.executable, "-c", ours], capture_output=True, text=True, timeout=60, check=True)
        subprocess.run(
            [sys.executable, "-m", "ntm_serve.cli", *command.split(), "--server", server.target],
            cwd=tmp_path, capture_output=True, timeout=60, check=True,
        )  # fmt: skip
    assert ran.stdout.splitlines() == ["steps: 21000 failed: 0"]
    lines = (tmp_path / "outputs.jsonl").read_text().splitlines()
    assert lines[0].startswith('{"line":1,"key":"pump-1","step":0,"outputs":{"y":[')
    assert lines[2].startswith('{"line":3,"key":"pump-1","step":1,')


def test_the_options_of_pipe_are_those_that_the_gateways_page_names():
    text = (ROOT / "docs" / "gateway.md").read_text()
    named = {
        option.removeprefix("--").replace("-", "_") for option in re.findall(r"^\| `(--[a-z-]+)", text, re.MULTILINE)
    }
    connection = set(inspect.signature(Connection).parameters)  # Those of every command.
    assert named == set(inspect.signature(pipe).parameters) - connection - {"model", "input", "output", "batch"}


def test_the_steps_from_a_triton_repository_are_as_its_page_shows_them(tmp_path):
    text = (ROOT / "docs" / "from-triton.md").read_text()
    (config,) = re.findall(r"```pbtxt\n(.*?)```", text, re.DOTALL)
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (said,) = re.findall(r"```\n(meter/1: imported.*?)```", text, re.DOTALL)
    commands = re.findall(r"^ntm-serve ((?:import-triton|check) .*)$", text, re.MULTILINE)
    put(tmp_path / "triton", "meter", config, onnx_graphs.accumulator())
    outputs = [
        subprocess.run(
            [sys.executable, "-m", "ntm_serve.cli", *command.split()],
            cwd=tmp_path, env=os.environ | {"NTM_SERVE_BATCH_MAX": "8"}, capture_output=True, text=True, timeout=60,
            check=True,
        ).stdout
        for command in commands
    ]  # fmt: skip
    assert outputs[0] == said
    assert outputs[1].endswith("models/meter/1: ok\n")
    with test_server(load_models(tmp_path / "models", batch_max=8)) as server:
        ours = program.replace("localhost:8001", server.target)
        assert ours != program
        ran = subprocess.run([sys.executable, "-c", ours], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "total: [9. 9. 9.] fork: [4. 4. 4.]\n"


def test_the_options_of_the_import_are_those_that_its_page_names():
    text = (ROOT / "docs" / "from-triton.md").read_text()
    named = {option.replace("-", "_") for option in re.findall(r"^\| `--([a-z-]+)", text, re.MULTILINE)}
    command = next(one for one in app.registered_commands if one.name == "import-triton")
    assert named == set(inspect.signature(command.callback).parameters) - {"repository"}


@pytest.mark.parametrize("name", ["copy-ff", "copy-lstm"])
def test_the_readmes_figures_are_those_that_the_export_measured(name):
    scores = read_model_directory(ROOT / "models" / "zoo" / name / "1").manifest.verification.scores
    (row,) = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith(f"| [{name}]")]
    assert " / ".join(f"{score.wrong_bits_engine:g}" for score in scores) in row
    assert f"| {scores[-1].exact_engine} of {scores[-1].sequences} |" in row


def test_every_make_target_that_a_document_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        for line in re.findall(r"`make ([a-z-]+)[^`]*`|^make ([a-z-]+)", document.read_text(), re.MULTILINE):
            assert "".join(line) in targets, f"{document.name} names make {''.join(line)}"


def test_every_file_that_the_architecture_names_exists():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    for name in re.findall(r"`((?:ntm_serve|exporter|models|proto|tests)/[\w/.]*)`", text):
        assert (ROOT / name).exists(), name
    listed = re.search(r"```\nproto/.*?```", text, re.DOTALL)
    assert listed
    for module in (ROOT / "ntm_serve").glob("[!_]*"):
        if module.name not in ("py.typed", "v1"):
            assert re.search(rf"\b{module.stem}\b", listed[0]), f"ARCHITECTURE.md does not mention {module.stem}"


def test_the_demonstration_ends_with_every_bit_right(monkeypatch):
    monkeypatch.setenv("NTM_SERVE_BATCH_MAX", "8")  # Measuring it takes its time.
    ran = subprocess.run(
        [sys.executable, "-m", "ntm_models.demo", "models/zoo"],
        cwd=ROOT, capture_output=True, text=True, timeout=100, check=True,
    )  # fmt: skip
    last = ran.stdout.splitlines()[-1]
    assert re.fullmatch(r"demo: ok model=copy-ff lengths=20,120 wrong_bits=0 steps=282 p50_ms=\d+\.\d\d", last), last


def test_a_demonstration_that_finds_a_wrong_bit_says_so_and_fails(monkeypatch, capsys):
    from rich.console import Console

    from ntm_models import demo

    monkeypatch.setenv("NTM_SERVE_BATCH_MAX", "8")
    right = demo.Copy.episodes

    def wrong(self, **options):
        episodes = right(self, **options)
        episodes.y[0, -1, 0] = 1 - episodes.y[0, -1, 0]
        return episodes

    monkeypatch.setattr(demo.Copy, "episodes", wrong)
    assert not demo.demonstrate(ROOT / "models" / "zoo", Console(quiet=True))
    assert "demo: failed model=copy-ff lengths=20,120 wrong_bits=2" in capsys.readouterr().out
