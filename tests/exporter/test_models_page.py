"""The page on memory models: its steps are exported with proof and served, what it says is refused is refused."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from exporter.steps import Cell, source_of

from ntm_exporter.candidate import make_candidate
from ntm_exporter.contract import called
from ntm_exporter.errors import ExportFault
from ntm_exporter.export import Options, export
from ntm_exporter.source import load_source
from ntm_serve.app import load_models
from ntm_serve.client import Client
from ntm_serve.errors import InvalidInput
from ntm_serve.testing import test_server

PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text()
BLOCKS = dict(re.findall(r"```python\n# (\w+\.py)\n(.*?)```", PAGE, re.DOTALL))
CLIENT = "client.py"
STEPS = sorted(BLOCKS.keys() - {CLIENT})

# The columns of the table of refusals: a step that, is refused with, because, instead.
REFUSALS = dict(re.findall(r"^\| ([a-z][^|]+) \| `([^|]+)` \| [^|]+ \| [^|]+ \|$", PAGE, re.MULTILINE))


def exported(name, tmp_path):
    (tmp_path / name).write_text(BLOCKS[name])
    source = load_source(f"{tmp_path / name}:build", None)
    export(source, Options(out=tmp_path / "models"))
    return source


@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_the_page_is_exported_with_proof_and_its_server_gives_what_torch_gives(name, tmp_path):
    source = exported(name, tmp_path)
    inputs, given = source.example_inputs(5, 7), source.example_state(7)
    state = {one: np.stack([given.get(one, value.numpy())]) for one, value in source.step.initial_state().items()}
    with (
        test_server(load_models(tmp_path / "models", batch_max=8)) as server,
        Client(server.target) as client,
        client.session(source.name, initial_state=given) as session,
    ):
        for at in range(5):
            outputs, state = called(source.step, {one: array[at : at + 1] for one, array in inputs.items()}, state)
            reply = session.step({one: array[at] for one, array in inputs.items()})
            replies = reply if isinstance(reply, dict) else {next(iter(outputs)): reply}
            for one, array in outputs.items():
                np.testing.assert_allclose(replies[one], array[0], rtol=1e-5, atol=1e-6, err_msg=one)
        for one, array in session.state().items():
            np.testing.assert_allclose(array, state[one][0], rtol=1e-5, atol=1e-6, err_msg=one)


def test_the_client_of_the_page_opens_a_session_with_a_memory_of_its_own(tmp_path):
    exported("price_list.py", tmp_path)
    with test_server(load_models(tmp_path / "models", batch_max=8)) as server:
        ours = BLOCKS[CLIENT].replace("localhost:8001", server.target)
        assert ours != BLOCKS[CLIENT]
        ran = subprocess.run([sys.executable, "-c", ours], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.splitlines() == ["price 2.0 total 4.0", "price 8.0 total 12.0"]


def test_an_item_that_the_price_list_of_the_page_does_not_have_is_refused(tmp_path):
    exported("price_list.py", tmp_path)
    with (
        test_server(load_models(tmp_path / "models", batch_max=8)) as server,
        Client(server.target) as client,
        client.session("price-list") as session,
    ):
        item, _ = client.model("price-list").inputs
        assert f"`{item.name} {item}`" in PAGE
        for number in (16, -1):
            with pytest.raises(InvalidInput, match=f"item: expected numbers from 0 to 15, got {number}"):
                session.step({"item": np.array([number]), "number": np.ones(1, np.float32)})
        assert session.info().next_step == 0


class Appends(Cell):
    def initial_state(self):
        return {"seen": torch.zeros(1, 3)}

    def forward(self, inputs, state):
        seen = torch.cat([state["seen"], inputs["x"].unsqueeze(1)], dim=1)
        return {"y": seen.mean(dim=1)}, {"seen": seen}


class IsComplex(Cell):
    def initial_state(self):
        return {"h": torch.zeros(4, dtype=torch.complex64)}


class Keeps(Cell):
    kept = 0.0

    def following(self, x, h):
        self.kept = self.kept + 1
        return super().following(x, h) + self.kept


class WritesInPlace(Cell):
    def following(self, x, h):
        return h.add_(1)


class MixesRows(Cell):
    def following(self, x, h):
        return super().following(x - x.mean(dim=0), h)


class LoopsOverRows(Cell):
    def following(self, x, h):
        return torch.stack(
            [super(LoopsOverRows, self).following(x[at : at + 1], h[at : at + 1])[0] for at in range(len(x))]
        )


class Cumulates(Cell):
    def following(self, x, h):
        return torch.cumprod(torch.sigmoid(super().following(x, h)), dim=1)


class DividesByZero(Cell):
    def following(self, x, h):
        powers = torch.sigmoid(super().following(x, h)) ** 1000
        return powers / powers.sum(dim=1, keepdim=True)


REFUSED = {
    "appends what it saw to its state": Appends,
    "has complex numbers as state": IsComplex,
    "keeps something on the module, or draws random numbers": Keeps,
    "writes into its state in place": WritesInPlace,
    "takes a mean over the batch": MixesRows,
    "loops over the batch": LoopsOverRows,
    "multiplies cumulatively with `cumprod`": Cumulates,
    "divides 0 by 0 on its example": DividesByZero,
}


def test_the_page_and_this_file_name_the_same_refusals():
    assert REFUSALS.keys() == REFUSED.keys()


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_page_says_is_refused_is_refused_in_those_words(what):
    with pytest.raises(ExportFault) as refused:
        make_candidate(source_of(REFUSED[what]()))
    assert REFUSALS[what] in str(refused.value)
