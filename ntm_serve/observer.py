"""What the moving parts tell whoever counts: a narrow interface, so that no decision knows of a metrics library."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ntm_serve.errors import NtmServeError
from ntm_serve.step_model import ModelKey


class MessageCounts:
    """Messages received and sent. On the path of a step, and so counted without a call."""

    __slots__ = ("received", "sent")

    def __init__(self) -> None:
        self.received = self.sent = 0


@dataclass(frozen=True)
class Counted:
    """How often, and the seconds of all of them."""

    count: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class ModelTotals:
    """What was counted of a model since the server started. A request is one session's steps in one message, or rows
    that came together.

    answered, failed: requests, from the door to the reply. waited: those that were answered, from the door to the first
    run. runs: of the engine, by their number of rows. steps: rows of all runs. last_run_at_s: the time of day of the
    last one, 0 before there was any.
    """

    answered: Counted
    failed: Counted
    waited: Counted
    runs: Mapping[int, Counted]
    steps: int
    last_run_at_s: float


@dataclass(frozen=True, slots=True)
class Timeline:
    """What became of a message, by the time that it is answered. On the monotonic clock: started_s, when its first
    batch began, and computed_s, when its last step was made and the store was told; None where that was not. model:
    None where no session was found. errors: of the sessions that failed.
    """

    model: ModelKey | None
    session_ids: Sequence[str]
    steps: int
    started_s: float | None
    computed_s: float | None
    errors: Sequence[NtmServeError]


class MessageTrace(Protocol):
    """Of one message, from its coming in to its answer. It ends once."""

    def answered(self, timeline: Timeline | None = None) -> None:
        """timeline: None of a message that has no steps."""
        ...

    def failed(self, error: NtmServeError) -> None:
        """It was refused as a whole, or nobody waits for it any more."""
        ...


class CallTrace(Protocol):
    """Of one call."""

    def message(self) -> MessageTrace | None:
        """A message has come in; None where it is not recorded."""
        ...


class Tracer(Protocol):
    """Told of calls whose messages may be traced."""

    def call(self, method: str, metadata: Sequence[tuple[str, str | bytes]]) -> CallTrace: ...


class Observer(Protocol):
    """Called on the event loop, once per event; must not block."""

    def session_opened(self, model: ModelKey) -> None: ...

    def session_ended(self, model: ModelKey, *, reason: str, lived_s: float, steps: int) -> None: ...

    def steps_settled(
        self,
        model: ModelKey,
        *,
        outcome: str,
        sessions: int,
        steps: int,
        latency_s: float,
        queue_wait_s: float | None,
        fault: str = "",
    ) -> None:
        """A message's steps were answered: `steps` of each of so many sessions. outcome: ok, error, duplicate or
        cancelled. queue_wait_s: from the door to the first batch, None where they never ran. fault: the error's reason.
        """
        ...

    def rows_settled(
        self,
        model: ModelKey,
        *,
        outcome: str,
        rows: int,
        latency_s: float,
        queue_wait_s: float | None,
        fault: str = "",
    ) -> None:
        """A request of so many rows to a model without state was answered, or its caller left; else as above."""
        ...

    def ride_ran(self, model: ModelKey, *, rows: int, steps: int, compute_s: float) -> None:
        """The same sessions ran `steps` batches one after another, `compute_s` seconds for all of them."""
        ...

    def rejected(self, model: ModelKey, *, reason: str) -> None: ...

    def session_restored(self, model: ModelKey, *, took_s: float) -> None:
        """A session came back from the store."""
        ...

    def session_left(self, model: ModelKey, *, reason: str) -> None:
        """A session left memory, and is in the store. reason: room, wanted, lease, retry,
        drain, or that of an error."""
        ...

    def sequence_restarted(self, model: ModelKey) -> None:
        """A sequence began anew under the name of one that was there."""
        ...

    def replay_differed(self, model: ModelKey) -> None:
        """Steps that were run again gave other bits than they were answered with."""
        ...

    def store_wrote(self, *, sessions: int, took_s: float) -> None:
        """Messages of so many sessions were committed to the store in one go."""
        ...


class NoObserver:
    """Counts nothing."""

    def session_opened(self, model: ModelKey) -> None:
        pass

    def session_ended(self, model: ModelKey, *, reason: str, lived_s: float, steps: int) -> None:
        pass

    def steps_settled(
        self,
        model: ModelKey,
        *,
        outcome: str,
        sessions: int,
        steps: int,
        latency_s: float,
        queue_wait_s: float | None,
        fault: str = "",
    ) -> None:
        pass

    def rows_settled(
        self,
        model: ModelKey,
        *,
        outcome: str,
        rows: int,
        latency_s: float,
        queue_wait_s: float | None,
        fault: str = "",
    ) -> None:
        pass

    def ride_ran(self, model: ModelKey, *, rows: int, steps: int, compute_s: float) -> None:
        pass

    def rejected(self, model: ModelKey, *, reason: str) -> None:
        pass

    def session_restored(self, model: ModelKey, *, took_s: float) -> None:
        pass

    def session_left(self, model: ModelKey, *, reason: str) -> None:
        pass

    def sequence_restarted(self, model: ModelKey) -> None:
        pass

    def replay_differed(self, model: ModelKey) -> None:
        pass

    def store_wrote(self, *, sessions: int, took_s: float) -> None:
        pass
