"""Finding model directories."""

import pytest

from ntm_serve.errors import SettingsFault
from ntm_serve.repository import find_models


def test_versions_are_found_in_the_order_of_their_numbers(tmp_path):
    for version in ("10", "9", "b-side", ".git", "0", "01"):
        (tmp_path / "copy" / version).mkdir(parents=True)
    (tmp_path / "README.md").write_text("not a model")
    (tmp_path / ".hidden" / "1").mkdir(parents=True)
    assert [str(found.key) for found in find_models(tmp_path)] == ["copy/9", "copy/10"]


def test_a_repository_that_is_not_there_is_named(tmp_path):
    with pytest.raises(
        SettingsFault, match=r"models: expected a model repository, got .*nowhere, which is not a folder"
    ):
        find_models(tmp_path / "nowhere")


def test_a_repository_without_models_is_refused(tmp_path):
    with pytest.raises(SettingsFault, match=r"expected <model>/<version>/ folders in .*, got none"):
        find_models(tmp_path)


def test_a_model_directory_in_place_of_a_repository_is_refused_with_the_repository(tmp_path):
    directory = tmp_path / "zoo" / "copy" / "1"
    directory.mkdir(parents=True)
    (directory / "manifest.json").write_text("{}")
    with pytest.raises(SettingsFault, match=r"is a model directory, expected the repository above it: .*zoo$"):
        find_models(directory)
