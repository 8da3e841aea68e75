"""Sizes of a step's state that sessions may choose: what is proved, written and refused."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ntm_exporter.candidate import make_candidate
from ntm_exporter.errors import ContractFault, ExportFault, TraceFault
from ntm_exporter.export import Options, export
from ntm_exporter.source import Source
from ntm_models.dnc import DNC, DNCOptions
from ntm_serve.app import load_models
from ntm_serve.client import Client
from ntm_serve.manifest import AxisEntry
from ntm_serve.testing import test_server

from .steps import source_of

# 16 is a multiple of what a DNC fills its rows up to, and the others are none.
SLOTS, MOST = 5, 40
RANGE = {"slots": (1, MOST)}


def dnc(slots: int = SLOTS) -> DNC:
    torch.manual_seed(0)
    return DNC(DNCOptions(inputs=3, outputs=2, layers=(8,), slots=slots, width=4, read_heads=2)).eval()


def example(steps: int, seed: int) -> dict[str, Any]:
    return {"x": np.random.default_rng(seed).random((steps, 3)).astype(np.float32)}


def test_a_dnc_is_served_with_as_many_slots_as_a_session_chooses(tmp_path: Path) -> None:
    step = dnc()
    roles = {name: role for name, role in step.roles.items() if name in step.initial_state()}
    source = Source(name="dnc", step=step, example_inputs=example, roles=roles)
    manifest = export(source, Options(out=tmp_path, sizes=RANGE)).manifest
    assert manifest.axes == {"slots": AxisEntry(min=1, max=MOST)}
    assert manifest.verification.sizes == ({"slots": 1}, {"slots": MOST})
    assert {one.name: one.axes for one in manifest.state} == {**step.axes, "read_vector": ()}
    xs = example(20, 7)["x"]
    with test_server(load_models(tmp_path, batch_max=8)) as server, Client(server.target) as client:
        for slots in (1, 3, SLOTS, 16, MOST):
            other = dnc(slots)
            state = {name: tensor.unsqueeze(0) for name, tensor in other.initial_state().items()}
            wanted = []
            with torch.no_grad():
                for x in xs:
                    outputs, state = other({"x": torch.tensor(x).unsqueeze(0)}, state)
                    wanted.append(outputs["y"][0].numpy())
            session = client.session("dnc", sizes={"slots": slots})
            assert np.allclose(session.step(xs), np.stack(wanted), atol=1e-5)
            assert session.state("link")["link"].shape == (slots, slots)


def test_what_nobody_asks_for_stays_as_it_is() -> None:
    """A step that names its axes, of which nobody says how large they may be."""
    candidate = make_candidate(Source(name="dnc", step=dnc(), example_inputs=example))
    assert candidate.spec.axes == ()
    assert all(one.axes == () for one in candidate.spec.state)


class Average:
    """y = the mean of a memory `[N, 2]`, which takes x in at each slot."""

    sizes: Mapping[str, tuple[int, int]] = {"slots": (1, 9)}
    axes: Mapping[str, tuple[str, ...]] = {"memory": ("slots", "")}

    def initial_state(self) -> dict[str, Any]:
        return {"memory": torch.ones(4, 2)}

    def __call__(self, inputs: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Any:
        memory = state["memory"] / 2 + inputs["x"].unsqueeze(1)
        return {"y": memory.mean(dim=1)}, {"memory": memory}

    def example_inputs(self, steps: int, seed: int) -> dict[str, Any]:
        return {"x": np.random.default_rng(seed).random((steps, 2)).astype(np.float32)}


def test_a_step_says_itself_what_sessions_may_choose_and_its_exporter_has_the_last_word() -> None:
    [axis] = make_candidate(source_of(Average())).spec.axes
    assert (axis.name, axis.size, axis.size_min, axis.size_max) == ("slots", 4, 1, 9)
    [axis] = make_candidate(source_of(Average()), sizes={"slots": (2, 30)}).spec.axes
    assert (axis.size_min, axis.size_max) == (2, 30)


class Learned(Average):
    def initial_state(self) -> dict[str, Any]:
        return {"memory": torch.arange(8.0).reshape(4, 2)}


class Fixed(Average):
    """Works at its own size alone."""

    def __call__(self, inputs: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Any:
        outputs, following = super().__call__(inputs, state)
        return outputs, {"memory": following["memory"] * torch.ones(1, 4, 2)}


class Wide(Average):
    """Its output is as large as its memory."""

    def __call__(self, inputs: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Any:
        _, following = super().__call__(inputs, state)
        return {"y": following["memory"].sum(dim=2)}, following


class Counted(Average):
    """Counts its slots as the number that it is traced with: the graph would be another function."""

    def __call__(self, inputs: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> Any:
        outputs, following = super().__call__(inputs, state)
        return {"y": outputs["y"] * int(state["memory"].shape[1])}, following


@pytest.mark.parametrize(
    ("step", "sizes", "told"),
    [
        (Learned(), {}, "memory: expected an initial state that is the same all along axis 0, slots"),
        (Fixed(), {}, r"sizes: at {'slots': 1}: .*|sizes: at {'slots': 9}: step: failed"),
        (Wide(), {}, r"sizes: at {'slots': 1}: expected outputs \['float32\[4\]'\] as at its own"),
        (Average(), {"slots": (5, 9)}, r"sizes: slots: expected a least and a most around its own 4, got \(5, 9\)"),
        (Average(), {"slots": (4, 4)}, "expected a least and a most around its own 4"),
        (Average(), {"slots": 9}, r"sizes: slots: expected two whole numbers, \(least, most\), got 9"),
        (Average(), {"width": (1, 2)}, "sizes: width: expected it to be an axis of a state tensor"),
    ],
)
def test_what_cannot_be_left_to_sessions_is_refused_with_the_reason(step: Any, sizes: Any, told: str) -> None:
    with pytest.raises(ContractFault, match=told):
        make_candidate(source_of(step), sizes=sizes)


def test_a_step_that_takes_its_size_for_a_constant_is_not_exported(tmp_path: Path) -> None:
    """Torch refuses to trace it, or what was traced is another function: nothing is written."""
    try:
        export(source_of(Counted()), Options(out=tmp_path))
    except (TraceFault, ExportFault):
        assert not list(tmp_path.iterdir())
    else:
        with test_server(load_models(tmp_path, batch_max=8)) as server, Client(server.target) as client:
            ones = np.ones(2, np.float32)
            assert client.session("cell", sizes={"slots": 9}).step(ones)[0] == pytest.approx(9 * 1.5)
