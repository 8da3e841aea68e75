"""The learning curve: a small picture, the same for the same log, drawn without a global figure."""

import json
import struct
import subprocess
import sys

from ntm_models import curve
from ntm_models.curve import draw_curve


def run_in(folder, rows):
    """A folder as a training leaves it, with this log."""
    recipe = {
        "name": "made-up",
        "task": "copy",
        "seed": 1,
        "training": {"batch": 32},
        "selection": {"lengths": [20, 120]},
    }
    (folder / "recipe.json").write_text(json.dumps(recipe))
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def row(step, short, long):
    score = {"20": [9.0, short], "120": [300.0, long]}
    return {"step": step, "loss_bits": [1e3 / step, 2e3 / step], "gradient_norm": [1.0, 1.0], "score": score}


ROWS = [row(250, 74.2, 480.1), row(500, 3.4, 120.0), row(750, 0.0, 0.02), row(1000, 0.0, 9.5)]


def test_the_curve_is_a_picture_that_a_readme_can_show(tmp_path):
    path = draw_curve(run_in(tmp_path, ROWS))
    picture = path.read_bytes()
    assert path == tmp_path / "curve.png"
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", picture[16:24])
    assert (width, height) == (840, 336)
    assert 10_000 < len(picture) < 60_000


def test_the_same_log_gives_the_same_picture_and_another_log_another(tmp_path):
    once = draw_curve(run_in(tmp_path, ROWS)).read_bytes()
    assert draw_curve(run_in(tmp_path, ROWS)).read_bytes() == once
    assert draw_curve(run_in(tmp_path, ROWS[:-1])).read_bytes() != once


def test_a_log_of_one_row_is_drawn(tmp_path):
    assert draw_curve(run_in(tmp_path, ROWS[:1])).stat().st_size > 10_000


def test_the_marked_row_is_the_last_of_the_best_and_its_seed_the_best_there_with_the_least_loss():
    rows = [
        {"score": {"20": [5.0, 0.0, 9.0], "120": [9.0, 2.0, 9.0]}, "loss_bits": [1.0, 1.0, 0.0]},
        {"score": {"20": [2.0, 3.0, 0.0], "120": [0.0, 3.0, 2.0]}, "loss_bits": [2.0, 0.0, 1.0]},
        {"score": {"20": [4.0, 4.0, 4.0], "120": [1.0, 1.0, 1.0]}, "loss_bits": [0.0, 0.0, 0.0]},
    ]
    assert curve._kept(rows) == (1, 2)


def test_drawing_leaves_pyplot_alone(tmp_path):
    run_in(tmp_path, ROWS)
    code = (
        "import sys, pathlib; from ntm_models.curve import draw_curve; draw_curve(pathlib.Path(sys.argv[1])); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0
