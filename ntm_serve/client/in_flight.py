"""What is on its way over a stream of one session, and what is to be sent again when the stream breaks. Pure.

Rules of this file: messages keep their numbers and their steps, however often they are sent; a reply is taken once.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from ntm_serve.client.conversion import Outputs, SessionFacts, Steps, error_in, parted
from ntm_serve.client.healing import passes
from ntm_serve.errors import NtmServeError
from ntm_serve.v1 import sessions_pb2


class InFlight:
    """The messages of one stream of a session whose replies were not taken yet: what is sent again when the
    connection breaks, and all that a client keeps for it. A reply is taken after those of the messages before it,
    also where it came first: a message that cannot be read is refused at once.

    Who adds, sends and begins again holds a lock, where these are several threads; one alone keeps and takes.
    """

    def __init__(self, session: SessionFacts) -> None:
        self._session = session
        # The number after the last step that was added.
        self.sent_step = session.next_step
        self._tag = 0
        # Tags up to this one were sent by a call that broke.
        self._tag_again = 0
        self._sent: deque[_Numbered] = deque()
        self._unsent: deque[_Numbered] = deque()
        self._replies: dict[int, sessions_pb2.StepResponse] = {}

    def __len__(self) -> int:
        return len(self._sent) + len(self._unsent)

    @property
    def answered(self) -> bool:
        """Whether the oldest message has its reply."""
        return bool(self._sent) and self._sent[0].tag in self._replies

    @property
    def passing(self) -> NtmServeError | None:
        """The error in the oldest message's reply, where the message is to be sent again because of it."""
        oldest = self._sent[0]
        error = error_in(self._replies[oldest.tag])
        if error is not None and passes(error, again=self.again):
            return error
        return None

    @property
    def again(self) -> bool:
        """Whether the oldest message was sent before, by a call that broke."""
        return bool(self._sent) and self._sent[0].tag <= self._tag_again

    def add(self, steps: Steps) -> None:
        """The session's next steps, as a message that is to be sent."""
        self._tag += 1
        self._unsent.append(_Numbered(self._tag, self.sent_step, steps))
        self.sent_step += steps.count

    @property
    def all_sent(self) -> bool:
        """Whether this call was given every message."""
        return not self._unsent

    def next(self) -> sessions_pb2.StreamRequest:
        """The oldest message that was not sent over this call."""
        tag, first_step, steps = one = self._unsent.popleft()
        self._sent.append(one)
        message = self._session.message_of(steps, first_step=first_step, tag=tag)
        return sessions_pb2.StreamRequest(step=message)

    def begin_again(self) -> None:
        """Over another call all of it is sent again: what a broken one said of later messages may be no longer so."""
        self._tag_again = self._sent[-1].tag if self._sent else self._tag_again
        self._unsent.extendleft(reversed(self._sent))
        self._sent.clear()
        self._replies.clear()

    def stop(self) -> None:
        """What was not sent yet is not sent any more."""
        self._unsent.clear()

    def keep(self, response: sessions_pb2.StreamResponse) -> None:
        """A reply came; one that was taken already is dropped."""
        if self._sent and response.step.tag >= self._sent[0].tag:
            self._replies[response.step.tag] = response.step

    def take(self) -> Iterator[Outputs]:
        """What the oldest message gave, in the form of what was passed. Raises the error that it got."""
        tag, _, steps = self._sent.popleft()
        try:
            return parted(self._session.advance(self._replies.pop(tag)), steps)
        except NtmServeError as error:
            raise self._session.meaning_of(error) from None


class _Numbered(NamedTuple):
    """A message of a stream."""

    tag: int
    first_step: int
    steps: Steps
