"""Versions that come and go while a server runs: nothing fails, and nobody is moved."""

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from ntm_serve.app import load_models
from ntm_serve.client import Client
from ntm_serve.errors import ModelRejected, ModelUnknown
from ntm_serve.testing import test_server

ZOO = Path(__file__).parents[2] / "models" / "zoo"
X = np.ones((1, 9), np.float32)


@pytest.fixture
def repository(tmp_path):
    put(tmp_path / "models", "1")
    return tmp_path / "models"


@pytest.fixture(params=["", "sqlite"])
def client(repository, tmp_path, request):
    store = request.param and f"sqlite:{tmp_path}/sessions.db"
    loaded = load_models(repository, batch_max=8)
    settings = {"models": repository, "repository_poll_s": 0.05, "store": store}
    with test_server(loaded, **settings) as server, Client(server.target) as client:
        yield client


def put(repository, version, *, model="copy-ff"):
    """A version, all at once."""
    beside = repository.parent / "beside"
    shutil.copytree(ZOO / "copy-ff" / "1", beside)
    (repository / model).mkdir(parents=True, exist_ok=True)
    beside.rename(repository / model / version)


def until(condition):
    """Wait until it holds; fail after a while."""
    end_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end_s, "it never came to hold"
        time.sleep(0.02)


def versions(client):
    return {info.version: info.ready for info in client.models() if info.name == "copy-ff"}


def test_a_version_that_appears_takes_new_sessions_and_live_ones_stay_on_theirs(client, repository):
    before = client.session("copy-ff")
    before.step(X)
    put(repository, "2")
    until(lambda: versions(client) == {"1": True, "2": True})
    after = client.session("copy-ff")
    assert (before.info().version, after.info().version) == ("1", "2")
    assert before.step(X).tobytes() != after.step(X).tobytes(), "the one made a step before"


def test_a_version_that_is_taken_out_serves_its_sessions_to_the_last(client, repository):
    session = client.session("copy-ff", version="1")
    put(repository, "2")
    until(lambda: "2" in versions(client))
    shutil.rmtree(repository / "copy-ff" / "1")
    until(lambda: not versions(client)["1"])
    with pytest.raises(ModelRejected, match="was taken out of the repository; it serves the sessions that it has"):
        client.session("copy-ff", version="1")
    assert client.session("copy-ff").info().version == "2"
    for _ in range(3):
        session.step(X)
    session.close()
    until(lambda: versions(client) == {"2": True})
    with pytest.raises(ModelUnknown):
        client.session("copy-ff", version="1")


def test_a_version_that_comes_back_before_its_last_session_ended_takes_sessions_again(client, repository):
    session = client.session("copy-ff")
    (repository / "copy-ff" / "1").rename(repository / "away")
    until(lambda: not versions(client)["1"])
    (repository / "away").rename(repository / "copy-ff" / "1")
    until(lambda: versions(client)["1"])
    session.step(X)
    client.session("copy-ff").step(X)


def test_a_damaged_version_is_named_and_takes_nothing_from_its_neighbours(client, repository):
    put(repository, "1", model="other")
    until(lambda: client.model("copy-ff").ready)
    beside = repository.parent / "damaged"
    shutil.copytree(ZOO / "copy-ff" / "1", beside)
    with (beside / "model.onnx").open("r+b") as file:
        file.seek(100)
        file.write(b"\xff")
    beside.rename(repository / "copy-ff" / "3")
    until(lambda: "3" in versions(client))
    assert versions(client) == {"1": True, "3": False}
    assert client.session("copy-ff").info().version == "1"


def test_content_that_changes_under_its_number_is_not_loaded(client, repository):
    session = client.session("copy-ff")
    digest = client.model("copy-ff").digest
    manifest = repository / "copy-ff" / "1" / "manifest.json"
    os.utime(manifest, (1, 1))
    put(repository, "2")
    until(lambda: "2" in versions(client))
    assert client.model("copy-ff", "1").digest == digest
    session.step(X)


def test_a_version_that_is_copied_file_by_file_is_served_once_it_is_whole(client, repository):
    there = repository / "copy-ff" / "2"
    there.mkdir()
    shutil.copy(ZOO / "copy-ff" / "1" / "manifest.json", there)
    until(lambda: versions(client).get("2") is False)
    for file in (ZOO / "copy-ff" / "1").iterdir():
        shutil.copy(file, there)
    until(lambda: versions(client).get("2") is True)


def test_other_content_under_the_number_of_a_version_that_left_is_served_after_its_last_session(client, repository):
    session = client.session("copy-ff")
    digest = client.model("copy-ff").digest
    shutil.rmtree(repository / "copy-ff" / "1")
    until(lambda: not versions(client)["1"])
    beside = repository.parent / "beside"
    shutil.copytree(ZOO / "copy-lstm" / "1", beside)
    beside.rename(repository / "copy-ff" / "1")
    until(lambda: "came back with other content" in client.model("copy-ff").fault.message)
    session.step(X)
    session.close()
    until(lambda: versions(client).get("1") is True)
    assert client.model("copy-ff").digest != digest


def test_a_repository_that_is_away_for_a_while_takes_nothing_away(client, repository):
    repository.rename(repository.parent / "elsewhere")
    time.sleep(0.3)
    assert versions(client) == {"1": True}
    (repository.parent / "elsewhere").rename(repository)
    client.session("copy-ff").step(X)


def test_whatever_is_in_a_directory_its_neighbours_are_served(client, repository):
    there = repository / "copy-ff" / "2"
    there.mkdir()
    (there / "manifest.json").write_text("[" * 100_000)
    until(lambda: versions(client) == {"1": True, "2": False})
    client.session("copy-ff").step(X)
