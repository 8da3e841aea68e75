"""Stacks of torch's cells against torch's own layers over whole sequences."""

import pytest
import torch

from ntm_models.families.recurrent import RecurrentCells, RecurrentOptions


@pytest.mark.parametrize(("cell", "whole"), [("lstm", torch.nn.LSTM), ("gru", torch.nn.GRU)])
def test_the_weights_of_torchs_layers_give_the_same_step_by_step(cell, whole):
    torch.manual_seed(3)
    step = RecurrentCells(RecurrentOptions(inputs=4, outputs=2, cell=cell, layers=3, size=5))
    trained = whole(4, 5, num_layers=3, batch_first=True)
    with torch.no_grad():
        for layer, each in enumerate(step.cells):
            for name, parameter in each.named_parameters():
                parameter.copy_(getattr(trained, f"{name}_l{layer}"))
        x = torch.randn(6, 11, 4)
        wanted = torch.sigmoid(step.output(trained(x)[0]))
        state = {name: value.expand(6, *value.shape) for name, value in step.initial_state().items()}
        given = []
        for at in range(11):
            outputs, state = step({"x": x[:, at]}, state)
            given.append(outputs["y"])
    torch.testing.assert_close(torch.stack(given, dim=1), wanted)


def test_only_an_lstm_has_a_cell_state():
    of = {kind: RecurrentCells(RecurrentOptions(inputs=1, outputs=1, cell=kind)) for kind in ("lstm", "gru")}
    assert list(of["lstm"].initial_state()) == ["h", "c"]
    assert list(of["gru"].initial_state()) == ["h"]


def test_an_unknown_cell_and_a_size_below_one_are_refused():
    with pytest.raises(ValueError, match="cell: expected one of lstm, gru, got 'rnn'"):
        RecurrentOptions(inputs=1, outputs=1, cell="rnn")
    with pytest.raises(ValueError, match="layers: expected at least 1, got 0"):
        RecurrentOptions(inputs=1, outputs=1, layers=0)
