"""A ticket: the steps of one session that one message carries, on their way through the batches.

Rules of this file: a ticket works on a state of its own; the session's changes only when the whole
message is done, so a ticket that fails or is cancelled leaves nothing behind. It is settled once.
"""

from collections.abc import Callable, Sequence

import numpy as np

from ntm_serve.errors import NtmServeError
from ntm_serve.spec import Array, TensorSpec
from ntm_serve.state import StateRow


class Ticket:
    """T steps of one session, numbered from first_step. inputs `[T, ...]` per input."""

    __slots__ = (
        "_followers", "_waiters", "error", "first_step", "inputs", "outputs", "replayed", "settled", "started_s",
        "state", "steps", "steps_done", "submitted_s",
    )  # fmt: skip

    def __init__(
        self, *, first_step: int, inputs: tuple[Array, ...], output_specs: Sequence[TensorSpec], submitted_s: float
    ) -> None:
        self.first_step = first_step
        self.inputs = inputs
        self.steps = len(inputs[0])
        self.outputs = tuple(np.empty((self.steps, *spec.shape), spec.numpy_dtype) for spec in output_specs)
        # How many of the steps have their outputs, and how many of those came from the reply window.
        self.steps_done = 0
        self.replayed = 0
        # The working state: what step steps_done starts from. None before the ticket's first batch.
        self.state: StateRow | None = None
        self.submitted_s = submitted_s
        self.started_s: float | None = None
        self.settled = False
        self.error: NtmServeError | None = None
        self._waiters: list[Callable[[Ticket], None]] = []
        self._followers: list[Callable[[Ticket], None]] = []

    @property
    def end_step(self) -> int:
        """The number after the last of these steps."""
        return self.first_step + self.steps

    def take(self, outputs: Sequence[Array], state: StateRow, row: int) -> None:
        """Keep one row's outputs of some steps, `[steps, rows, ...]`, and go on from its state after them."""
        start, end = self.steps_done, self.steps_done + len(outputs[0])
        for kept, batch in zip(self.outputs, outputs, strict=True):
            kept[start:end] = batch[:, row]
        self.state = state
        self.steps_done = end

    def same_inputs(self, inputs: Sequence[Array]) -> bool:
        """Whether other inputs are these, bit for bit."""
        return all(identical(mine, theirs) for mine, theirs in zip(self.inputs, inputs, strict=True))

    def add_waiter(self, waiter: Callable[["Ticket"], None]) -> None:
        """Have `waiter` called when the ticket is settled; at once if it is."""
        if self.settled:
            waiter(self)
        else:
            self._waiters.append(waiter)

    def drop_waiter(self, waiter: Callable[["Ticket"], None]) -> bool:
        """The waiter wants no answer any more. True when nobody else waits for one."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        return not self.settled and not self._waiters

    def add_follower(self, follower: Callable[["Ticket"], None]) -> None:
        """Have `follower` called after the waiters. It wants no answer: it keeps nobody's steps alive."""
        self._followers.append(follower)

    def settle(self, error: NtmServeError | None = None) -> None:
        """Answer everybody who waits: with the outputs, or with the error."""
        assert not self.settled, "a ticket is settled once"
        self.settled = True
        self.error = error
        for array in self.outputs:
            array.flags.writeable = False
        told, self._waiters, self._followers = [*self._waiters, *self._followers], [], []
        for one in told:
            one(self)


def identical(one: Array, other: Array) -> bool:
    """Whether two arrays hold the same bits (0.0 and -0.0 differ)."""
    return one.shape == other.shape and one.tobytes() == other.tobytes()
