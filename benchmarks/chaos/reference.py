"""What sessions are sent, drawn from a seed, and what they must answer: from the same model, undisturbed, in this
process.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from ntm_serve.engine import OrtEngine
from ntm_serve.model_directory import read_model_directory
from ntm_serve.spec import Array

# Inputs are drawn so many steps at a time, so that any step's can be told without those before.
BLOCK = 256
# Sessions that make steps together, as in a server.
ROWS_MAX = 64


class Reference:
    """Inputs and outputs of any number of sessions, by place, of a model with one input and one output."""

    def __init__(self, directory: Path, *, seed: int) -> None:
        """directory: of the model's version. Raises what a server would not serve it for."""
        name, version = directory.parts[-2:]
        self.engine = OrtEngine(read_model_directory(directory), name=name, version=version, batch_max=ROWS_MAX)
        if not self.engine.batch_independence.holds:
            raise RuntimeError(f"{directory}: its bits depend on the batch on this machine; nothing can be compared")
        [self._input], _ = self.engine.spec.inputs, self.engine.spec.outputs
        self._seed = seed
        self._block = lru_cache(maxsize=1024)(self._drawn)

    def inputs(self, place: int, first_step: int, steps: int) -> Array:
        """What the session of that place is sent: `[T, ...]`."""
        end = first_step + steps
        blocks = [self._block(place, number) for number in range(first_step // BLOCK, (end - 1) // BLOCK + 1)]
        begin = first_step % BLOCK
        return np.concatenate(blocks)[begin : begin + steps]

    def _drawn(self, place: int, number: int) -> Array:
        random = np.random.default_rng([self._seed, place, number])
        return random.random((BLOCK, *self._input.shape)).astype(self._input.numpy_dtype)

    def outputs(self, places: Sequence[int], steps: int) -> dict[int, Array]:
        """What each of these must answer to its first steps: `[steps, ...]`."""
        answers: dict[int, Array] = {}
        for first in range(0, len(places), ROWS_MAX):
            company = places[first : first + ROWS_MAX]
            state: Sequence[Array] = [np.repeat(array[None], len(company), 0) for array in self.engine.initial_state]
            made: list[Array] = []
            for begin in range(0, steps, BLOCK):
                inputs = np.stack([self.inputs(place, begin, min(BLOCK, steps - begin)) for place in company], axis=1)
                for x in inputs:
                    [y], state = self.engine.run([x], state)
                    made.append(y)
            for row, place in enumerate(company):
                answers[place] = np.stack([y[row] for y in made]) if made else np.empty((0,), np.float32)
        return answers
