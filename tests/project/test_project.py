"""The project itself: what it imports, what it ships, how it is told."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np

import ntm_serve
from ntm_serve import errors, testing

ROOT = Path(__file__).parents[2]


def test_serving_a_model_imports_no_torch():
    code = (
        "import sys\n"
        "import ntm_serve.cli.commands, ntm_serve.app, ntm_serve.client, ntm_serve.testing, ntm_models.demo\n"
        "loaded = [n for n in ('torch', 'onnx', 'onnxscript', 'ntm_exporter', 'matplotlib') if n in sys.modules]\n"
        "sys.exit(str(loaded) if loaded else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr


def test_public_names_of_testing_are_these():
    assert testing.__all__ == ["Doubling", "Gate", "ManualClock", "RunningSum", "TestServer", "test_server"]


def test_the_drawn_tree_of_errors_is_the_real_one():
    drawn = re.findall(r"^ {4}[│ ├└─]*([A-Z]\w+)", errors.__doc__, re.MULTILINE)
    assert sorted(drawn) == sorted(kind.__name__ for kind in errors.ERROR_OF_REASON.values())


def test_reasons_in_the_wire_contract_are_the_real_ones():
    text = (ROOT / "proto" / "ntm_serve" / "v1" / "error.proto").read_text()
    named = set(re.findall(r"\b[A-Z]{3,}(?:_[A-Z]+)*\b", text))
    client_only = {"UNREACHABLE", "LOST"}
    abstract = {"ERROR", "CALLER_FAULT", "OPERATOR_FAULT"}
    assert named == set(errors.ERROR_OF_REASON) - client_only - abstract


def test_the_changelog_knows_this_version():
    assert f"## {ntm_serve.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_model_files_stay_small():
    zoo = ROOT / "models" / "zoo"
    sizes = {path: path.stat().st_size for path in zoo.glob("**/*") if path.is_file()}
    assert max(sizes.values()) < 3_000_000
    assert sum(sizes.values()) < 15_000_000


def test_shipped_arrays_hold_no_pickle():
    for path in (ROOT / "models" / "zoo").glob("*/*/*.npz"):
        with np.load(path, allow_pickle=False) as archive:
            assert all(archive[name].dtype.kind in "fiub" for name in archive.files)


def test_the_pages_lock_file_has_checksums_and_names_no_registry():
    packages = json.loads((ROOT / "web" / "package-lock.json").read_text())["packages"]
    theirs = {name: package for name, package in packages.items() if name}
    assert [name for name, package in theirs.items() if "resolved" in package] == []
    assert [name for name, package in theirs.items() if "integrity" not in package] == []
