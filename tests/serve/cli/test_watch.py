"""`ntm-serve watch`: the memory in a terminal of 80 columns, and lines for other programs."""

import json
import os
import pty
import re
import subprocess
import time

import numpy as np
import pytest
from rich.console import Console

from ntm_serve.app import load_models
from ntm_serve.cli.heat import heat
from ntm_serve.cli.watch import Screen
from ntm_serve.client import Client
from ntm_serve.testing import test_server

from .conftest import SCRIPT, environment

WAIT_S = 30.0


@pytest.fixture(scope="module")
def running(zoo):
    with test_server(load_models(zoo, batch_max=8)) as server, Client(server.target) as client:
        yield server, client


def ask(server, *arguments):
    command = [SCRIPT, "watch", *arguments, "--server", server.target]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, env=environment(), check=False)


def test_piped_it_prints_a_line_a_frame(running):
    server, client = running
    session = client.session("copy-ff", session_id="piped")
    session.step(np.ones((3, 9), np.float32))
    ran = ask(server, "piped", "--frames", "1")
    assert ran.returncode == 0, ran.stderr
    (line,) = ran.stdout.splitlines()
    slot = int(session.state("write_weighting")["write_weighting"][0].argmax())
    memory = session.state("memory")["memory"]
    assert line.startswith("step=3 lost=0 tier=resident ")
    assert f"memory={memory.min():.3f}..{memory.max():.3f}" in line
    assert f"write_weighting={slot}:" in line


def test_as_json_it_has_every_number(running):
    server, client = running
    session = client.session("copy-ff", session_id="json")
    session.step(np.ones(9, np.float32))
    ran = ask(server, "json", "--json", "--frames", "1", "--tensor", "memory")
    told = json.loads(ran.stdout)
    assert (told["next_step"], told["resident"], list(told["state"])) == (1, True, ["memory"])
    np.testing.assert_array_equal(
        np.array(told["state"]["memory"]["values"], np.float32), session.state("memory")["memory"]
    )
    assert told["inputs"]["x"]["values"] == [[1.0] * 9]


def test_a_session_that_is_not_there_is_one_line(running):
    ran = ask(running[0], "nobody")
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith("ntm-serve: session nobody: ")
    assert len(ran.stderr.splitlines()) == 1


def test_it_ends_with_the_session(running):
    server, client = running
    session = client.session("copy-ff", session_id="ends")
    command = [SCRIPT, "watch", "ends", "--server", server.target]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment()) as watching:
        assert watching.stdout.readline().startswith("step=0 ")
        session.close()
        assert watching.stdout.readline() == "session ends: was closed after 0 steps\n"
        assert watching.wait(WAIT_S) == 0


def test_in_a_terminal_of_80_columns_it_draws(running):
    server, client = running
    session = client.session("copy-ff", session_id="drawn")
    session.step(np.ones((3, 9), np.float32))
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    env = environment(COLUMNS="80", LINES="24", TERM="xterm-256color", COLORTERM="truecolor")
    command = [SCRIPT, "watch", "drawn", "--server", server.target, "--frames", "1"]
    with subprocess.Popen(command, stdout=theirs, stdin=theirs, stderr=theirs, env=env) as watching:
        os.close(theirs)
        shown, end_s = b"", time.monotonic() + WAIT_S
        while watching.poll() is None or shown.count(b"write_weighting") == 0:
            assert time.monotonic() < end_s, shown
            try:
                shown += os.read(ours, 1 << 16)
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:  # What had the other end is gone.
                break
    os.close(ours)
    text = shown.decode()
    assert watching.returncode == 0, text
    assert "\N{UPPER HALF BLOCK}" in text
    for named in ("drawn", "step 3", "memory", "write_weighting", "read_weighting"):
        assert named in text
    assert re.search(r"\x1b\[38;2;\d+;\d+;\d+", text)


@pytest.mark.parametrize("size", [(80, 24), (40, 12), (200, 60)])
@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("model", ["copy-ff", "copy-lstm", "repeat-copy-ff"])
def test_what_is_drawn_fits_the_terminal(running, size, colour, model):
    _, client = running
    width, height = size
    session = client.session(model)
    inputs = session.inputs[0].shape[0]
    frames = client.watch(session.id, frames_per_s=30, rows_max=64, columns_max=64)
    screen = Screen(client.session_info(session.id))
    screen.add(next(frames))
    for _ in range(3):
        session.step(np.ones(inputs, np.float32))
        screen.add(next(frames))
    console = Console(width=width, height=height, force_terminal=colour, no_color=not colour, record=True)
    console.print(screen.drawn(width, height, colour=colour))
    lines = console.export_text().splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert f"{model}/1"[: width - 34] in lines[0] or width < 60


def test_one_slot_is_seen_among_many():
    picture = np.zeros((64, 40))
    picture[37, 5] = 1.0
    rows = heat(picture, lines=8, width=20, signed=False, most=1.0, colour=False)
    assert [str(row) for row in rows].count("  " + "█" + " " * 17) == 1
    assert sum(str(row).strip() != "" for row in rows) == 1
