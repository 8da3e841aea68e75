"""The page on flows: its program runs against the model of the zoo, and the verdicts are good."""

import re
import subprocess
import sys
from pathlib import Path

from ntm_serve.app import load_models
from ntm_serve.testing import test_server

ROOT = Path(__file__).parents[2]


def test_the_tap_of_the_page_says_of_nearly_every_flow_what_it_is():
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "flows.md").read_text(), re.DOTALL)
    with test_server(load_models(ROOT / "models" / "zoo", batch_max=64)) as server:
        ours = program.replace("localhost:8001", server.target)
        assert ours != program
        ran = subprocess.run([sys.executable, "-c", ours], capture_output=True, text=True, timeout=60, check=True)
    *flows, last = ran.stdout.splitlines()
    assert [line.split(": ")[0] for line in flows] == [f"10.0.0.{flow}:443" for flow in range(4)]
    right, of = (int(number) for number in re.findall(r"\d+", last))
    assert of == 64
    assert right >= 0.9 * of
