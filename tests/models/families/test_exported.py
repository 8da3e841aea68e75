"""Steps without a model in the zoo, at random: each has a graph of any batch size that is the same function."""

import pytest
import torch

from ntm_exporter.candidate import make_candidate
from ntm_exporter.source import Source, TaskExample
from ntm_exporter.verify import engine_rows, one_step_parity, torch_rows
from ntm_models.families.recurrent import RecurrentCells, RecurrentOptions
from ntm_models.families.state_space import StateSpace, StateSpaceOptions
from ntm_models.tasks import TASKS

STEPS = {
    "tones": lambda task: StateSpace(StateSpaceOptions(task.inputs, task.outputs)),
    "dyck-words": lambda task: RecurrentCells(RecurrentOptions(task.inputs, task.outputs, cell="lstm")),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_exported_and_its_graph_gives_on_its_task_what_torch_gives(name):
    task = TASKS[name]()
    torch.manual_seed(4)
    step = STEPS[name](task).eval()
    example = TaskExample(task)
    source = Source(name=step.family, step=step, example_inputs=example, scored=task, task=name, roles=step.roles)
    candidate = make_candidate(source)
    parity = one_step_parity(
        torch_rows(step, candidate.spec),
        engine_rows(candidate.in_memory(), name=step.family, version="1"),
        spec=candidate.spec,
        initial=candidate.initial,
        examples=candidate.examples,
        tolerance=1e-5,
        batch_sizes=(1, 2, 7),
        steps=12,
    )
    assert 0 < parity.error_max <= 1e-5
