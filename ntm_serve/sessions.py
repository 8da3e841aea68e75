"""Sessions: names for the latest state and the number of steps that led to it. No clock, no task, no socket.

Rules of this file:
- steps of a session are numbered from 0; `next_step` is the number of the first that was not committed;
- a message's steps are admitted at the number promised after those in flight, committed all at once,
  in the order of admission, and never twice;
- a message whose steps were committed is answered again from the reply window, bit for bit;
- `state` is a value: one place, `commit`, replaces it, whole (a block that moves its rows keeps their values).
"""

import secrets
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ntm_serve.caller import SESSION_KEY, SESSION_NAME, SESSION_NAME_MEANS
from ntm_serve.errors import (
    LIMIT,
    CallerFault,
    InvalidInput,
    LimitReached,
    NtmServeError,
    SessionExists,
    SessionUnknown,
    StepAborted,
    StepAhead,
    StepConflict,
    StepForgotten,
)
from ntm_serve.keeping import Kept
from ntm_serve.record import Committed
from ntm_serve.sizes import OWN_SIZES
from ntm_serve.sizing import Use
from ntm_serve.spec import Array
from ntm_serve.state import StateRow
from ntm_serve.step_model import ModelKey
from ntm_serve.tenants import Account, Accounts
from ntm_serve.ticket import Ticket, identical
from ntm_serve.watch import Viewer, Watch, Watches

# A session that made no step for so long is put to rest. Looked for at least as often.
IDLE_AFTER_S = 60.0

# Names of ended sessions that are remembered, so that "closed" and "expired" differ from "unknown".
# About 200 B each.
ENDED_REMEMBERED_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Limits:
    """What sessions may use.

    sessions_max: open at once. session_steps_waiting_max: steps of one session admitted and not yet answered.
    idle_life_s: an idle session expires after it; None is never.
    window_messages, window_bytes_max: how much of its latest messages' inputs and outputs a session keeps
    to answer retries from; the last message is always kept. viewers_max: who look at sessions at once.
    """

    sessions_max: int = 200_000
    session_steps_waiting_max: int = 16_384
    idle_life_s: float | None = 7 * 24 * 3600.0
    window_messages: int = 64
    window_bytes_max: int = 1 << 20
    viewers_max: int = 64


class Session:
    """One session of one model."""

    __slots__ = (
        "_step_bytes",
        "account",
        "id",
        "in_flight",
        "kept",
        "model",
        "next_step",
        "opened_s",
        "options",
        "queued",
        "sizes",
        "state",
        "use",
        "used_s",
        "watch",
        "window",
    )

    def __init__(self, session_id: str, model: ModelKey, state: StateRow, now_s: float, *, step_bytes: int = 1) -> None:
        """step_bytes: of one step's inputs and outputs, which is what the reply window keeps of it."""
        self.id = session_id
        self.model = model
        self.state = state
        self.next_step = 0
        self.window: deque[Committed] = deque()
        self._step_bytes = step_bytes
        self.in_flight: list[Ticket] = []
        self.opened_s = self.used_s = now_s
        # What the store has of it; None where it lives in memory alone.
        self.kept: Kept | None = None
        # What is recorded of how it began; see ntm_serve.beginning.
        self.options = b""
        # Of its state, where they are not the model's own.
        self.sizes = OWN_SIZES
        # Of what runs those of its sizes; None where nobody counts, as nothing is dropped.
        self.use: Use | None = None
        # Where its tenant's use is counted; None where nobody counts.
        self.account: Account | None = None
        # Those who look at it; None where nobody does.
        self.watch: Watch | None = None
        # Whether a batcher holds the session. The batcher's own mark, here to save it a table.
        self.queued = False

    @property
    def state_bytes(self) -> int:
        """Of its state."""
        return sum(array.nbytes for array in self.state.arrays())

    @property
    def promised_step(self) -> int:
        """The number after the last step in flight: what a message without a number gets."""
        return self.in_flight[-1].end_step if self.in_flight else self.next_step

    @property
    def oldest_step(self) -> int:
        """The oldest step whose reply is kept."""
        return self.window[0].first_step if self.window else self.next_step

    @property
    def durable_step(self) -> int:
        """Steps below this number outlive the process."""
        return 0 if self.kept is None else self.next_step

    @property
    def oldest_retained_step(self) -> int:
        """The oldest step that the session can be taken back to."""
        return self.next_step if self.kept is None else self.kept.oldest_step

    def admit(
        self,
        inputs: tuple[Array, ...],
        outputs: tuple[Array, ...],
        first_step: int | None,
        *,
        now_s: float,
        expect_room: Callable[["Session", int], None] | None = None,
    ) -> tuple[Ticket, bool]:
        """A ticket for these steps, and whether it is new: a new one is in flight from here on and must be run;
        for a retry it is one that is settled already, or the one that is in flight.

        inputs `[T, ...]`; outputs, as large, are written to. first_step None is "the next one". expect_room is
        asked about steps that must be run, and may raise: retries need no room.

        Raises StepAhead, StepForgotten, StepConflict; then nothing changed.
        """
        self.used_s = now_s
        promised = self.in_flight[-1].end_step if self.in_flight else self.next_step
        first = promised if first_step is None else first_step
        if first > promised:
            raise StepAhead(
                f"session {self.id}: expected step {promised}, got {first}",
                fields={"expected_step": str(promised)},
            )
        ticket = Ticket(self, first, inputs, outputs, now_s)
        if first < promised:
            if ticket.end_step > self.next_step and self.in_flight:
                return self._in_flight_twin(inputs, first), False
            self._replay(ticket)
            if ticket.steps_done == ticket.steps:
                ticket.settle()
                return ticket, False
        if expect_room is not None:
            expect_room(self, ticket.steps)
        self.in_flight.append(ticket)
        return ticket, True

    def commit(self, ticket: Ticket, limits: Limits, now_s: float) -> None:
        """The ticket's steps are done: they become the session's. The caller settles the ticket."""
        assert ticket is self.in_flight[0], "steps are committed in the order of admission"
        assert ticket.state is not None
        del self.in_flight[0]
        ticket.state.block.hold(ticket.state.row, self)
        self.next_step = ticket.end_step
        self.used_s = now_s
        window = self.window
        window.append(ticket.message())
        steps_max = limits.window_bytes_max // self._step_bytes
        while len(window) > 1 and (
            len(window) > limits.window_messages or self.next_step - window[0].first_step > steps_max
        ):  # The last one always stays.
            window.popleft()
        if self.watch is not None:
            self.watch.stepped()

    def is_idle(self, now_s: float, life_s: float) -> bool:
        """Whether it has nothing in flight, and made no step for longer than that."""
        return not self.in_flight and now_s - self.used_s > life_s

    def rest(self) -> None:
        """It is idle: let its window keep none of the bytes of its messages' other sessions. Not done at every
        step, because sessions that are stepped together forget together.
        """
        for place, (first_step, inputs, outputs) in enumerate(self.window):
            self.window[place] = Committed(first_step, tuple(map(_own, inputs)), tuple(map(_own, outputs)))

    def fail(self, ticket: Ticket, error: NtmServeError) -> None:
        """The ticket's steps do not become the session's; nor do those that were to follow them."""
        at = self.in_flight.index(ticket)
        lost, self.in_flight = self.in_flight[at:], self.in_flight[:at]
        ticket.settle(error)
        for later in lost[1:]:
            later.settle(
                StepAborted(
                    f"session {self.id}: step {later.first_step} was to follow step {ticket.first_step}, which failed; "
                    f"the session's next step is {self.promised_step}",
                    fields={"expected_step": str(self.promised_step)},
                )
            )

    def end(self, fault: NtmServeError) -> None:
        """The session is over, or is so here; whatever is in flight is answered with the reason."""
        block, row = self.state
        block.let_go(row, self)
        block.compact()
        lost, self.in_flight = self.in_flight, []
        for ticket in lost:
            ticket.settle(fault)

    def _in_flight_twin(self, inputs: tuple[Array, ...], first: int) -> Ticket:
        """The ticket in flight that these steps are a retry of. Raises StepConflict."""
        for ticket in self.in_flight:
            if ticket.first_step == first and ticket.steps == len(inputs[0]) and ticket.same_inputs(inputs):
                return ticket
        raise StepConflict(
            f"session {self.id}: step {first} is in flight with other inputs or in a message of another length: "
            "does another client step this session?"
        )

    def _replay(self, ticket: Ticket) -> None:
        """Fill the ticket's first steps from the reply window, as far as they were committed."""
        at = ticket.first_step
        if at >= self.next_step:
            return
        if at < self.oldest_step:
            raise StepForgotten(
                f"session {self.id}: expected step {self.oldest_step} or later, got {at}: "
                "its reply is no longer in the window",
                fields={"oldest_step": str(self.oldest_step), "expected_step": str(self.promised_step)},
            )
        end = min(ticket.end_step, self.next_step)
        for committed in self.window:
            if not committed.first_step <= at < min(end, committed.end_step):
                continue
            until = min(end, committed.end_step)
            theirs = slice(at - committed.first_step, until - committed.first_step)
            mine = slice(at - ticket.first_step, until - ticket.first_step)
            if not all(identical(a[theirs], b[mine]) for a, b in zip(committed.inputs, ticket.inputs, strict=True)):
                raise StepConflict(
                    f"session {self.id}: steps {at} to {until - 1} were taken with other inputs; "
                    f"the session's next step is {self.promised_step}: does another client step this session?",
                    fields={"expected_step": str(self.promised_step)},
                )
            for kept, known in zip(ticket.outputs, committed.outputs, strict=True):
                kept[mine] = known[theirs]
            at = until
        ticket.steps_done = ticket.replayed = at - ticket.first_step


def _own(array: Array) -> Array:
    """The array, or a copy where it is a part of something larger."""
    return array if array.base is None or array.base.nbytes <= 2 * array.nbytes else array.copy()


class Sessions:
    """The sessions that are in a server's memory, and for a while why others are not."""

    def __init__(self, limits: Limits, accounts: Accounts | None = None) -> None:
        """accounts: of tenants; None is a server without them."""
        self.limits = limits
        self._accounts = accounts
        self._is_key = (SESSION_NAME if accounts is None else SESSION_KEY).fullmatch
        self._open: dict[str, Session] = {}
        self._ended: OrderedDict[str, CallerFault] = OrderedDict()
        self.open_by_model: Counter[ModelKey] = Counter()
        self.state_bytes_by_model: Counter[ModelKey] = Counter()
        self._watches = Watches(limits.viewers_max)
        # Called on the path of a step.
        self.get = self._open.get

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Session]:
        return iter(self._open.values())

    def open(
        self, model: ModelKey, state: StateRow, *, session_id: str | None, now_s: float, step_bytes: int = 1
    ) -> Session:
        """A new session at step 0, under the given name or a random one. Raises SessionExists,
        InvalidInput, LimitReached.
        """
        session = Session(self.expect_free(session_id), model, state, now_s, step_bytes=step_bytes)
        self.add(session)
        return session

    def may_be(self, session_id: str) -> bool:
        """Whether a session may be called that."""
        return self._is_key(session_id) is not None

    def expect_free(self, session_id: str | None, *, coming: int = 0, state_bytes: int = 0) -> str:
        """The name, or a random one, for one session more. coming: how many are being made. Raises as `open`."""
        if session_id is not None and not self.may_be(session_id):
            raise InvalidInput(f"session id: expected {SESSION_NAME_MEANS}, got {session_id!r}")
        if session_id in self._open:
            raise SessionExists(f"session {session_id}: is open; expected a name that is not in use")
        if len(self._open) + coming >= self.limits.sessions_max:
            wrong = f"sessions: expected at most {self.limits.sessions_max} open at once"
            raise LimitReached(wrong, fields={LIMIT: "sessions_max"})
        if self._accounts is not None:
            self._accounts.of_key(session_id or "").expect_session(state_bytes)
        return session_id or secrets.token_hex(16)

    def account_of(self, session_id: str) -> Account | None:
        """Where the use of a session of that name is counted; None where nobody counts."""
        return None if self._accounts is None else self._accounts.of_key(session_id)

    def come(self, session_id: str, sessions: int, state_bytes: int) -> None:
        """So many more, or fewer, of that name's tenant are being made."""
        if self._accounts is not None:
            self._accounts.of_key(session_id).come(sessions, state_bytes)

    def add(self, session: Session) -> None:
        """The session is in memory from now on."""
        self._open[session.id] = session
        self.open_by_model[session.model] += 1
        self.state_bytes_by_model[session.model] += session.state_bytes
        self._ended.pop(session.id, None)
        if session.use is not None:
            session.use.count += 1
        if self._accounts is not None:
            session.account = self._accounts.of_key(session.id)
            session.account.enter(session.model, session.state_bytes, session.sizes)
        session.watch = self._watches.of(session.id)
        if session.watch is not None:
            session.watch.entered()

    def find(self, session_id: str) -> Session:
        """The session of that name. Raises SessionUnknown, SessionClosed, SessionExpired, SessionEvicted."""
        session = self._open.get(session_id)
        if session is None:
            raise self.why_not(session_id)
        return session

    def why_not(self, session_id: str) -> CallerFault:
        """Why a session is not in memory, as far as is remembered."""
        ended = self._ended.get(session_id)
        if ended is not None:
            return type(ended)(ended.message, fields=ended.fields)
        why = "this one was never seen" if self.may_be(session_id) else f"names have {SESSION_NAME_MEANS}"
        return SessionUnknown(f"session {session_id}: expected the name of an open session; {why}")

    def idle(self, now_s: float) -> list[Session]:
        """Put those to rest that made no step of late, and name those that were idle for longer than their life."""
        for session in self._open.values():
            if IDLE_AFTER_S <= now_s - session.used_s < 2 * IDLE_AFTER_S:
                session.rest()
        life_s = self.limits.idle_life_s
        if life_s is None:
            return []
        return [session for session in self._open.values() if session.is_idle(now_s, life_s)]

    def end(self, session: Session, fault: CallerFault) -> None:
        """The session is no more, and why is remembered."""
        self._ended[session.id] = fault
        while len(self._ended) > ENDED_REMEMBERED_MAX:
            self._ended.popitem(last=False)
        self.put_out(session, fault)

    def put_out(self, session: Session, fault: NtmServeError) -> None:
        """The session is in memory no longer. Whatever it has in flight is answered with the fault."""
        self.set_aside(session, fault)
        session.end(fault)

    def set_aside(self, session: Session, fault: NtmServeError | None = None) -> None:
        """The session is not looked at any more. Whatever it has in flight goes on; whoever asks for this ends it.
        fault: what it ends with.
        """
        del self._open[session.id]
        self.open_by_model[session.model] -= 1
        self.state_bytes_by_model[session.model] -= session.state_bytes
        if session.use is not None:
            session.use.count -= 1
        if session.account is not None:
            session.account.leave(session.model, session.state_bytes, session.sizes)
        if session.watch is not None:
            watch, session.watch = session.watch, None
            watch.left(fault)

    # Who looks

    @property
    def viewers(self) -> int:
        """How many look at sessions."""
        return len(self._watches)

    def join(self, viewer: Viewer) -> None:
        """The viewer is told of its session, now or when it enters memory. Raises LimitReached."""
        account = self.account_of(viewer.session_id)
        self._watches.expect_room()
        if account is not None:
            account.begin_watch()
        watch = self._watches.join(viewer)
        session = self._open.get(viewer.session_id)
        if session is None:
            viewer.away = True
        else:
            session.watch = watch

    def part(self, viewer: Viewer) -> None:
        """The viewer is told no more."""
        account = self.account_of(viewer.session_id)
        if account is not None:
            account.end_watch()
        session = self._open.get(viewer.session_id)
        if self._watches.leave(viewer) and session is not None:
            session.watch = None

    def end_viewers(self, fault: NtmServeError) -> None:
        """Nobody sees anything any more."""
        for viewer in self._watches:
            viewer.end(fault)
