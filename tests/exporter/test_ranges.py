"""Ranges of inputs: what is found in a step is what torch takes of it, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exporter.steps import Cell, source_of
from torch import Tensor, nn
from torch.nn import functional

from ntm_exporter.candidate import make_candidate
from ntm_exporter.errors import ContractFault
from ntm_exporter.export import Options, export
from ntm_serve.app import load_models
from ntm_serve.client import Client
from ntm_serve.errors import InvalidInput
from ntm_serve.manifest import MANIFEST_FILE
from ntm_serve.testing import test_server

ROWS, WIDTH = 8, 4


class Tokens(Cell):
    """tokens `[2]` of int64 in, kept in h `[8]`. looked_up: tensors of any shape that the step sees."""

    dtype = torch.int64

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(ROWS, WIDTH)
        self.wide = nn.Embedding(100, WIDTH)
        self.register_buffer("rows", torch.arange(ROWS * WIDTH, dtype=torch.float32).reshape(ROWS, WIDTH))

    def initial_state(self) -> dict[str, Any]:
        return {"h": torch.zeros(ROWS)}

    def forward(self, inputs: Any, state: Any) -> Any:
        seen = self.looked_up(inputs["tokens"], state["h"])
        y = seen.float().flatten(1).mean(dim=1, keepdim=True)
        return {"y": y}, {"h": state["h"] * 0.5 + y}

    def looked_up(self, tokens: Tensor, h: Tensor) -> Tensor:
        return self.table(tokens)

    def example_inputs(self, steps: int, seed: int) -> dict[str, Any]:
        numbers = np.random.default_rng(seed).integers(0, ROWS, (steps, 2))
        return {"tokens": numbers.astype(str(self.dtype).removeprefix("torch."))}


def step_of(looked_up: Any, dtype: Any = torch.int64) -> Tokens:
    step = Tokens()
    step.dtype = dtype
    step.looked_up = lambda tokens, h: looked_up(step, tokens, h)  # type: ignore[method-assign]
    return step.eval()


def range_of(step: Tokens) -> Any:
    return make_candidate(source_of(step)).spec.inputs[0].range


FROM_ZERO, FROM_THE_END = (0, ROWS - 1), (-ROWS, ROWS - 1)


def clamped_in_place(step: Tokens, tokens: Tensor, h: Tensor) -> Tensor:
    mine = tokens.clone()
    mine[:, 0].clamp_(0, 7)
    mine[:, 1].clamp_(0, 7)
    return step.table(mine)


def assigned(x: Tensor, h: Tensor) -> Tensor:
    mine = h.clone()
    mine[torch.arange(h.shape[0]), x[:, 0]] = 1
    return mine


def moved_about(step: Tokens, tokens: Tensor, h: Tensor) -> Tensor:
    moved = torch.stack([tokens, tokens], dim=1).flip(2).transpose(1, 2).contiguous().view(-1, 4)
    first, second = moved.unsqueeze(2).expand(-1, 4, 3).repeat(1, 1, 2).roll(1, 2).chunk(2, dim=1)
    return step.table(torch.cat([first, second.permute(0, 1, 2).to(torch.int64)], dim=1).detach())


FOUND = {
    "an embedding": (lambda step, x, h: step.table(x), FROM_ZERO),
    "an embedding of int32": (lambda step, x, h: step.table(x), FROM_ZERO, torch.int32),
    "an embedding of a cast to more bits": (lambda step, x, h: step.table(x.long()), FROM_ZERO, torch.int8),
    "an embedding of a cast of unsigned numbers": (lambda step, x, h: step.table(x.int()), FROM_ZERO, torch.uint16),
    "indices": (lambda step, x, h: step.rows[x], FROM_THE_END),
    "indices of two axes": (lambda step, x, h: (step.rows @ step.rows.T)[x[:, :1], x[:, 1:]], FROM_THE_END),
    "indices of the second axis": (lambda step, x, h: h[torch.arange(h.shape[0]).unsqueeze(1), x], FROM_THE_END),
    "index_select": (lambda step, x, h: step.rows.index_select(0, x.flatten()).reshape(-1, 2, WIDTH), FROM_ZERO),
    "gather": (lambda step, x, h: h.gather(1, x), FROM_ZERO),
    "gather by its last axis": (lambda step, x, h: torch.gather(h, dim=-1, index=x), FROM_ZERO),
    "scatter": (lambda step, x, h: h.scatter(1, x, 1.0), FROM_ZERO),
    "scatter_add": (lambda step, x, h: h.scatter_add(1, x, torch.ones_like(h)), FROM_ZERO),
    "scatter_reduce": (lambda step, x, h: h.scatter_reduce(1, x, torch.ones_like(h), "amax"), FROM_ZERO),
    "take": (lambda step, x, h: step.rows.take(x), (-ROWS * WIDTH, ROWS * WIDTH - 1)),
    "an assignment": (lambda step, x, h: assigned(x, h) + step.table(x).sum((1, 2))[:, None], FROM_ZERO),
    "one_hot": (lambda step, x, h: functional.one_hot(x, ROWS), FROM_ZERO),
    "a bag": (lambda step, x, h: functional.embedding_bag(x, step.table.weight), FROM_ZERO),
    "what was moved about": (moved_about, FROM_ZERO),
    "two tables, the smaller": (lambda step, x, h: step.table(x) + step.wide(x), FROM_ZERO),
    "a table and indices": (lambda step, x, h: step.rows[x] + step.wide(x), FROM_ZERO),
    "more rows than the dtype has numbers": (
        lambda step, x, h: functional.embedding(x.long(), torch.ones(1000, 1)),
        (0, 127),
        torch.int8,
    ),
    "a table of one row": (lambda step, x, h: functional.embedding(x, torch.ones(1, WIDTH)), (0, 0)),
}  # fmt: skip

NOT_FOUND = {
    "arithmetic before it": (lambda step, x, h: step.table(x % ROWS),),
    "a bound before it": (lambda step, x, h: step.table(x.clamp(0, ROWS - 1)),),
    "a bound in place before it": (clamped_in_place,),
    "a choice before it": (lambda step, x, h: step.table(torch.where(x < ROWS, x, 0)),),
    "a place that is not looked up": (lambda step, x, h: step.table(x[:, 0]) + x[:, 1:],),
    "a cast that wraps": (lambda step, x, h: step.table(x.to(torch.int32)),),
    "a cast that loses its sign": (lambda step, x, h: step.table(x.to(torch.uint8).long()), torch.int8),
    "a cast by way of floats": (lambda step, x, h: step.table(x.float().long()),),
    "a mask": (lambda step, x, h: (x == torch.arange(2)).float(),),
    "as many rows as the dtype has numbers": (
        lambda step, x, h: functional.embedding(x.long(), torch.ones(256, 1)),
        torch.uint8,
    ),
    "whole numbers that are counted": (lambda step, x, h: x + h[:, :2],),
}


def zeros(steps: int, seed: int) -> dict[str, Any]:
    return {"tokens": np.zeros((steps, 2), np.int64)}


@pytest.mark.parametrize("name", FOUND)
def test_what_is_looked_up_has_the_range_that_torch_takes(name: str) -> None:
    looked_up, expected, *dtype = FOUND[name]
    step = step_of(looked_up, *dtype)
    if expected == (0, 0):
        step.example_inputs = zeros  # type: ignore[method-assign]
    assert range_of(step) == expected
    for number in expected:
        taken(step, number)
    held = torch.iinfo(step.dtype)
    for number in (expected[0] - 1, expected[1] + 1):
        if held.min <= number <= held.max:
            with pytest.raises((IndexError, RuntimeError)):
                taken(step, number)


@pytest.mark.parametrize("name", NOT_FOUND)
def test_nothing_is_claimed_of(name: str) -> None:
    assert range_of(step_of(*NOT_FOUND[name])) is None


def test_the_widest_counts_of_places_that_are_looked_up_in_tables_of_their_own() -> None:
    assert range_of(step_of(lambda step, x, h: step.table(x[:, 0]) + step.wide(x[:, 1]))) == (0, 99)


def test_of_an_axis_whose_size_a_session_chooses_there_is_no_upper_bound() -> None:
    step = step_of(lambda step, x, h: h.gather(1, x))
    step.forward = lambda inputs, state: (  # type: ignore[method-assign]
        {"y": state["h"].gather(1, inputs["tokens"])},
        {"h": state["h"] + 1},
    )
    step.axes, step.sizes = {"h": ("slots",)}, {"slots": (ROWS, 20)}  # type: ignore[assignment]
    assert range_of(step) == (0, 2**63 - 1)
    step.sizes = {}  # type: ignore[assignment]
    assert range_of(step) == FROM_ZERO


def test_an_input_of_floats_has_no_range() -> None:
    assert make_candidate(source_of(Cell())).spec.ranged == ()


def said(bounds: Any, looked_up: Any = NOT_FOUND["arithmetic before it"][0], name: str = "tokens") -> Tokens:
    step = step_of(looked_up)
    step.ranges = {name: bounds}  # type: ignore[assignment]
    return step


def test_a_step_says_a_range_that_is_not_found_or_a_narrower_one() -> None:
    assert range_of(said((0, 9))) == (0, 9)
    assert range_of(said([0, ROWS - 1], FOUND["an embedding"][0])) == FROM_ZERO
    assert range_of(said((-2, 7), FOUND["indices"][0])) == (-2, 7)
    assert range_of(said((np.int8(-2), np.int64(7)))) == (-2, 7)


@pytest.mark.parametrize(
    ("step", "told"),
    [
        (said((0, 7), name="token"), "ranges: expected names of inputs, ['tokens'], got 'token'"),
        (said((0, 7.5)), "ranges: tokens: expected two whole numbers, (min, max), got (0, 7.5)"),
        (said((0, True)), "ranges: tokens: expected two whole numbers, (min, max), got (0, True)"),
        (said(range(2)), "ranges: tokens: expected two whole numbers, (min, max), got range(0, 2)"),
        (said((0, 1, 2)), "ranges: tokens: expected two whole numbers, (min, max), got (0, 1, 2)"),
        (said(7), "ranges: tokens: expected two whole numbers, (min, max), got 7"),
        (said((7, 0)), "tokens: range: expected -9223372036854775808 <= min <= max"),
        (
            said((0, 8), FOUND["an embedding"][0]),
            "ranges: tokens: expected numbers within 0..7, as the step looks them up, got 0..8",
        ),
        (said((0, 6)), "example_inputs(32, 0): tokens: expected numbers from 0 to 6, got 7 at ["),
    ],
)
def test_a_range_that_a_step_cannot_say_is_refused(step: Tokens, told: str) -> None:
    with pytest.raises(ContractFault) as refused:
        range_of(step)
    assert str(refused.value).startswith(told)


def test_an_example_need_not_know_what_a_single_step_is() -> None:
    step, inside = step_of(FOUND["an embedding"][0]), Tokens().example_inputs

    def marked(steps: int, seed: int) -> dict[str, Any]:
        numbers = inside(steps, seed)
        numbers["tokens"][np.random.default_rng(seed).integers(1, steps)] = 0
        return numbers

    step.example_inputs = marked  # type: ignore[method-assign]
    assert range_of(step) == FROM_ZERO


def test_an_example_beyond_the_range_is_told_with_its_number_and_place() -> None:
    step, inside = step_of(FOUND["an embedding"][0]), Tokens().example_inputs

    def leaves(steps: int, seed: int) -> dict[str, Any]:
        numbers = inside(steps, seed)
        numbers["tokens"][5:6, 1] = ROWS
        return numbers

    step.example_inputs = leaves  # type: ignore[method-assign]
    with pytest.raises(ContractFault) as refused:
        make_candidate(source_of(step))
    assert str(refused.value) == "example_inputs(32, 0): tokens: expected numbers from 0 to 7, got 8 at [5, 1]"


@pytest.mark.parametrize("name", ["an embedding", "indices", "gather", "scatter", "one_hot", "what was moved about"])
def test_a_server_refuses_what_torch_refuses_and_gives_what_torch_gives(name: str, tmp_path: Path) -> None:
    looked_up, (least, most), *_ = FOUND[name]
    step = step_of(looked_up)
    made = export(source_of(step), Options(out=tmp_path))
    assert json.loads((made.path / MANIFEST_FILE).read_text())["inputs"][0]["range"] == {"min": least, "max": most}
    assert f"int64[2] in {least}..{most}" in (made.path / "README.md").read_text()
    with test_server(load_models(tmp_path, batch_max=8)) as server, Client(server.target) as client:
        for number in (least - 1, least, 0, most, most + 1):
            with client.session("cell") as session:
                x = np.full(2, number)
                if least <= number <= most:
                    np.testing.assert_allclose(session.step(x), taken(step, number)[0], rtol=1e-5, atol=1e-6)
                    continue
                with pytest.raises(
                    InvalidInput, match=rf"tokens: expected numbers from {least} to {most}, got {number}"
                ):
                    session.step(x)
                with pytest.raises((IndexError, RuntimeError)):
                    taken(step, number)


def taken(step: Tokens, number: int) -> Tensor:
    with torch.no_grad():
        return step({"tokens": torch.full((3, 2), number, dtype=step.dtype)}, {"h": torch.zeros(3, ROWS)})[0]["y"]
