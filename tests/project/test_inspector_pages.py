"""The pages on seeing the memory: their examples run, and what they say of the API is what it answers."""

import json
import re
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from ntm_serve.app import load_models
from ntm_serve.client import Client
from ntm_serve.client.recording import Recording
from ntm_serve.config import Settings
from ntm_serve.testing import test_server

ROOT = Path(__file__).parents[2]
INSPECTOR, API = ((ROOT / "docs" / name).read_text() for name in ("inspector.md", "http-api.md"))


@pytest.fixture(scope="module")
def server():
    with test_server(load_models(ROOT / "models" / "zoo", batch_max=8), inspector="write") as running:
        yield running


@pytest.fixture(scope="module")
def api(server):
    with (
        httpx.Client(base_url=f"{server.http}/api/v1", timeout=20) as http,
        Client(server.target) as client,
        client.session("copy-ff", session_id="device-7") as session,
    ):
        session.step(np.ones((41, 9), np.float32))
        yield http


@pytest.mark.parametrize("program", re.findall(r"```python\n(.*?)```", INSPECTOR, re.DOTALL), ids=["watch", "record"])
def test_the_programs_run(server, program, tmp_path):
    ours = program.replace("localhost:8001", server.target)
    assert ours != program
    ran = subprocess.run(
        [sys.executable, "-c", ours], cwd=tmp_path, capture_output=True, text=True, timeout=90, check=True
    )
    if "watch" in program:
        assert ran.stdout == "step 3 memory (128, 20) of (128, 20)\n"
    else:
        assert Recording.load(tmp_path / "copy.npz").steps == 41
        assert (tmp_path / "copy.png").stat().st_size > 5_000


def test_the_settings_that_are_named_are_settings():
    named = set(re.findall(r"^\| `(\w+)` \|", INSPECTOR, re.MULTILINE))
    assert named == {"inspector", "http_names", "watches_max", "watch_frames_per_s_max"}
    assert named <= set(Settings.model_fields)


def example(heading):
    """The first JSON below a heading."""
    _, text = API.split(f"## {heading}\n", 1)
    return json.loads(re.search(r"```json\n(.*?)```", text, re.DOTALL)[1])


def shape_of(told):
    """What a reader of it depends on: the fields, all the way down."""
    if isinstance(told, dict):
        return {name: shape_of(value) for name, value in told.items()}
    if isinstance(told, list) and told and isinstance(told[0], dict):
        return [shape_of(told[0])]
    return None


@pytest.mark.parametrize(("heading", "path"), [("The server", "/server"), ("Sessions", "/sessions")])
def test_what_is_answered_has_the_fields_that_are_documented(api, heading, path):
    assert shape_of(api.get(path).json()) == shape_of(example(heading))


def test_a_model_has_the_fields_that_are_documented(api):
    documented = example("Models")
    point = documented["models"][0].pop("series")[0]
    told = api.get("/models").json()
    while not (series := told["models"][0].pop("series")):
        told = api.get("/models").json()
    told["models"] = [told["models"][0]]
    assert shape_of(told) == shape_of(documented)
    assert series[0].keys() == point.keys()


def test_a_frame_and_a_picture_have_the_fields_that_are_documented(api):
    frame = api.get("/sessions/device-7/state").json()
    _, of_frames = API.split("A frame:\n", 1)
    named = set(
        re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (`.*?) \|", of_frames.split("\nSteps that")[0], re.M)))
    )
    assert named == set(frame)
    _, of_pictures = API.split("A **picture**", 1)
    rows = re.findall(r"^\| (`.*?) \|", of_pictures.split("\nOf a tensor")[0], re.MULTILINE)
    assert set(re.findall(r"`(\w+)`", " ".join(rows))) == set(frame["state"][0])


def test_steps_by_hand_have_the_fields_that_are_documented(api):
    _, text = API.split("## Steps by hand\n", 1)
    asked, answered = [json.loads(one) for one in re.findall(r"```json\n(.*?)```", text, re.DOTALL)[:2]]
    answer = api.post("/sessions/device-7/steps", json=asked)
    assert answer.status_code == 200, answer.text
    assert shape_of(answer.json()) == shape_of(answered)
    assert (answer.json()["first_step"], answer.json()["next_step"]) == (41, 42)


def test_an_error_has_the_fields_that_are_documented(api):
    assert shape_of(api.get("/sessions/nobody").json()) == shape_of(example("What holds for all"))
