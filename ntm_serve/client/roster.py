"""The roster of a group: which sessions it has, where each stands, and what is on its way. Pure: it makes
messages and takes replies.

Rules of this file:
- every message says the number of each session's first step, so whatever is sent twice is run once;
- a session stands at the first step that no reply was taken for: after a broken connection the same steps,
  sent again, are retries;
- replies of one session may come out of order (a message is answered when its slowest session is): what came
  early counts once what was before it has come;
- where a step fails, those of its session that were sent after it were not run (the server sees the gap in the
  numbers); they are sent again, at the right numbers, before anything newer: what a session sees does not
  depend on how much was on its way;
- rows of a key that merely travelled together are parted where they fail, until it is known which of them did;
- where a step fails because of what passes by itself, its session alone waits and is sent the same step again; of
  several that failed so, the first is what it has patience with.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ntm_serve.client.conversion import asked_outputs
from ntm_serve.client.healing import Patience, meaning_of
from ntm_serve.client.rounds import NO_STEP, Round
from ntm_serve.errors import (
    LIMIT,
    CallerFault,
    EngineFault,
    InvalidInput,
    NtmServeError,
    StepAborted,
    StepAhead,
    TooLarge,
)
from ntm_serve.spec import TensorSpec
from ntm_serve.v1 import sessions_pb2
from ntm_serve.wire import arrays_of, error_of_wire, spec_of, tensor_of

# What a server takes in one message unless it was told otherwise; a lower limit is learnt from its first refusal.
SESSIONS_PER_MESSAGE_MAX = 4096
STEPS_PER_MESSAGE_MAX = 4096
# Far below the 64 MiB that a server takes; beyond it a longer message gains nothing.
MESSAGE_BYTES_MAX = 8 << 20

# After these a session goes on with its next step; after any other (a limit, a store) order would be lost.
GO_ON_AFTER = (CallerFault, EngineFault)

OnFailure = Callable[[int, int, NtmServeError], None]


@dataclass(slots=True, eq=False)
class Standing:
    """Where a session stands. next_step: the first step without a reply. sent_step: the first that was not sent.

    early: what was answered before something that was sent before it, by first step. again: what was sent after a
    step that failed, latest first; held: what came later still, in its order. stumbled: a step failed, and nothing
    is sent as it comes. stopped: nothing of this exchange is sent any more. patience: with an error that passes, since
    the last reply; due_s: what is next is not sent again before.
    """

    key: str
    id: str
    next_step: int
    sent_step: int
    in_flight: int = 0
    stumbled: bool = False
    stopped: bool = False
    early: dict[int, "_Piece"] = field(default_factory=dict)
    again: list["_Piece"] = field(default_factory=list)
    held: list["_Piece"] = field(default_factory=list)
    patience: Patience | None = None
    due_s: float = 0.0

    def answered(self, piece: "_Piece") -> None:
        """Those steps were made."""
        self.patience = None
        if piece.first_step != self.next_step:
            self.early[piece.first_step] = piece
            return
        self.next_step = piece.end_step
        while self.early and (follower := self.early.pop(self.next_step, None)) is not None:
            self.next_step = follower.end_step


@dataclass(slots=True, eq=False)
class _Piece:
    """Rows of one key that go in one message. again: they were sent before."""

    standing: Standing
    round: Round
    rows: Sequence[int]
    whole: bool
    first_step: int = -1
    again: bool = False

    @property
    def end_step(self) -> int:
        return self.first_step + len(self.rows)

    @property
    def parts(self) -> "Iterator[_Piece]":
        """Both halves."""
        half = len(self.rows) // 2
        yield _Piece(self.standing, self.round, self.rows[:half], False, self.first_step)
        yield _Piece(self.standing, self.round, self.rows[half:], False, self.first_step + half)


class Roster:
    """The sessions of a group. next_steps: where sessions stand that an earlier run stepped, by key. asked: names of
    the outputs that replies shall carry; empty is all.
    """

    def __init__(self, *, next_steps: Mapping[str, int], asked: Sequence[str] = ()) -> None:
        self._asked = asked
        self.inputs: tuple[TensorSpec, ...] = ()
        self.outputs: tuple[TensorSpec, ...] = ()
        # Of this exchange: whether a key goes on after a step of it that failed, who is told before it does, how long
        # what passes is waited for, and which keys could not be opened: were one opened later, its steps would have a
        # gap.
        self._go_on = True
        self._on_failure: OnFailure | None = None
        self._patience: Patience | None = None
        self.refused: dict[str, NtmServeError] = {}
        self._begun = False
        self._expected = dict(next_steps)
        self._standings: dict[str, Standing] = {}
        self._sent: dict[int, list[_Piece]] = {}
        self._tag = 0
        # Sessions that stumbled or stopped; and those of them whose next piece may be sent again.
        self._troubled: dict[str, Standing] = {}
        self._ready: list[Standing] = []
        self._sessions_max = SESSIONS_PER_MESSAGE_MAX
        self._steps_max = STEPS_PER_MESSAGE_MAX
        self._step_bytes = 1

    # Sessions

    def __len__(self) -> int:
        return len(self._standings)

    def __contains__(self, key: object) -> bool:
        return key in self._standings

    def next_steps(self) -> dict[str, int]:
        """Where each session stands, as far as replies told."""
        return {key: standing.next_step for key, standing in self._standings.items()}

    def id_of(self, key: str) -> str:
        return self._standings[key].id

    def add(self, key: str, opened: sessions_pb2.OpenResponse, next_step: int) -> None:
        """A session was opened, and stands at next_step. Raises StepAhead, InvalidInput; then it is not added."""
        expected = self._expected.get(key, next_step)
        if next_step < expected:
            raise StepAhead(
                f"session {opened.session.session_id}: expected it to stand at step {expected} or later, got "
                f"{next_step}: its memory was lost or began anew",
                fields={"expected_step": str(next_step)},
            )
        inputs = tuple(map(spec_of, opened.inputs))
        outputs = asked_outputs(tuple(map(spec_of, opened.outputs)), self._asked)
        if not self._standings:
            self.inputs, self.outputs = inputs, outputs
            self._step_bytes = max(1, sum(spec.nbytes for spec in inputs), sum(spec.nbytes for spec in outputs))
        elif (inputs, outputs) != (self.inputs, self.outputs):
            raise InvalidInput(
                f"session {opened.session.session_id}: expected a model with inputs {_told(self.inputs)} and outputs "
                f"{_told(self.outputs)} as the group's others, got version {opened.session.version} with "
                f"{_told(inputs)} and {_told(outputs)}"
            )
        self._standings[key] = Standing(key, opened.session.session_id, expected, expected)

    def forget(self, key: str) -> None:
        """The session is taken up anew, where the server has it, when its key comes again."""
        self._standings.pop(key, None)
        self._expected.pop(key, None)

    # Messages

    def begin(
        self, patience: Patience | None = None, *, go_on: bool = True, on_failure: OnFailure | None = None
    ) -> None:
        """An exchange begins. patience: with errors that pass; without it none is waited for. go_on: whether a key
        makes its next steps after one that failed; on_failure is told of the step (round, row, error) before it does.
        """
        self.settle()
        self._patience = patience
        self._begun = True
        self._go_on, self._on_failure = go_on, on_failure

    def refuse(self, key: str, error: NtmServeError) -> None:
        """The key could not be opened, and stays so while an exchange lasts."""
        if self._begun:
            self.refused[key] = error

    @property
    def messages_in_flight(self) -> int:
        return len(self._sent)

    def send(self, made: Round) -> list[list[sessions_pb2.StepRequest]]:
        """The messages of a round, in waves: those of one wave have no session in common."""
        waves: dict[tuple[int, int], list[_Piece]] = {}
        count = 0
        for stretch in made.stretches:
            standing = self._standings[stretch.key]
            pieces: Iterable[tuple[int, _Piece]] = (
                ((0, _Piece(standing, made, stretch.rows, stretch.whole)),)
                if stretch.whole or len(stretch.rows) == 1
                else self._pieces(standing, made, stretch.rows)
            )
            for nth, piece in pieces:
                if standing.stopped:
                    self._answer(piece, _stopped(standing))
                elif standing.stumbled:
                    standing.held.append(piece)
                else:
                    self._number(piece)
                    waves.setdefault((-len(piece.rows), nth), []).append(piece)
                    count += 1
        messages = [self._messages(waves[order]) for order in sorted(waves)]
        if count <= len(made.stretches):
            return [[message for wave in messages for message in wave]]
        return messages

    @property
    def wait_s(self) -> float | None:
        """How long until something is to be sent again; None where nothing waits for that."""
        if not self._ready:
            return None
        return max(0.0, min(standing.due_s for standing in self._ready) - self._now_s)

    def again(self) -> list[sessions_pb2.StepRequest]:
        """What is to be sent again now: of each session that stumbled, and has nothing on its way, the next piece."""
        now_s = self._now_s
        ready = [standing for standing in self._ready if standing.due_s <= now_s]
        self._ready = [standing for standing in self._ready if standing.due_s > now_s]
        alike: dict[tuple[int, int], list[_Piece]] = {}
        for standing in ready:
            piece = standing.again.pop() if standing.again else standing.held.pop(0)
            standing.sent_step = standing.next_step
            self._number(piece)
            alike.setdefault((id(piece.round), len(piece.rows)), []).append(piece)
        return [message for pieces in alike.values() for message in self._messages(pieces)]

    def is_answered(self, tag: int) -> bool:
        return tag not in self._sent

    def take(self, response: sessions_pb2.StepResponse) -> NtmServeError | None:
        """A reply came; what comes twice is dropped. The error, where the message is to be sent again because of it."""
        if response.tag not in self._sent:
            return None
        if response.HasField("error"):
            return self.fail(response.tag, error_of_wire(response.error))
        pieces = self._sent.pop(response.tag)
        failures = {failure.session_id: failure.error for failure in response.failures}
        good = [piece for piece in pieces if piece.standing.id not in failures] if failures else pieces
        if good:
            self._keep(good, response)
        for piece in pieces if failures else ():
            if piece.standing.id in failures:
                self._failed(piece, error_of_wire(failures[piece.standing.id]))
        self._look_after(pieces)
        return None

    def fail(self, tag: int, error: NtmServeError) -> NtmServeError | None:
        """A message was refused as a whole; nothing of it ran. The error, where it is sent again because of it."""
        pieces = self._sent[tag]
        if self._passes(error, again=pieces[0].again):
            return error
        del self._sent[tag]
        limit, most = "", 0
        if isinstance(error, TooLarge):
            limit, most = error.fields.get(LIMIT, ""), int(error.fields.get("expected", "0"))
        if limit == "sessions_per_message_max" and 0 < most < len(pieces):
            self._sessions_max = min(most, self._sessions_max)
            for piece in pieces:
                self._stumble(piece, [piece])
        else:
            if limit.endswith("steps_per_message_max"):
                self._steps_max = min(self._steps_max, max(1, most))
            for piece in pieces:
                self._failed(piece, error)
        self._look_after(pieces)
        return None

    def send_again(self, tag: int) -> None:
        """A message is sent again, as it was."""
        for piece in self._sent[tag]:
            piece.again = True

    def unanswered(self) -> list[sessions_pb2.StepRequest]:
        """All that is on its way, in its order, to be sent again as it was."""
        for tag in self._sent:
            self.send_again(tag)
        return [self._request(tag, pieces) for tag, pieces in self._sent.items()]

    def break_off(self, error: NtmServeError) -> None:
        """Nobody answers any more: all that was not answered has this error, and may be sent again as it was."""
        lost = [piece for pieces in self._sent.values() for piece in pieces]
        self._sent.clear()
        for standing in self._troubled.values():
            lost += [*standing.again, *standing.held]
            standing.again.clear()
            standing.held.clear()
        for piece in lost:
            standing = piece.standing
            for early in standing.early.values():
                # It was not shown yet, and is sent again with what was before it.
                early.round.steps[early.rows] = NO_STEP
                early.round.errors.update(dict.fromkeys(early.rows, error))
            standing.early.clear()
            standing.in_flight = 0
            standing.sent_step = standing.next_step
            self._answer(piece, error)
        self.settle()

    def leave(self) -> None:
        """Nobody listens any more. Where a session with steps on its way stands, only the server knows; so it is with
        one whose step is to be tried again.
        """
        for pieces in self._sent.values():
            for piece in pieces:
                self.forget(piece.standing.key)
        for standing in self._troubled.values():
            if standing.patience is not None:
                self.forget(standing.key)
        self._sent.clear()
        self.settle()

    def settle(self) -> None:
        """The exchange is over: what was stopped may go on, and what was to be sent again is dropped."""
        for standing in self._troubled.values():
            standing.stumbled = standing.stopped = False
            standing.again.clear()
            standing.held.clear()
            standing.sent_step = standing.next_step
            standing.patience, standing.due_s = None, 0.0
        self._troubled.clear()
        self._ready.clear()
        self.refused.clear()
        self._begun = False
        self._patience = None

    # Pieces

    def _pieces(self, standing: Standing, made: Round, rows: Sequence[int]) -> Iterator[tuple[int, _Piece]]:
        """In powers of two, the largest first: keys with many counts of rows need few messages. Each with how
        many of its size were before it.
        """
        most = _power_of_two(max(1, min(self._steps_max, MESSAGE_BYTES_MAX // self._step_bytes)))
        at, end = 0, len(rows)
        while at < end:
            size = min(most, _power_of_two(end - at))
            yield at // most if size == most else 0, _Piece(standing, made, rows[at : at + size], False)
            at += size

    def _number(self, piece: _Piece) -> None:
        standing = piece.standing
        piece.first_step = standing.sent_step
        standing.sent_step += len(piece.rows)
        standing.in_flight += 1

    def _messages(self, pieces: Sequence[_Piece]) -> list[sessions_pb2.StepRequest]:
        """Pieces of one round with as many rows each, as messages."""
        steps = len(pieces[0].rows)
        most = max(1, min(self._sessions_max, MESSAGE_BYTES_MAX // (steps * self._step_bytes)))
        return [self._message(pieces[at : at + most]) for at in range(0, len(pieces), most)]

    def _message(self, pieces: Sequence[_Piece]) -> sessions_pb2.StepRequest:
        self._tag += 1
        self._sent[self._tag] = list(pieces)
        return self._request(self._tag, pieces)

    def _request(self, tag: int, pieces: Sequence[_Piece]) -> sessions_pb2.StepRequest:
        steps, rows = len(pieces[0].rows), _rows_of(pieces)
        return sessions_pb2.StepRequest(
            tag=tag,
            session_ids=[piece.standing.id for piece in pieces],
            first_steps=[piece.first_step for piece in pieces],
            inputs=[
                tensor_of(name, array[rows].reshape(len(pieces), steps, *array.shape[1:]))
                for name, array in pieces[0].round.inputs.items()
            ],
            output_names=self._asked,
        )

    def _keep(self, pieces: Sequence[_Piece], response: sessions_pb2.StepResponse) -> None:
        made, steps, rows = pieces[0].round, len(pieces[0].rows), _rows_of(pieces)
        for name, array in arrays_of(response.outputs).items():
            made.outputs[name][rows] = array.reshape(len(rows), *array.shape[2:])
        firsts = np.array([piece.first_step for piece in pieces], np.int64)
        made.steps[rows] = (firsts[:, np.newaxis] + np.arange(steps)).ravel()
        made.unanswered -= len(rows)
        for piece in pieces:
            standing = piece.standing
            standing.in_flight -= 1
            standing.answered(piece)

    def _failed(self, piece: _Piece, error: NtmServeError) -> None:
        standing = piece.standing
        if piece.first_step > standing.next_step and (
            isinstance(error, (StepAborted, StepAhead)) or self._passes(error, again=standing.stumbled)
        ):
            piece.again = piece.again or not isinstance(error, (StepAborted, StepAhead))
            self._stumble(piece, [piece])  # A step before it failed.
            return
        error = meaning_of(error, standing.id, standing.next_step)
        if self._passes(error, again=piece.again):
            try:
                wait_s = self._patience_with(standing).wait_s(error, again=piece.again)
            except NtmServeError as last:
                error = last
            else:
                standing.due_s = self._now_s + wait_s
                piece.again = True
                self._stumble(piece, [piece])
                return
        standing.patience = None
        if isinstance(error, GO_ON_AFTER) and not piece.whole and len(piece.rows) > 1:
            self._stumble(piece, piece.parts)
        else:
            self._stumble(piece, ())
            self._answer(piece, error)
            if not self._go_on or not isinstance(error, GO_ON_AFTER):
                standing.stopped = True
            elif self._on_failure is not None:
                self._on_failure(piece.round.number, piece.rows[0], error)

    @property
    def _now_s(self) -> float:
        return 0.0 if self._patience is None else self._patience.now_s

    def _passes(self, error: NtmServeError, *, again: bool) -> bool:
        return self._patience is not None and self._patience.waits_after(error, again=again)

    def _patience_with(self, standing: Standing) -> Patience:
        assert self._patience is not None
        if standing.patience is None:
            standing.patience = self._patience.fresh()
        return standing.patience

    def _stumble(self, piece: _Piece, again: "Sequence[_Piece] | Iterator[_Piece]") -> None:
        standing = piece.standing
        standing.in_flight -= 1
        standing.stumbled = True
        standing.again.extend(again)
        self._troubled[standing.key] = standing

    def _answer(self, piece: _Piece, error: NtmServeError) -> None:
        for row in piece.rows:
            piece.round.errors[row] = error
        piece.round.unanswered -= len(piece.rows)

    def _look_after(self, pieces: Sequence[_Piece]) -> None:
        """Of the sessions that stumbled, those with nothing on its way: what is next."""
        for standing in (piece.standing for piece in pieces) if self._troubled else ():
            if not standing.stumbled or standing.in_flight:
                continue
            if standing.stopped:
                for piece in (*standing.again, *standing.held):
                    self._answer(piece, _stopped(standing))
                standing.again.clear()
                standing.held.clear()
            elif standing.again or standing.held:
                # A refusal of a whole message overtakes replies of the messages before it.
                standing.again.sort(key=lambda piece: piece.first_step, reverse=True)
                self._ready.append(standing)
            else:
                standing.stumbled = False
                standing.sent_step = standing.next_step
                del self._troubled[standing.key]


def _rows_of(pieces: Sequence[_Piece]) -> list[int]:
    return [row for piece in pieces for row in piece.rows]


def _power_of_two(number: int) -> int:
    """The highest that is no higher."""
    return 1 << (number.bit_length() - 1)


def _told(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec}" for spec in specs)


def _stopped(standing: Standing) -> StepAborted:
    return StepAborted(
        f"session {standing.id}: was to follow a step that failed, and was not run; the session's next step is "
        f"{standing.next_step}",
        fields={"expected_step": str(standing.next_step)},
    )
