"""Where sessions' states lie: as rows of the blocks that batches gave, so that a state is made and never copied.

Rules of this file: a block's arrays are read-only from the moment that they are in it; sessions that ran
together and run together again find their states side by side, and gathering them copies nothing; a block
that is mostly dead is made anew from its living rows, so that states cost at most twice their size.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from ntm_serve.spec import Array, frozen
from ntm_serve.step_model import State


class StateRow(NamedTuple):
    """One session's state: a row of a block."""

    block: "StateBlock"
    row: int

    def arrays(self) -> State:
        """Its arrays, without the batch axis: read-only views."""
        return tuple(array[self.row] for array in self.block.arrays)


class Holder(Protocol):
    """Whoever keeps a state: a session."""

    state: StateRow


class StateBlock:
    """States `[rows, ...]`, one array per state spec. Rows are kept alive one by one by their holders."""

    __slots__ = ("_holders", "_live", "arrays", "rows")

    def __init__(self, arrays: Sequence[Array], rows: int) -> None:
        self.arrays = tuple(frozen(array) for array in arrays)
        self.rows = rows
        self._holders: list[Holder | None] = []
        self._live = 0

    @classmethod
    def of_one(cls, state: State) -> StateRow:
        """A state by itself, as the first of a model's sessions."""
        return StateRow(cls([array[np.newaxis] for array in state], 1), 0)

    def hold(self, row: int, holder: Holder) -> None:
        """The row is the holder's state from now on; the row that it held before is let go."""
        if not self._holders:
            self._holders = [None] * self.rows
        before = holder.state
        self._holders[row] = holder
        self._live += 1
        holder.state = StateRow(self, row)
        before.block.let_go(before.row, holder)

    def let_go(self, row: int, holder: Holder) -> None:
        """The holder needs the row no more. A row that it never held, as the initial state's, stays as it is.

        Whoever has many rows let go compacts once, at the end.
        """
        if self._holders and self._holders[row] is holder:
            self._holders[row] = None
            self._live -= 1

    def compact(self) -> None:
        """Where at most half of the rows are alive, move them to a block of their own; this one is then free."""
        if not 0 < 2 * self._live <= self.rows:
            return
        living = [(row, holder) for row, holder in enumerate(self._holders) if holder is not None]
        places = [row for row, _ in living]
        smaller = StateBlock([array[places] for array in self.arrays], len(places))
        smaller._holders = [holder for _, holder in living]
        smaller._live = len(living)
        for row, (_, holder) in enumerate(living):
            holder.state = StateRow(smaller, row)
        self._holders, self._live = [], 0


def gather(states: Sequence[StateRow], rows: int) -> tuple[Array, ...]:
    """The states as the rows of one batch `[rows, ...]`, the missing rows at the end filled with valid states.

    Views of the block where the states lie side by side in it, as after a batch of the same company.
    """
    first, count = states[0], len(states)
    block, start = first
    if all(state.block is block and state.row == start + place for place, state in enumerate(states)):
        if start == 0 and block.rows == rows:
            return block.arrays
        if count == rows:
            return tuple(array[start : start + rows] for array in block.arrays)
    batch = tuple(np.empty((rows, *array.shape[1:]), array.dtype) for array in block.arrays)
    for begin, end in _runs(states):
        source = states[begin].block.arrays
        places = [state.row for state in states[begin:end]]
        together = places == list(range(places[0], places[0] + len(places)))
        chosen = slice(places[0], places[-1] + 1) if together else places
        for target, array in zip(batch, source, strict=True):
            target[begin:end] = array[chosen]
    if count < rows:
        for target in batch:
            target[count:] = target[0]
    return batch


def _runs(states: Sequence[StateRow]) -> list[tuple[int, int]]:
    """Where neighbours lie in the same block: begin and end of each such run."""
    cuts = [place for place in range(1, len(states)) if states[place].block is not states[place - 1].block]
    return list(zip([0, *cuts], [*cuts, len(states)], strict=True))
