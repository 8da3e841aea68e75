"""Models side by side: each gives what it would give alone, and learns what it would learn alone."""

from dataclasses import replace

import pytest
import torch
from models.rollout import initial_batch, rollout_logits

from ntm_models.build import build_step
from ntm_models.population import Population
from ntm_models.recipe import parse_recipe
from ntm_models.train import _clip, train

SIZES = {"controller_size": 8, "slots": 6, "width": 4}
FAMILIES = {
    "feed-forward": {"family": "ntm", "model": {"controller": "feed-forward", **SIZES}},
    "lstm": {"family": "ntm", "model": {"controller": "lstm", **SIZES}},
    "dnc": {"family": "dnc", "model": {"layers": [8], "slots": 6, "width": 4}},
    "dnc-lstm": {"family": "dnc", "model": {"controller": "lstm", "layers": [8, 8], "slots": 6, "width": 4}},
    "layers": {"family": "lstm", "model": {"layers": 2, "size": 8}},
}
every_family = pytest.mark.parametrize("family", FAMILIES)


def steps_of(entries, seeds=(3, 4, 5)):
    return [build_step(parse_recipe({**entries, "seed": seed})) for seed in seeds]


@every_family
def test_each_model_gives_what_it_gives_alone(family, entries):
    steps = steps_of({**entries, **FAMILIES[family]})
    x = torch.rand(3, 2, 5, 9, generator=torch.Generator().manual_seed(1))
    together = Population(steps).logits({"x": x})
    for nth, step in enumerate(steps):
        torch.testing.assert_close(together[nth], rollout_logits(step, x[nth]), rtol=0, atol=1e-5)


def test_sessions_begin_with_what_they_are_given_in_place_of_the_models_own(entries):
    steps = steps_of({**entries, **FAMILIES["feed-forward"]})
    x = torch.rand(3, 2, 5, 9, generator=torch.Generator().manual_seed(1))
    memory = torch.rand(3, 2, 6, 4, generator=torch.Generator().manual_seed(2))
    together = Population(steps).logits({"x": x}, {"memory": memory})
    for nth, step in enumerate(steps):
        own = initial_batch(step, 2)
        alone, _ = step.logits({"x": x[nth, :, 0]}, {**own, "memory": memory[nth]})
        torch.testing.assert_close(together[nth][:, 0], alone, rtol=0, atol=1e-5)
        assert not torch.allclose(alone, step.logits({"x": x[nth, :, 0]}, own)[0], atol=1e-3)


@every_family
def test_each_model_has_the_gradient_that_it_has_alone(family, entries):
    steps = steps_of({**entries, **FAMILIES[family]})
    x = torch.rand(3, 2, 5, 9, generator=torch.Generator().manual_seed(1))
    population = Population(steps)
    population.logits({"x": x}).square().mean(dim=(1, 2, 3)).sum().backward()
    for nth, step in enumerate(steps):
        rollout_logits(step, x[nth]).square().mean().backward()
        for name, alone in step.named_parameters():
            together = population.parameters[f"step.{name}"].grad
            torch.testing.assert_close(together[nth], alone.grad, rtol=1e-4, atol=1e-6)


@every_family
def test_a_model_that_is_taken_out_is_the_one_that_was_put_in(family, entries):
    steps = steps_of({**entries, **FAMILIES[family]})
    population = Population(steps)
    for nth, step in enumerate(steps):
        taken = population.state_dict(nth)
        assert taken.keys() == step.state_dict().keys()
        assert all(torch.equal(taken[name], value) for name, value in step.state_dict().items())


def test_gradients_are_clipped_model_by_model_and_those_that_are_not_finite_become_none():
    parameter = torch.zeros(3, 2, requires_grad=True)
    parameter.grad = torch.tensor([[3.0, 4.0], [0.3, 0.4], [float("nan"), 1.0]])
    norms = _clip([parameter], 1.0)
    assert norms[:2].tolist() == pytest.approx([5.0, 0.5])
    assert not norms[2].isfinite()
    assert parameter.grad.flatten().tolist() == pytest.approx([0.6, 0.8, 0.3, 0.4, 0.0, 0.0], abs=1e-5)


def test_the_first_seed_of_several_learns_what_it_learns_alone(tiny, tmp_path):
    train(replace(tiny, seeds=1), tmp_path / "alone")
    train(replace(tiny, seeds=3), tmp_path / "together")
    alone, together = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["parameters"] for name in ("alone", "together")
    )
    for name, value in alone.items():
        torch.testing.assert_close(together[name][0], value[0], rtol=1e-3, atol=1e-4)


def test_a_seed_that_left_the_finite_numbers_does_not_stop_its_neighbours(tiny, tmp_path, monkeypatch):
    real = Population.__init__

    def with_a_dead_one(self, steps, **options):
        with torch.no_grad():
            steps[1].output.bias.fill_(float("inf"))
        real(self, steps, **options)

    monkeypatch.setattr(Population, "__init__", with_a_dead_one)
    end = train(replace(tiny, seeds=2), tmp_path)
    assert end.step == tiny.training.steps
    kept = torch.load(tmp_path / "best.pt", weights_only=True)
    assert all(value.isfinite().all() for value in kept.values())
