"""The stacked LSTM that memories are measured against."""

import pytest
import torch

from ntm_models.lstm import StackedLSTM, StackedLSTMOptions


def test_it_has_the_size_of_the_papers_networks():
    # Graves et al. 2014, table 3, has 384,424 for three layers of 128 and the priority sort; its own count of
    # channels and peepholes differs a little from ours.
    step = StackedLSTM(StackedLSTMOptions(inputs=10, outputs=8, layers=3, size=128))
    assert sum(each.numel() for each in step.parameters()) == pytest.approx(384_424, rel=0.15)


def test_a_layer_is_the_lstm_cell_of_torch():
    step = StackedLSTM(StackedLSTMOptions(inputs=3, outputs=2, layers=1, size=4))
    cell = torch.nn.LSTMCell(3, 4)
    weight, bias = step.gates[0].weight, step.gates[0].bias
    # Ours: input, forget, output, candidate. torch's: input, forget, candidate, output.
    order = torch.cat([torch.arange(0, 8), torch.arange(12, 16), torch.arange(8, 12)])
    with torch.no_grad():
        cell.weight_ih.copy_(weight[order, :3])
        cell.weight_hh.copy_(weight[order, 3:])
        cell.bias_ih.copy_(bias[order])
        cell.bias_hh.zero_()
    x, h, c = torch.rand(5, 3), torch.rand(5, 4), torch.rand(5, 4)
    _, state = step({"x": x}, {"h": h.unsqueeze(1), "c": c.unsqueeze(1)})
    wanted_h, wanted_c = cell(x, (h, c))
    torch.testing.assert_close(state["h"][:, 0], wanted_h)
    torch.testing.assert_close(state["c"][:, 0], wanted_c)


def test_every_parameter_learns():
    step = StackedLSTM(StackedLSTMOptions(inputs=3, outputs=2, layers=2, size=4))
    state = {name: value.expand(2, *value.shape) for name, value in step.initial_state().items()}
    logits, _ = step.logits({"x": torch.rand(2, 3)}, state)
    logits.square().sum().backward()
    for name, parameter in step.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="layers: expected at least 1, got 0"):
        StackedLSTMOptions(inputs=1, outputs=1, layers=0)
