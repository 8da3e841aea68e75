"""The image: its Dockerfile has no known fault, and what it installs is locked and what pyproject.toml asks for."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKED = re.compile(r"^([\w.-]+)==(\S+)(?: ; (.+?))? \\$((?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)+)", re.MULTILINE)


def locked(name):
    """What a lock file pins: versions by name. Every entry has hashes."""
    text = (ROOT / "deploy" / name).read_text()
    entries = LOCKED.findall(text)
    assert len(entries) == len(re.findall(r"^[\w.-]+==", text, re.MULTILINE)), "an entry has no hash"
    return {canonicalize_name(entry[0]): entry[1] for entry in entries}


def missing(wanted, pinned):
    """Requirements that what is pinned does not satisfy."""
    return [
        str(one)
        for one in map(Requirement, wanted)
        if canonicalize_name(one.name) not in pinned
        or not one.specifier.contains(pinned[canonicalize_name(one.name)], prereleases=True)
    ]


def test_the_lock_satisfies_what_the_project_asks_for():
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = PROJECT["project"]["dependencies"] + extras["server"] + extras["redis"] + extras["otel"]
    pinned = locked("requirements.txt")
    assert missing(wanted, pinned) == [], "run make lock"
    assert missing(PROJECT["build-system"]["requires"], locked("requirements-build.txt")) == [], "run make lock"
    assert missing(["grpcio>=99", "absent"], pinned) == ["grpcio>=99", "absent"]
    assert not {"torch", "onnx", "onnxscript", "matplotlib"} & set(pinned)


def test_the_lock_tells_of_no_index():
    for name in ("requirements.txt", "requirements-build.txt"):
        assert "://" not in (ROOT / "deploy" / name).read_text()


def test_the_dockerfile_is_clean():
    linter = Path(sys.executable).with_name("hadolint")
    ran = subprocess.run(
        [linter, ROOT / "deploy" / "Dockerfile"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


@pytest.mark.parametrize("line", ["USER 10001:10001", 'ENTRYPOINT ["ntm-serve"]', "STOPSIGNAL SIGTERM"])
def test_it_runs_as_nobody_special_and_gets_signals_itself(line):
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    assert line in text.splitlines()
    assert text.index("--require-hashes") < text.index("COPY ntm_serve")


def test_what_the_image_copies_is_not_ignored():
    ignored = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "deploy" / "Dockerfile").read_text(), re.MULTILINE):
        for source in line.split():
            assert (ROOT / source).exists()
            assert f"!{source}" in ignored
