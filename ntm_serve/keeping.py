"""How a session is kept in a store: what a committed message adds there, and what it lets go. Pure.

Rules of this file: what is added leads on from what is there; a snapshot is due before a replay takes long or the
log outweighs the state; what retries and forks may still ask for is not let go.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ntm_serve.durability import Durability
from ntm_serve.record import Committed, record_of
from ntm_serve.snapshot import encoded
from ntm_serve.state import StateRow
from ntm_serve.step_model import State, StepModel
from ntm_serve.store import Claim, Commit, Snapshot

# What a record takes in a store beside its inputs, about.
RECORD_OVERHEAD_BYTES = 48


@dataclass(frozen=True, slots=True)
class Retention:
    """snapshot_steps: the most steps that coming back runs again. log_share, log_bytes_min: how much of the state's
    size the log after the newest snapshot may be, and what is too little to matter. retain_steps: how far back a
    session may be forked and rewound at least, in steps.
    """

    snapshot_steps: int = 64
    log_share: float = 0.5
    log_bytes_min: int = 4096
    retain_steps: int = 0


class Kept:
    """What the store has of a session that is in memory. One Commit of it is on its way at a time."""

    __slots__ = ("back_from", "claim", "durability", "log_bytes", "snapshot_steps")

    def __init__(self, claim: Claim, durability: Durability, snapshot_steps: Sequence[int], log_bytes: int) -> None:
        """snapshot_steps: of the states that the store has, ascending; the model's initial state is one where nothing
        was let go. log_bytes: of what follows the newest.
        """
        self.claim = claim
        self.durability = durability
        self.snapshot_steps = list(snapshot_steps)
        self.log_bytes = log_bytes
        # Where the reply window began when the session came back: what the store has of before is as good as in it,
        # until the window has let go itself.
        self.back_from: int | None = None

    @property
    def oldest_step(self) -> int:
        """The oldest step that the session can be brought back to."""
        return self.snapshot_steps[0]

    def window_step(self, oldest_step: int) -> int:
        """The oldest step that a retry may ask for. oldest_step: of the session's window."""
        return self.oldest_step if oldest_step == self.back_from else oldest_step

    def commit_of(
        self,
        message: Committed,
        state: StateRow,
        model: StepModel,
        retention: Retention,
        *,
        window_step: int,
        used_at_s: float,
    ) -> Commit:
        """What a message adds that led to this state. window_step: the oldest that a retry may ask for."""
        replayable = model.batch_independence.holds
        record = record_of(self.claim.session_id, message, with_outputs=not replayable)
        end_step, log_bytes = record.end_step, self.log_bytes + len(record.payload) + RECORD_OVERHEAD_BYTES
        snapshot = None
        if (
            not replayable
            or end_step - self.snapshot_steps[-1] >= retention.snapshot_steps
            or (log_bytes > retention.log_bytes_min and log_bytes > retention.log_share * model.spec.state_bytes)
        ):
            snapshot = self.snapshot_of(end_step, state.arrays(), model)
        # What is let go is let go with whole snapshots: the store is told when there is one.
        keep_from_step = None
        if len(self.snapshot_steps) > 1:
            least = min(window_step, end_step - retention.retain_steps)
            keep_from_step = least if self.snapshot_steps[1] <= least else None
        return Commit(self.claim, used_at_s, (record,), snapshot, keep_from_step)

    def snapshot_of(self, step: int, state: State, model: StepModel) -> Snapshot:
        """A snapshot of the session's state before that step."""
        return Snapshot(step, encoded(model.card, model.spec.state, self.claim.session_id, step, state))

    def advance(self, commit: Commit) -> None:
        """The store has it."""
        for record in commit.records:
            self.log_bytes += len(record.payload) + RECORD_OVERHEAD_BYTES
        if commit.snapshot is not None:
            if commit.snapshot.step != self.snapshot_steps[-1]:
                self.snapshot_steps.append(commit.snapshot.step)
            self.log_bytes = 0
        if commit.keep_from_step is not None:
            while len(self.snapshot_steps) > 1 and self.snapshot_steps[1] <= commit.keep_from_step:
                del self.snapshot_steps[0]
