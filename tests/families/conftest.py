"""What the suite runs: of every family the models that are shipped, on one server."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch

from ntm_exporter.source import Source, load_source
from ntm_models.zoo import Entry, read_zoo
from ntm_serve.app import load_model
from ntm_serve.client import Client
from ntm_serve.model_directory import ModelDirectory, read_model_directory
from ntm_serve.repository import find_models
from ntm_serve.step_model import StepModel
from ntm_serve.testing import test_server

torch.set_num_threads(1)  # A step is too small to share between threads.

MODELS = Path(__file__).parents[2] / "models"
ZOO = MODELS / "zoo"

# One model is enough here of families that have many, and its others are measured by zoo-check.
NTM = "copy-ff"
ONE_OF = {"ntm": NTM, "lstm": "dynamic-ngrams-baseline"}

ENTRIES = {one.name: one for one in read_zoo(ZOO) if ONE_OF.get(one.manifest.family, one.name) == one.name}


@dataclass(frozen=True)
class Shown:
    """A shipped model: what its files say, its torch step, and its graph on the server's engine."""

    entry: Entry
    engine: StepModel

    @property
    def name(self) -> str:
        return self.entry.name

    @cached_property
    def directory(self) -> ModelDirectory:
        return read_model_directory(ZOO / self.name / self.entry.version)

    @cached_property
    def source(self) -> Source:
        return load_source(str(MODELS / "recipes" / f"{self.name}.toml"), MODELS / "weights" / f"{self.name}.pt")

    def given(self, seed: int) -> dict[str, np.ndarray]:
        """What that session is given when it opens, `[...]` by the names of state tensors."""
        return dict(self.source.example_state(seed))

    def inputs(self, steps: int, seed: int) -> dict[str, np.ndarray]:
        """One session's inputs as its task has them, `[T, ...]` each."""
        return {name: np.asarray(array) for name, array in self.source.example_inputs(steps, seed).items()}


@pytest.fixture(scope="session")
def engines():
    return {found.key.name: load_model(found, batch_max=64) for found in find_models(ZOO) if found.key.name in ENTRIES}


@pytest.fixture(params=ENTRIES)
def shown(request, engines):
    return Shown(ENTRIES[request.param], engines[request.param])


@pytest.fixture(scope="module")
def target(engines):
    with test_server(list(engines.values())) as server:
        yield server.target


@pytest.fixture
def client(target):
    with Client(target) as connected:
        yield connected
