"""Sequences: sessions as clients of the Open Inference Protocol know them, begun and ended by their requests.

Rules of this file: requests of one sequence are taken in the order of their arrival; one that begins or ends its
sequence, or asks for its state, has it to itself, and those that come meanwhile wait; what begins anew takes the
place of what was there once all that came before is answered; whoever asks is answered once.
"""

import asyncio
import hashlib
import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import structlog

from ntm_serve.errors import (
    EngineFault,
    InvalidInput,
    NtmServeError,
    SessionClosed,
    SessionEvicted,
    SessionExists,
    SessionExpired,
    SessionUnknown,
    SnapshotRejected,
)
from ntm_serve.message import StepRequest
from ntm_serve.service import Service
from ntm_serve.snapshot import decoded
from ntm_serve.submission import Reply, Submission
from ntm_serve.tenancy import TenantService
from ntm_serve.views import SessionView

# Of a string, in bytes of UTF-8.
SEQUENCE_ID_BYTES_MAX = 128

# What the name of a session may have, and what of it stands for itself.
NAME_MAX = 128
_PLAIN = re.compile(r"[A-Za-z0-9._@+-]*")
_MODEL_SHOWN = 32

# Others that open sessions of that name may come between.
BEGIN_TRIES = 4

# Why a session is not there.
GONE = (SessionUnknown, SessionClosed, SessionExpired, SessionEvicted)

SequenceId = int | str

log = structlog.get_logger()


def session_name(model: str, sequence_id: SequenceId) -> str:
    """The name of a sequence's session: seq:MODEL:ID, one for each model and id.

    An integer is written in digits; a string as it is, but for what a name cannot have, which is ~ and two
    hexadecimal digits for each byte; so is the first digit of a string of digits, because 7 and "7" are two
    sequences. A name that would be too long ends with a digest. Raises InvalidInput.
    """
    if isinstance(sequence_id, int):
        written = str(sequence_id)
    else:
        if len(sequence_id.encode(errors="surrogatepass")) > SEQUENCE_ID_BYTES_MAX:
            shown = sequence_id[:SEQUENCE_ID_BYTES_MAX]
            raise InvalidInput(f"sequence_id: expected at most {SEQUENCE_ID_BYTES_MAX} bytes, got {shown!r}...")
        written = _written(sequence_id)
    name = f"seq:{model}:{written}"
    if len(name) <= NAME_MAX:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"seq:{model[:_MODEL_SHOWN]}:~~{digest}"


def _written(sequence_id: str) -> str:
    if _PLAIN.fullmatch(sequence_id) and not (sequence_id.isascii() and sequence_id.isdigit()):
        return sequence_id
    if sequence_id.isascii() and sequence_id.isdigit():
        return f"~{ord(sequence_id[0]):02x}{sequence_id[1:]}"
    return "".join(
        one if _PLAIN.fullmatch(one) else "".join(f"~{byte:02x}" for byte in one.encode(errors="surrogatepass"))
        for one in sequence_id
    )


class Change(NamedTuple):
    """What a request does beside its steps. start: begin the sequence anew: where the session `fork_of` stands, or
    stood before fork_step; where a snapshot was taken, if there is one; else at step 0. end: close it after the steps.
    snapshot: ask for its state after them.
    """

    model_name: str
    version: str
    start: bool = False
    end: bool = False
    snapshot: bool = False
    fork_of: str = ""
    fork_step: int | None = None
    restore: bytes | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the sequence lasts for the request alone: then nothing is left of it, whatever becomes of it."""
        return self.start and self.end


class Asked(ABC):
    """A request on its way, of one session: its steps, and a change or None. Of `answered` and `failed`
    one is called, once, unless it was cancelled.
    """

    __slots__ = ("_task", "cancelled", "change", "on_cancel", "snapshot", "steps", "submission", "unread", "woken")

    def __init__(self, steps: StepRequest, change: Change | None) -> None:
        self.steps = steps
        self.change = change
        self.cancelled = False
        # After the steps, where it was asked for.
        self.snapshot: bytes | None = None
        # While its steps are under way.
        self.submission: Submission | None = None
        # Told when it is cancelled, where it has its sequence to itself.
        self.on_cancel: Callable[[Asked], None] | None = None
        # Whether `read_now` is to be called when its turn comes, and whether its session was had come back for that.
        self.unread = self.woken = False
        # While a cancellation may end it.
        self._task: asyncio.Task[None] | None = None

    @property
    def session_id(self) -> str:
        return self.steps.session_ids[0]

    @abstractmethod
    def read_now(self) -> None:
        """It is its turn, and its session is in memory or not to be had: steps and change are to be what it asks for.
        Raises NtmServeError.
        """

    @abstractmethod
    def answered(self, submission: Submission) -> None:
        """Its steps are made."""

    @abstractmethod
    def failed(self, error: NtmServeError) -> None:
        """They are not, and the session is as it was; or its state could not be had."""

    def cancel(self) -> None:
        """Nobody waits for the answer: steps that were not committed will not be."""
        self.cancelled = True
        # Both know of this one.
        submission, self.submission = self.submission, None
        if submission is not None:
            submission.cancel()
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        if self.on_cancel is not None:
            self.on_cancel(self)

    def settled(self, submission: Submission, _places: Sequence[int] = ()) -> None:
        """See submission.Reply."""
        self.submission = None
        if self.cancelled:
            return
        errors = submission.errors
        if errors:
            self.failed(errors[min(errors)])
        else:
            self.answered(submission)


class Sequences:
    """The sequences of a service."""

    def __init__(self, service: Service | TenantService) -> None:
        self._service = service
        # The requests that wait, by the sessions that a request has to itself.
        self._held: dict[str, deque[Asked]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def submit(self, asked: Asked) -> None:
        """Take a request when its turn comes."""
        waiting = self._held.get(asked.steps.session_ids[0])
        if waiting is None:
            self._take(asked)
        else:
            waiting.append(asked)

    @property
    def is_idle(self) -> bool:
        """Whether no request has a sequence to itself."""
        return not (self._tasks or self._held)

    def is_held(self, session_id: str) -> bool:
        """Whether a request has the sequence to itself, and others wait behind it."""
        return session_id in self._held

    async def until_idle(self) -> None:
        """Until no request has a sequence to itself."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _take(self, asked: Asked) -> None:
        if asked.unread and not self._is_read(asked):
            return
        change = asked.change
        if change is None:
            self._step(asked, asked.settled)
        elif not self._taken_at_once(asked, change):
            self._held[asked.session_id] = deque()
            asked._task = task = asyncio.get_running_loop().create_task(self._change(asked, change))
            self._own(task)
            task.add_done_callback(lambda _: self._release(asked.session_id))

    def _is_read(self, asked: Asked) -> bool:
        """Have it read, once its session is back. Whether it was; else it was refused, or its turn comes again."""
        session_id = asked.session_id
        if self._service.has_store and not asked.woken and self._service.model_here(session_id) is None:
            self._held[session_id] = deque([asked])
            task = asyncio.get_running_loop().create_task(self._wake(session_id))
            self._own(task)
            task.add_done_callback(lambda _: self._release(session_id))
            return False
        asked.unread = False
        try:
            asked.read_now()
        except Exception as fault:
            asked.failed(_error_of(asked, fault))
            return False
        return True

    async def _wake(self, session_id: str) -> None:
        try:
            await self._service.wake_session(session_id)
        except NtmServeError:  # It is what their steps are refused for.
            pass
        finally:
            for asked in self._held[session_id]:
                asked.woken = True

    def _step(self, asked: Asked, reply: Reply) -> None:
        try:
            submission = self._service.submit(asked.steps, reply)
        except Exception as fault:
            asked.failed(_error_of(asked, fault))
            self._not_ended(asked)
        else:
            if not submission.answered:
                asked.submission = submission

    def _taken_at_once(self, asked: Asked, change: Change) -> bool:
        """Take a request that begins or ends its sequence where no store is to be asked; most do, and a task costs as
        much as a step. Whether it was taken.
        """
        if self._service.has_store or change.snapshot or change.fork_of or change.restore is not None:
            return False
        try:
            if change.start and not self._service.begin_here(asked.session_id, change.model_name, change.version):
                return False
        except Exception as fault:
            asked.failed(_error_of(asked, fault))
            return True
        if change.end:
            self._held[asked.session_id] = deque()
            asked.on_cancel = self._not_ended
            self._step(asked, partial(self._ended, asked))
        else:
            self._step(asked, asked.settled)
        return True

    def _ended(self, asked: Asked, submission: Submission, places: Sequence[int]) -> None:
        """The last steps of a sequence are answered; where they were made, it is closed."""
        if 0 not in submission.errors:
            self._end(asked.session_id)
            asked.settled(submission, places)
            self._let_go(asked)
        else:
            asked.settled(submission, places)
            self._not_ended(asked)

    def _not_ended(self, asked: Asked) -> None:
        """Its steps are not made and nobody waits for them, so it has its sequence to itself no more, if it had."""
        change = asked.change
        if asked.on_cancel is not None and change is not None and change.is_whole:
            self._end(asked.session_id)
        self._let_go(asked)

    def _end(self, session_id: str) -> None:
        if not self._service.end_here(session_id):  # Somebody else steps it too.
            self._own(asyncio.get_running_loop().create_task(self._close(session_id)))

    def _let_go(self, asked: Asked) -> None:
        """It has its sequence to itself no more, if it had."""
        if asked.on_cancel is not None:
            asked.on_cancel = None
            self._release(asked.session_id)

    def _own(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _release(self, session_id: str) -> None:
        """Those that waited have their turns, until one has the sequence to itself again."""
        waiting = self._held.pop(session_id)
        while waiting:
            asked = waiting.popleft()
            if asked.cancelled:
                continue
            self._take(asked)
            if session_id in self._held:
                self._held[session_id].extend(waiting)
                return

    async def _change(self, asked: Asked, change: Change) -> None:
        try:
            if change.start:
                await self._begin(asked.session_id, change)
            submission = await self._stepped(asked, change)
            if 0 not in submission.errors:
                asked._task = None  # Its steps are made: it is ended and told what it asked for, whoever leaves.
                await self._conclude(asked, change)
        except asyncio.CancelledError:
            raise
        except Exception as fault:
            asked._task = None
            if not asked.cancelled:
                asked.failed(_error_of(asked, fault))
        else:
            asked._task = None
            asked.settled(submission)

    async def _stepped(self, asked: Asked, change: Change) -> Submission:
        """Its steps, made or not. Raises as Service.step."""
        made = False
        try:
            submission = await self._service.step(asked.steps)
            made = 0 not in submission.errors
        finally:
            # Not where it went to another server meanwhile.
            if change.is_whole and not made and self._service.model_here(asked.session_id) is not None:
                asked._task = None
                await self._close(asked.session_id)
        return submission

    async def _begin(self, session_id: str, change: Change) -> None:
        """Raises what making it raises; then what was there is as it was."""
        restarted = False
        for _ in range(BEGIN_TRIES):
            try:
                view = await self._made(session_id, change)
                break
            except SessionExists as error:
                last = error
            await self._service.until_answered(session_id)
            try:
                await self._service.close_session(session_id)
                restarted = True
            except GONE:  # It went by itself.
                continue
        else:
            raise last
        if restarted:
            self._service.count_restart(view.model)

    async def _made(self, session_id: str, change: Change) -> SessionView:
        if change.fork_of:
            return await self._service.fork_session(change.fork_of, fork_id=session_id, step=change.fork_step)
        if change.restore is not None:
            saved = decoded(change.restore)
            if saved.model != change.model_name:
                raise SnapshotRejected(f"snapshot: expected one of model {change.model_name}, got one of {saved.model}")
            return await self._service.restore_session(change.restore, session_id=session_id)
        return await self._service.open_session(change.model_name, change.version, session_id=session_id)

    async def _conclude(self, asked: Asked, change: Change) -> None:
        session_id = asked.session_id
        if change.snapshot:
            _, asked.snapshot = await self._service.snapshot_session(session_id)
        if change.end:
            await self._close(session_id)

    async def _close(self, session_id: str) -> None:
        try:
            await self._service.close_session(session_id)
        except GONE:
            pass
        except NtmServeError as error:  # Its steps are made and shall be answered; it expires, or is begun anew.
            log.warning("a sequence was not closed", session=session_id, reason=error.reason, fault=error.detail)


def _error_of(asked: Asked, fault: Exception) -> NtmServeError:
    if isinstance(fault, NtmServeError):
        return fault.with_traceback(None)
    log.error("a request of a sequence failed", session=asked.session_id, exc_info=fault)
    return EngineFault(f"session {asked.session_id}: an internal fault; the server's log has it")
