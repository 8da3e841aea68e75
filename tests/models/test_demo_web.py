"""The demonstration of the page, as a user starts it."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

from ntm_models.demo_web import SESSIONS, chosen
from ntm_models.zoo import read_zoo

ZOO = Path(__file__).parents[2] / "models" / "zoo"


def test_sessions_of_different_models_are_at_work_until_it_is_ended():
    command = [sys.executable, "-m", "ntm_models.demo_web", str(ZOO)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        line = demo.stdout.readline()
        address = re.search(r"open (http://\S+)/ ", line)[1]
        seen = {}
        while len(seen) < SESSIONS or min(seen.values()) < 2:
            with urlopen(f"{address}/api/v1/sessions", timeout=30) as answer:
                seen = {one["model"]: one["next_step"] for one in json.load(answer)["sessions"]}
        demo.send_signal(signal.SIGINT)
        out, err = demo.communicate(timeout=60)
    assert demo.returncode == 0, err
    assert "demo-web: ends" in out


def test_families_come_before_tasks_and_tasks_before_names():
    entries = chosen(read_zoo(ZOO))
    assert len({one.name for one in entries}) == SESSIONS
    families = {one.manifest.family for one in read_zoo(ZOO) if one.scored}
    assert len({one.manifest.family for one in entries}) == min(SESSIONS, len(families))
