"""A ticket: the steps of one session that one message carries, on their way through the batches.

Rules of this file: a ticket works on a state of its own; the session's changes only when the whole
message is done, so a ticket that fails or is cancelled leaves nothing behind. It is settled once.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from ntm_serve.errors import NtmServeError
from ntm_serve.record import Committed
from ntm_serve.spec import Array
from ntm_serve.state import StateRow

if TYPE_CHECKING:
    from ntm_serve.sessions import Session


class Waiter(Protocol):
    """Whoever wants the answer: a message, of which the session's steps are one place."""

    def ticket_settled(self, place: int, ticket: "Ticket") -> None: ...


class Ticket:
    """T steps of one session, numbered from first_step. inputs and outputs `[T, ...]`, one array per spec;
    outputs are written as they come, into arrays that belong to the message.
    """

    __slots__ = (
        "_followers", "_waiters", "computed_s", "error", "first_step", "inputs", "keeping", "on_settled", "outputs",
        "recalled", "replayed", "session", "settled", "silent", "started_s", "state", "steps", "steps_done",
        "submitted_s",
    )  # fmt: skip

    def __init__(
        self,
        session: "Session",
        first_step: int,
        inputs: tuple[Array, ...],
        outputs: tuple[Array, ...],
        submitted_s: float,
    ) -> None:
        self.session = session
        self.first_step = first_step
        self.inputs = inputs
        self.outputs = outputs
        self.steps = len(inputs[0])
        # How many of the steps have their outputs, and how many of those came from the reply window.
        self.steps_done = 0
        self.replayed = 0
        # The working state: what step steps_done starts from. None before the ticket's first batch.
        self.state: StateRow | None = None
        self.submitted_s = submitted_s
        self.started_s: float | None = None
        # When its last step was made and the store was told, where there is a store to tell.
        self.computed_s: float | None = None
        # Its steps are done and on their way to the store: what is left is the store's answer.
        self.keeping = False
        # Its steps come from the store, which need not be told of them.
        self.recalled = False
        # Whoever submitted it counts it and logs what failed, and not the scheduler.
        self.silent = False
        self.settled = False
        self.error: NtmServeError | None = None
        # The scheduler's own, for its accounts.
        self.on_settled: Callable[[Ticket], None] | None = None
        self._waiters: list[tuple[Waiter, int]] = []
        self._followers: list[Callable[[], None]] | None = None

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

    def message(self) -> Committed:
        """What these steps are once they are committed: without those that were before."""
        made = self.replayed
        if not made:
            return Committed(self.first_step, self.inputs, self.outputs)
        inputs, outputs = tuple([one[made:] for one in self.inputs]), tuple([one[made:] for one in self.outputs])
        return Committed(self.first_step + made, inputs, outputs)

    def same_inputs(self, inputs: Sequence[Array]) -> bool:
        """Whether other inputs are these, bit for bit."""
        return all(identical(mine, theirs) for mine, theirs in zip(self.inputs, inputs, strict=True))

    def add_waiter(self, waiter: Waiter, place: int) -> None:
        """Have the waiter told when the ticket is settled; at once if it is."""
        if self.settled:
            waiter.ticket_settled(place, self)
        else:
            self._waiters.append((waiter, place))

    def drop_waiter(self, waiter: Waiter) -> bool:
        """The waiter wants no answer any more. True when nobody else waits for one."""
        self._waiters = [one for one in self._waiters if one[0] is not waiter]
        return not self.settled and not self._waiters

    def add_follower(self, follower: Callable[[], None]) -> None:
        """Have `follower` called after the waiters. It wants no answer: it keeps nobody's steps alive."""
        if self._followers is None:
            self._followers = []
        self._followers.append(follower)

    def settle(self, error: NtmServeError | None = None) -> None:
        """Answer everybody who waits: with the outputs, or with the error."""
        assert not self.settled, "a ticket is settled once"
        self.settled = True
        self.error = error
        waiters, self._waiters = self._waiters, []
        followers, self._followers = self._followers, None
        for waiter, place in waiters:
            waiter.ticket_settled(place, self)
        if self.on_settled is not None:
            self.on_settled(self)
        for follower in followers or ():
            follower()


def identical(one: Array, other: Array) -> bool:
    """Whether two arrays hold the same bits (0.0 and -0.0 differ)."""
    return one.shape == other.shape and one.tobytes() == other.tobytes()
