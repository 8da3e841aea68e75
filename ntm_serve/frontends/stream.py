"""A stream of messages, each with its answer: how much of it is read, and how it ends.

Rules of this file: a stream has a bounded number of messages without their answer, and bytes of them: a client that
does not read is held, not buffered and not refused; whatever way a stream ends, nothing of it is left.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol

from ntm_serve.errors import NtmServeError, ServerDraining
from ntm_serve.frontends.call import Call

# The longest that a stream is not read because of a limit: its client may have waited as it was told.
HELD_BACK_MAX_S = 1.0


class Conversation(Protocol):
    """What is said on a stream."""

    def take(self, message: bytes) -> None:
        """A message came. Raises what ends the stream."""
        ...

    def give_up(self) -> None:
        """Nobody waits for what is in flight."""
        ...


class MessageStream:
    """One call that streams both ways."""

    def __init__(
        self,
        call: Call,
        conversation: Conversation,
        *,
        messages_max: int,
        bytes_max: int,
        held_s: Callable[[], float],
        gone: Callable[["MessageStream"], None],
    ) -> None:
        """messages_max, bytes_max: without their answer; beyond it no more is read. held_s: for how long its tenant is
        at a limit; till then no more is read either. gone: told when it is over.
        """
        self.call = call
        self._conversation: Conversation | None = conversation
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._gone = gone
        # Messages read, and not yet answered with the answer written; and their bytes.
        self._unanswered = self._bytes = 0
        # The bytes of those whose last answer is being written, in order.
        self._answering: deque[int] = deque()
        self._held_s = held_s
        self._held: asyncio.TimerHandle | None = None
        self._reading = False
        self._read_all = False
        # What it ends with once what it has in flight is answered.
        self._retired: NtmServeError | None = None
        # What it ends with once all answers are written.
        self._error: NtmServeError | None = None

    def begin(self, *, draining: bool) -> None:
        """Take the call. draining: the server stops."""
        self.call.on_over = self._over
        self.call.on_retire = self.retire
        self.call.begin()
        if draining:
            self.drain()
        else:
            self._read_if_room()

    def drain(self) -> None:
        """The server stops."""
        self.retire(ServerDraining("server: is stopping; connect again"))

    def retire(self, error: NtmServeError) -> None:
        """Read no more. A client that has sent all it had gets its replies, and need not connect again."""
        if not self._read_all:
            self._retired = error
            self._end_if_answered()

    def answer(self, reply: bytes, size: int) -> None:
        """Write the last reply to a message of that many bytes."""
        self._answering.append(size)
        self.call.write(reply, self._answered)

    def fail(self, error: NtmServeError) -> None:
        """End it with an error, after the answers that were given before."""
        self._give_up()
        if self._answering:
            self._error = error
        else:
            self.call.fail(error)

    def _read_if_room(self) -> None:
        room = self._unanswered < self._messages_max and self._bytes < self._bytes_max
        if room and not self._reading and self._held is None:
            self._reading = True
            self.call.read(self._take)

    def _take(self, message: bytes | None) -> None:
        self._reading = False
        if self._retired is not None or self._conversation is None:  # It is not run; the status tells whoever sent it.
            return None
        if message is None:
            self._read_all = True
            return self._end_if_answered()
        self._unanswered += 1
        self._bytes += len(message)
        try:
            self._conversation.take(message)
        except NtmServeError as error:
            return self.fail(error.with_traceback(None))
        except Exception as fault:
            self._give_up()
            return self.call.fault(fault)
        self._hold_back()
        return self._read_if_room()

    def _hold_back(self) -> None:
        """See frontends.sessions: refusing is work that others would wait for."""
        wait_s = self._held_s()
        if wait_s and self._held is None and not self.call.over:
            self._held = asyncio.get_running_loop().call_later(min(wait_s, HELD_BACK_MAX_S), self._go_on)

    def _go_on(self) -> None:
        self._held = None
        self._hold_back()
        self._read_if_room()

    def _answered(self) -> None:
        """The last answer to a message is written, so another message may be read."""
        self._unanswered -= 1
        self._bytes -= self._answering.popleft()
        if self._error is not None:
            if not self._answering:
                self.call.fail(self._error)
        elif self._read_all or self._retired is not None:
            self._end_if_answered()
        else:
            self._read_if_room()

    def _end_if_answered(self) -> None:
        if self._unanswered == 0:
            if self._retired is not None:
                self.call.fail(self._retired)
            else:
                self.call.finish()

    def _over(self, cut_short: bool) -> None:
        if self._held is not None:
            self._held.cancel()
        self._give_up()
        self._gone(self)

    def _give_up(self) -> None:
        conversation, self._conversation = self._conversation, None
        if conversation is not None:
            conversation.give_up()
