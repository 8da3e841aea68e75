"""The training loop: the same recipe gives the same weights, whatever happens on the way, and they get better."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from ntm_models import train as train_module
from ntm_models.build import build_step, first_step, load_step
from ntm_models.errors import RecipeFault, TrainingFault
from ntm_models.population import Population
from ntm_models.recipe import parse_recipe
from ntm_models.tasks import Episodes
from ntm_models.train import _losses, scores_by_length, train


class Killed(Exception):
    """Ends a run as kill -9 would: nothing is saved on the way out."""


def stopping_after(steps: int):
    """A `stop` that is true once it was asked so many times."""
    left = [steps]

    def stop() -> bool:
        left[0] -= 1
        return left[0] < 0

    return stop


def saved(folder) -> tuple[dict, dict, str]:
    checkpoint, best = (torch.load(folder / name, weights_only=True) for name in ("checkpoint.pt", "best.pt"))
    return checkpoint, best, (folder / "log.jsonl").read_text()


def expect_same_bits(one, other) -> None:
    """Equal in every tensor, number and name, however deep."""
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            expect_same_bits(one[name], other[name])
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            expect_same_bits(*pair)
    else:
        assert one == other


@pytest.mark.parametrize("controller", ["feed-forward", "lstm", "gru"])
@pytest.mark.parametrize("stops", [(1,), (5,), (7,), (2, 4, 5)], ids=str)
def test_a_run_that_was_stopped_ends_with_the_bits_of_one_that_was_not(controller, stops, entries, tmp_path):
    entries["model"]["controller"] = controller
    recipe = parse_recipe(entries)
    train(recipe, tmp_path / "whole")

    for steps in stops:
        assert train(recipe, tmp_path / "stopped", stop=stopping_after(steps)).step < recipe.training.steps
    end = train(recipe, tmp_path / "stopped")

    assert end.step == recipe.training.steps
    expect_same_bits(saved(tmp_path / "whole"), saved(tmp_path / "stopped"))


def test_a_run_that_was_killed_ends_with_the_bits_of_one_that_was_not(tiny, tmp_path):
    train(tiny, tmp_path / "whole")

    def killing(progress) -> None:
        if progress.step == 7:
            raise Killed

    with pytest.raises(Killed):
        train(tiny, tmp_path / "killed", report=killing)
    resumed = []
    train(tiny, tmp_path / "killed", report=resumed.append)

    assert resumed[0].step == 5  # Where the last checkpoint was.
    expect_same_bits(saved(tmp_path / "whole"), saved(tmp_path / "killed"))


def test_a_stop_loses_no_step(tiny, tmp_path):
    stopped = train(tiny, tmp_path, stop=stopping_after(7))
    reports = []
    train(tiny, tmp_path, report=reports.append)
    assert stopped == reports[0]
    assert [report.step for report in reports] == [7, 8, 9, 10, 11, 12]


def test_another_seed_gives_other_weights(tiny, tmp_path):
    for seed in (3, 4):
        train(replace(tiny, seed=seed), tmp_path / str(seed))
    one, other = (saved(tmp_path / seed)[1] for seed in ("3", "4"))
    assert not torch.equal(one["heads.weight"], other["heads.weight"])


def test_a_finished_run_is_left_as_it_is(tiny, tmp_path):
    train(tiny, tmp_path)
    before = saved(tmp_path)
    reports = []
    end = train(tiny, tmp_path, report=reports.append)
    assert reports == [end]
    expect_same_bits(saved(tmp_path), before)


def test_the_weights_with_the_fewest_wrong_bits_are_kept_and_of_equals_the_later(entries, tmp_path, monkeypatch):
    entries["training"]["steps"], entries["selection"]["every"] = 5, 1
    scores, scored = iter([9.0, 2.0, 4.0, 2.0, 3.0]), []

    def scripted(_recipe, population):
        scored.append(population.state_dict(0))
        return {"2": [next(scores)], "3": [0.5]}

    monkeypatch.setattr(train_module, "scores_by_length", scripted)

    end = train(parse_recipe(entries), tmp_path)

    assert end.best_score == 2.5
    expect_same_bits(dict(saved(tmp_path)[1]), scored[3])


def test_the_kept_weights_score_what_the_log_says(tiny, tmp_path):
    end = train(tiny, tmp_path)
    scores = scores_by_length(tiny, Population([load_step(tiny, tmp_path / "best.pt")]))
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [5, 10, 12]
    assert sum(score for (score,) in scores.values()) == end.best_score
    assert end.best_score == min(sum(score for (score,) in row["score"].values()) for row in rows)


def test_the_log_has_the_mean_loss_since_its_last_row(tiny, tmp_path, monkeypatch):
    losses, real = [], train_module._train_once

    def noting(*arguments):
        loss_bits, gradient_norms = real(*arguments)
        losses.append(loss_bits[0])
        return loss_bits, gradient_norms

    monkeypatch.setattr(train_module, "_train_once", noting)

    train(tiny, tmp_path)

    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    wanted = [sum(part) / len(part) for part in (losses[:5], losses[5:10], losses[10:])]
    assert [row["loss_bits"][0] for row in rows] == pytest.approx(wanted)


def test_an_untrained_model_loses_about_one_bit_for_each_bit(tiny, tmp_path):
    reports = []
    train(tiny, tmp_path, report=reports.append, stop=stopping_after(1))
    assert reports[-1].loss_bits in (pytest.approx(8, rel=0.3), pytest.approx(16, rel=0.3))  # Lengths 1 and 2.


def test_the_folder_of_another_recipe_is_refused_and_left_as_it_is(tiny, tmp_path):
    train(tiny, tmp_path)
    before = saved(tmp_path)
    with pytest.raises(
        TrainingFault, match="holds a run of another recipe; seed: expected 3, got 4; remove the folder"
    ):
        train(replace(tiny, seed=4), tmp_path)
    expect_same_bits(saved(tmp_path), before)


def test_a_model_that_cannot_be_built_leaves_no_folder(entries, tmp_path):
    recipe = parse_recipe({**entries, "model": {"slots": 0}})
    with pytest.raises(RecipeFault, match="slots"):
        train(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_diverges_ends_with_the_step(entries, tmp_path):
    entries["training"]["learning_rate"] = 1e36
    with pytest.raises(TrainingFault, match=r"step \d+: expected a finite loss and gradient, got"):
        train(parse_recipe(entries), tmp_path)


def test_a_short_training_learns(entries, tmp_path):
    entries["model"] = {"controller_size": 32, "slots": 8, "width": 10}
    entries["training"].update(steps=600, batch=16)
    entries["selection"].update(every=150, lengths=[1], sequences=20)
    entries["seed"] = 5

    train(parse_recipe(entries), tmp_path)

    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["loss_bits"][0] < rows[0]["loss_bits"][0] / 2
    assert rows[-1]["score"]["1"][0] < 0.5  # Of 8; whoever guesses has 4.


def test_a_state_space_model_learns_by_recipe(entries, tmp_path):
    entries |= {"family": "state-space", "task": "tones", "model": {"layers": 1, "channels": 4, "states": 3}}
    entries["training"].update(steps=30, batch=8, length_min=40, length_max=40, learning_rate=0.02)
    entries["selection"].update(every=15, lengths=[40], sequences=4)

    train(parse_recipe(entries), tmp_path)

    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["loss_bits"][0] < rows[0]["loss_bits"][0]


def test_the_first_weights_come_from_the_seed_and_nothing_else_is_drawn(tiny):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    once = build_step(tiny).state_dict()
    assert torch.equal(torch.rand(3), expected)
    expect_same_bits(dict(once), dict(build_step(tiny).state_dict()))


def test_a_run_ends_where_the_score_is_good_enough_and_stays_ended(entries, tmp_path, monkeypatch):
    entries["training"]["steps"], entries["selection"]["every"] = 9, 1
    entries["selection"]["enough"] = 1
    scores = iter([9.0, 4.0, 0.5])
    monkeypatch.setattr(train_module, "scores_by_length", lambda *_: {"2": [next(scores)], "3": [0.5]})
    recipe = parse_recipe(entries)
    end = train(recipe, tmp_path)
    assert (end.step, end.best_score, end.finished) == (3, 1.0, True)
    assert train(recipe, tmp_path) == end


def test_a_run_may_start_from_the_weights_of_another_recipe(tiny, tmp_path):
    train(tiny, tmp_path / "first")
    (tmp_path / "first" / "best.pt").rename(tmp_path / "tiny.pt")
    following = replace(tiny, seed=9, start="tiny")
    started = first_step(following, tmp_path).state_dict()
    expect_same_bits(dict(started), dict(torch.load(tmp_path / "tiny.pt", weights_only=True)))


def test_weights_to_start_from_that_are_not_there_or_of_other_sizes_are_refused(entries, tmp_path):
    recipe = parse_recipe({**entries, "start": "other"})
    with pytest.raises(RecipeFault, match=r"recipe tiny: start: .*other\.pt cannot be read: No such file"):
        first_step(recipe, tmp_path)
    torch.save({"heads.weight": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(RecipeFault, match=r"recipe tiny: start: .*other\.pt has weights of other sizes"):
        first_step(recipe, tmp_path)


def test_a_memory_that_starts_from_a_smaller_one_grows(entries, tmp_path):
    torch.save(build_step(parse_recipe(entries)).state_dict(), tmp_path / "small.pt")
    grown = first_step(parse_recipe({**entries, "start": "small", "model": {**entries["model"], "slots": 9}}), tmp_path)
    before = torch.load(tmp_path / "small.pt", weights_only=True)["first_weightings"]
    after = grown.state_dict()["first_weightings"]
    assert torch.equal(after[:, :6], before)
    assert torch.equal(after[:, 6:], before.min(dim=1, keepdim=True).values.expand(-1, 3))


def batch_of(y, scored, *, classes=False):
    y = np.asarray(y, np.float32)
    return Episodes(x=y, y=y, scored=np.asarray(scored), classes=classes)


def test_the_loss_is_the_mean_of_what_counts_whether_that_is_told_for_all_sequences_or_for_each():
    random = torch.Generator().manual_seed(1)
    logits, y = torch.randn(1, 2, 3, 4, generator=random), (torch.rand(2, 3, 4, generator=random) > 0.5).float()
    for scored in ([False, True, True], [[False, True, True], [True, False, False]]):
        losses, counted = _losses(logits, [batch_of(y, scored)])
        mask = torch.as_tensor(scored).expand(2, 3)
        torch.testing.assert_close(
            losses[0], functional.binary_cross_entropy_with_logits(logits[0][mask], y[mask]), rtol=1e-6, atol=0
        )
        assert counted.tolist() == [mask.sum().item() * 4 / 2]


def test_the_loss_of_classes_is_their_cross_entropy():
    logits = torch.randn(1, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    right = torch.tensor([[0, 1, 2], [3, 2, 1]])
    losses, counted = _losses(logits, [batch_of(functional.one_hot(right, 4), [False, True, True], classes=True)])
    wanted = functional.cross_entropy(logits[0][:, 1:].flatten(0, 1), right[:, 1:].flatten())
    torch.testing.assert_close(losses[0], wanted, rtol=1e-6, atol=0)
    assert counted.tolist() == [2]
