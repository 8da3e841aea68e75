"""The model repository: `<repository>/<model>/<version>/` folders, found by name, not yet read."""

from dataclasses import dataclass
from pathlib import Path

from ntm_serve.bundle import NAME, VERSION
from ntm_serve.errors import SettingsFault
from ntm_serve.manifest import MANIFEST_FILE
from ntm_serve.step_model import ModelKey


@dataclass(frozen=True)
class Found:
    """A folder that is meant to be a model directory."""

    key: ModelKey
    path: Path


def find_models(repository: Path) -> list[Found]:
    """Every version of every model, by name and version number. What is named otherwise is left alone.

    Raises SettingsFault where the repository cannot be read or holds no model.
    """
    if (repository / MANIFEST_FILE).exists():
        hint = repository.resolve().parent.parent
        raise SettingsFault(f"models: {repository} is a model directory, expected the repository above it: {hint}")
    if not repository.is_dir():
        raise SettingsFault(f"models: expected a model repository, got {repository}, which is not a folder")
    found = [
        Found(ModelKey(model.name, version.name), version)
        for model in sorted(repository.iterdir())
        if model.is_dir() and NAME.fullmatch(model.name)
        for version in sorted(model.iterdir())
        if version.is_dir() and VERSION.fullmatch(version.name)
    ]
    if not found:
        raise SettingsFault(f"models: expected <model>/<version>/ folders in {repository}, got none")
    return sorted(found, key=lambda one: (one.key.name, int(one.key.version)))
