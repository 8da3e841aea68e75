"""A recurrent entity network, against the equations of Henaff et al. 2017 written out cell by cell."""

import numpy as np
import pytest
import torch

from ntm_models.families.entnet import EntNet, EntNetOptions

K, D, PLACES = 3, 5, 4


@pytest.fixture
def step():
    torch.manual_seed(1)
    made = EntNet(EntNetOptions(inputs=4, outputs=PLACES, asked=2, vocabulary=9, cells=K, width=D)).eval()
    with torch.no_grad():  # So that the order of words and both sides of the rectifiers count.
        made.statement_places.normal_()
        made.question_places.normal_()
        made.slope.fill_(0.3)
        made.output_slope.fill_(0.2)
    return made


def rectified(x, slope):
    return np.where(x > 0, x, slope * x)


def test_a_step_is_the_equations(step):
    words, question = torch.tensor([[3, 0, 7, 8]]), torch.tensor([[1, 4]])
    state = {"entities": torch.randn(1, K, D, generator=torch.Generator().manual_seed(2))}
    with torch.no_grad():
        outputs, following = step({"x": words, "question": question}, state)
    w = {name: value.detach().numpy().astype(np.float64) for name, value in step.named_parameters()}
    embedded = w["words.weight"].copy()
    embedded[0] = 0  # No word.
    statement = (embedded[words[0]] * w["statement_places"]).sum(axis=0)  # eq. 1
    asked = (embedded[question[0]] * w["question_places"]).sum(axis=0)
    cells = []
    for cell, key in zip(state["entities"][0].numpy(), w["keys"], strict=True):
        gate = 1 / (1 + np.exp(-(statement @ cell + statement @ key)))  # eq. 2
        candidate = rectified(
            w["of_content.weight"] @ cell + w["of_key.weight"] @ key + w["of_statement.weight"] @ statement, 0.3
        )  # eq. 3
        grown = cell + gate * candidate  # eq. 4
        cells.append(grown / np.linalg.norm(grown))  # eq. 5
    cells = np.array(cells)
    attended = np.exp(cells @ asked) / np.exp(cells @ asked).sum()
    logits = w["output.weight"] @ rectified(asked + w["of_answer.weight"] @ (attended @ cells), 0.2)  # eq. 6
    np.testing.assert_allclose(following["entities"][0], cells, rtol=0, atol=1e-5)
    np.testing.assert_allclose(outputs["y"][0], np.exp(logits) / np.exp(logits).sum(), rtol=0, atol=1e-5)


def test_a_step_without_a_statement_leaves_every_cell_as_it_was(step):
    start = {"entities": step.initial_state()["entities"].detach().expand(2, -1, -1)}
    with torch.no_grad():
        _, asked = step({"x": torch.zeros(2, 4, dtype=torch.int64), "question": torch.tensor([[1, 4], [0, 0]])}, start)
        _, told = step({"x": torch.tensor([[3, 0, 7, 8]] * 2), "question": torch.tensor([[1, 4], [0, 0]])}, start)
    assert torch.equal(asked["entities"], start["entities"])
    assert (told["entities"] - start["entities"]).abs().max() > 1e-2
    # A question changes nothing.
    torch.testing.assert_close(told["entities"][0], told["entities"][1], rtol=0, atol=1e-6)
