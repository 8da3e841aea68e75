"""The page on flows: its program runs against the model of the zoo, and the verdicts are good."""

import csv
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from ntm_models.tasks import packets
from ntm_serve.app import load_models
from ntm_serve.testing import test_server

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "flows.md").read_text()


def test_the_tap_of_the_page_says_of_nearly_every_flow_what_it_is():
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    with test_server(load_models(ROOT / "models" / "zoo", batch_max=64)) as server:
        ours = program.replace("localhost:8001", server.target)
        assert ours != program
        ran = subprocess.run([sys.executable, "-c", ours], capture_output=True, text=True, timeout=60, check=True)
    *flows, last = ran.stdout.splitlines()
    assert [line.split(": ")[0] for line in flows] == [f"10.0.0.{flow}:443" for flow in range(4)]
    right, of = (int(number) for number in re.findall(r"\d+", last))
    assert of == 64
    assert right >= 0.9 * of


def test_the_packet_of_the_page_is_what_it_says_and_its_formulas_give():
    (call, result) = re.findall(r"(packet_of\(.*\))   # \((.*)\)", PAGE)[0]
    said = tuple(float(number) for number in result.split(", "))
    assert eval(call, {"packet_of": packets.packet_of}) == pytest.approx(said, abs=5e-4)
    formulas = re.findall(r"`(log\(.*?\) / log\(.*?\))`", PAGE)
    names = {"log": packets.math.log, "bytes": 120, "s": 2.5}
    assert [eval(one, names) for one in formulas] == pytest.approx(said[1:3], abs=5e-4)


def test_a_packet_beyond_the_limits_is_at_them():
    given = [packets.packet_of(from_client=False, size_bytes=b, gap_s=s, syn=True, push=False)
             for b, s in ((0, 0), (30, 1e-4), (1500, 100), (9000, 3600))]  # fmt: skip
    assert [one[1:3] for one in given] == [(0, 0), (0, 0), (1, 1), (1, 1)]


def test_the_kinds_of_the_program_are_the_outputs_in_their_order():
    kinds = re.search(r"KINDS = \((.*)\)", PAGE)[1].replace('"', "").replace(" ", "_").split(",_")
    assert kinds == [kind.__name__ for kind in packets.ATTACKS]
    rows = re.findall(r"\| `y_(\d)` \| (?:a )?([a-z ]+):", PAGE)
    assert [name.replace(" ", "_") for _, name in rows] == kinds


def test_the_pipes_of_the_page_give_the_same_from_json_and_from_csv(tmp_path):
    for form in ("jsonl", "csv"):
        (block,) = re.findall(rf"```{form.removesuffix('l')}\n(.*?)```", PAGE, re.DOTALL)
        (tmp_path / f"packets.{form}").write_text(block)
    with test_server(load_models(ROOT / "models" / "zoo", batch_max=64)) as server:
        for nth, command in enumerate(re.findall(r"^ntm-serve (pipe .*)$", PAGE, re.MULTILINE)):
            given = [*shlex.split(command), "--server", server.target, "--prefix", f"run-{nth}."]
            subprocess.run([sys.executable, "-m", "ntm_serve.cli", *given], cwd=tmp_path, timeout=60, check=True)
    of_json = [json.loads(line) for line in (tmp_path / "verdicts.jsonl").read_text().splitlines()]
    of_csv = list(csv.DictReader((tmp_path / "verdicts.csv").read_text().splitlines()))
    assert len(of_json) == 3
    assert [one["step"] for one in of_json] == [0, 0, 1]
    for one, other in zip(of_json, of_csv, strict=True):
        assert one["outputs"]["y"] == [float(other[f"y_{at}"]) for at in range(4)]
