"""An asyncio event loop that waits on gRPC's completion queue, so that a message meets no second loop or thread.

Rules of this file: whoever starts an operation gives its tag, a function of the event, and that is called
on the loop; everything that gRPC has ready is taken before anything else runs, so that what has arrived
together is handled together; other sockets are watched by a thread that only rings.

grpc.aio polls the queue on a thread and hands every event over to an event loop: a bare echo over 32
streams costs it 38 us a message, and this loop 22 us, or 14 us where gRPC's own threads are kept out of it
(see cli/before_grpc.py). The price is `grpc._cython.cygrpc`, which is private
to grpc. It is what grpc's own blocking server stands on, nothing but this package imports it, and its tests
run on the releases that pyproject.toml allows.
"""

import asyncio
import os
import select
import selectors
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from grpc._cython import cygrpc  # type: ignore[attr-defined]

# Events taken in one turn before timers and sockets get theirs.
EVENTS_PER_TURN_MAX = 256

# A poll looks at one connection, and what it reads there may complete nothing. So a turn goes on after polls without an
# event: as many as events were taken before, up to this. With 32 streams on 6 connections, which is what perf_analyzer
# has, a turn that ended with the first such poll took 4 of 32 messages that were there, and one like this takes 25.
EMPTY_POLLS_MAX = 8

# How long a loop that nobody can ring sleeps before it looks around: no call has come in yet.
UNRUNG_WAIT_S = 0.01

# The longest sleep: gRPC's core takes a deadline, and "for ever" is none.
WAIT_MAX_S = 3600.0

# What closing waits for operations that nobody ended.
CLOSE_WAIT_S = 1.0

Tag = Callable[[Any], None]
_COMPLETE: int = cygrpc.CompletionType.operation_complete


class CompletionQueueLoop(asyncio.SelectorEventLoop):
    """The loop. `queue` is for the server whose calls it serves."""

    def __init__(self) -> None:
        self._arrivals = _QueueSelector(self.call_exception_handler)
        self.queue = self._arrivals.queue
        super().__init__(self._arrivals)

    def ring_with(self, call: Any) -> None:
        """Wake the queue from other threads by way of this call, which may be over. The first is kept."""
        self._arrivals.bell = self._arrivals.bell or call

    def post(self, callback: Callable[[], None]) -> None:
        """As call_soon_threadsafe, but by way of the queue: 2 us, and no byte through a socket."""
        if not self._arrivals.ring(lambda _: callback()):
            self.call_soon_threadsafe(callback)

    def take_arrivals(self) -> None:
        """Handle what gRPC has ready, without waiting: between two steps of something long."""
        self._arrivals.take()

    def arrival_s(self) -> float:
        """When what is being handled was found to have arrived, on the monotonic clock: one time for all that was
        taken at once.
        """
        return self._arrivals.taken_s


class _QueueSelector(selectors.BaseSelector):
    """Waits for completion events and, through a thread, for sockets."""

    def __init__(self, on_fault: Callable[[dict[str, Any]], None]) -> None:
        self.queue = cygrpc.CompletionQueue()
        # A call of the queue: a batch of no operations on it completes at once, and wakes who waits.
        self.bell: Any = None
        # Held while it is rung: gRPC's core ends the process that rings a queue which was shut down meanwhile.
        self._ringing = threading.Lock()
        self._on_fault = on_fault
        self.taken_s = time.monotonic()
        self._sockets = selectors.DefaultSelector()
        self._end, self._end_writer = os.pipe()
        self._sockets.register(self._end, selectors.EVENT_READ)
        self._ready = False  # A socket is, and the watcher waits until it was looked at.
        self._looked = threading.Semaphore(0)
        self._closed = False
        self._watcher: threading.Thread | None = None

    def take(self) -> bool:
        """Call the tags of the events that are there, up to a limit. Whether there was any."""
        poll = self.queue.poll
        self.taken_s = time.monotonic()
        taken = empty = 0
        while taken < EVENTS_PER_TURN_MAX:
            event = poll(0)
            if event.completion_type != _COMPLETE:
                empty += 1
                if empty > min(taken, EMPTY_POLLS_MAX):
                    return taken > 0
                continue
            taken += 1
            self._call(event)
        return True

    def ring(self, tag: Tag) -> bool:
        """Have the tag called on the loop, from any thread. False where there is no bell: not yet, or no more."""
        with self._ringing:
            if self.bell is None:
                return False
            self.bell.start_server_batch((), tag)
            return True

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See selectors.BaseSelector."""
        if self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="sockets", daemon=True)
            self._watcher.start()
        if not self.take() and timeout != 0 and not self._ready:
            self._wait(WAIT_MAX_S if timeout is None else timeout)
        if not self._ready:
            return []
        ready = [(key, events) for key, events in self._sockets.select(0) if key.fd != self._end]
        # What is ready now is dealt with before the next look: a socket is told of twice at worst.
        self._ready = False
        self._looked.release()
        return ready

    def _wait(self, timeout: float) -> None:
        if self.bell is None:
            timeout = min(timeout, UNRUNG_WAIT_S)
        event = self.queue.poll(time.time() + timeout)
        if event.completion_type == _COMPLETE:
            self.taken_s = time.monotonic()
            self._call(event)
            # An event that holds a call that is over makes the core spin in the next poll.
            del event
            self.take()

    def _call(self, event: Any) -> None:
        try:
            event.tag(event)
        except Exception as fault:  # As asyncio has it for every callback: told, and the loop goes on.
            self._on_fault({"message": "an event of gRPC was not handled", "exception": fault})

    def _watch(self) -> None:
        """Ring when a socket is ready, then wait until the loop has looked."""
        sockets = select.poll()
        sockets.register(self._sockets.fileno(), select.POLLIN)
        while True:
            sockets.poll()
            if self._closed:
                return
            self._ready = True
            self.ring(_nothing)
            self._looked.acquire()

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._sockets.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._sockets.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._sockets.modify(fileobj, events, data)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._sockets.get_map()

    def close(self) -> None:
        """End the thread and the queue. Whoever made servers of the queue has shut them down before."""
        self._closed = True
        os.write(self._end_writer, b"\0")
        self._looked.release()
        if self._watcher is not None:
            self._watcher.join()
        self._sockets.close()
        os.close(self._end)
        os.close(self._end_writer)
        with self._ringing:
            self.bell = None
        self.queue.shutdown()
        end_s = time.time() + CLOSE_WAIT_S
        while self.queue.poll(end_s).completion_type == _COMPLETE:
            pass


def _nothing(event: Any) -> None:
    """The tag of a ring: to be woken was all."""
