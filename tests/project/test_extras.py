"""Commands whose extra is not installed say how to get it."""

import subprocess
import sys

BLOCKED = """
import sys


class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")


sys.meta_path.insert(0, Blocker())
from ntm_exporter.entry import main

main()
"""


def test_the_exporter_without_torch_says_what_to_install():
    ran = subprocess.run([sys.executable, "-c", BLOCKED], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    (line,) = ran.stderr.splitlines()
    assert line == "ntm-export: this command needs the extra: pip install 'ntm-serve[export]' (No module named 'torch')"
