"""A model with the state of a Differentiable Neural Computer, checkable by hand."""

import numpy as np

from ntm_serve.spec import StateSpec, StepSpec, TensorSpec, frozen
from ntm_serve.step_model import BatchIndependence, ModelCard

SLOTS, WIDTH, HEADS = 12, 6, 2


class LinkedMemory:
    """Writes each input to the next slot, links it to the one before, and reads what came one and two steps ago.

    Input x `[WIDTH]`, output y `[WIDTH]`: what the second head reads. State: memory `[SLOTS, WIDTH]`, link
    `[SLOTS, SLOTS]` with 1 where the row was written right after the column, usage `[SLOTS]`, write_weighting
    `[1, SLOTS]`, read_weighting `[HEADS, SLOTS]`, and keys `[2, 3, WIDTH]` of no role: their sums.
    """

    def __init__(self):
        self.card = ModelCard(name="linked-memory", version="1", family="dnc", engine="numpy")
        specs = (
            StateSpec("memory", "float32", (SLOTS, WIDTH), role="memory"),
            StateSpec("link", "float32", (SLOTS, SLOTS), role="link"),
            StateSpec("usage", "float32", (SLOTS,), role="usage"),
            StateSpec("write_weighting", "float32", (1, SLOTS), role="write_weighting"),
            StateSpec("read_weighting", "float32", (HEADS, SLOTS), role="read_weighting"),
            StateSpec("keys", "float32", (2, 3, WIDTH), role=""),
        )
        x, y = TensorSpec("x", "float32", (WIDTH,)), TensorSpec("y", "float32", (WIDTH,))
        self.spec = StepSpec(inputs=(x,), outputs=(y,), state=specs)
        self.initial_state = tuple(frozen(np.zeros(spec.shape, np.float32)) for spec in specs)
        self.batch_max = 8
        self.batch_independence = BatchIndependence(holds=True, padding=1, rows_tested=8)
        self.runs_inline = True

    def run(self, inputs, state):
        """See StepModel.run."""
        rows = [_step(x, *each) for x, *each in zip(inputs[0], *state, strict=True)]
        y, *after = (np.stack(each) for each in zip(*rows, strict=True))
        return [y], after


def _step(x, memory, link, usage, written, read, keys):
    before = int(written[0].argmax()) if written.any() else SLOTS - 1
    slot = (before + 1) % SLOTS
    memory, link, usage = memory.copy(), link.copy(), usage * np.float32(0.9)
    memory[slot] = x
    link[slot], link[:, slot] = 0, 0
    if written.any():
        link[slot, before] = 1
    usage[slot] = 1
    one = np.eye(SLOTS, dtype=np.float32)
    read = np.stack([one[before], one[before - 1]])
    return memory[before - 1], memory, link, usage, one[slot : slot + 1], read, keys + x
