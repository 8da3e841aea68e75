"""A stream of one session: see `ntm_serve.client.in_flight` for what is sent again."""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import grpc

from ntm_serve.client.asking import Asking, back
from ntm_serve.client.conversion import Grouping, Inputs, Outputs, SessionFacts, Steps, error_of_call, expect_positive
from ntm_serve.client.healing import Patience
from ntm_serve.client.in_flight import InFlight
from ntm_serve.errors import NtmServeError, ServerUnreachable, StepCancelled
from ntm_serve.v1 import sessions_pb2


class Exchange:
    """One stream of one session: messages made by gRPC's own thread while the caller's takes the replies. When its
    call breaks another takes its place, and gRPC's thread of that one goes on where the one before is.
    """

    def __init__(
        self,
        session: SessionFacts,
        xs: Iterable[Inputs],
        *,
        steps_per_message: int,
        in_flight_max: int,
        patience: Patience,
        begin: Callable[[Iterator[sessions_pb2.StreamRequest]], Any],
        carry_out: Callable[[Asking[None]], None],
        is_closing: Callable[[], bool],
    ) -> None:
        """begin: gives a call of its own. carry_out: does what an asking yields. is_closing: whether the client is
        being closed; then nothing is healed any more.
        """
        expect_positive("in_flight_max", in_flight_max)
        self._session = session
        self._begin, self._carry_out, self._is_closing = begin, carry_out, is_closing
        self._groups = _grouped(xs, Grouping(session.inputs, steps_per_message))
        self._room = threading.Semaphore(in_flight_max)
        self._in_flight = InFlight(session)
        self._patience = patience
        # Held to send or to stop sending: after that the messages in flight only get fewer.
        self._sending = threading.Lock()
        # Held to read xs: the thread of a call that broke may still wait for the next x when another call begins.
        self._reading = threading.Lock()
        self._stopped = self._read_all = False
        self._fault: BaseException | None = None
        # Whether every reply that was waited for came: if not, only the server knows where the session stands.
        self.whole = True
        self._calls = 0
        self._begin_call()

    def receive(self) -> Iterator[Outputs] | None:
        """What the next message gave; None after the last. Raises the error of the message, of the call or of xs."""
        if self._stopped:
            raise StepCancelled(f"session {self._session.id}: a later call ended this stream")
        self.whole = False
        while (broken := self._hear()) is not None:
            self._heal(broken)
        self.whole = True
        if self._in_flight.answered:
            self._room.release()
            outputs = self._in_flight.take()
            self._patience.progress()
            return outputs
        if self._fault is not None:
            raise self._fault
        return None

    def end(self, timeout_s: float | None) -> None:
        """Send no more, and hear what became of that which was sent: a message still on its way could else
        be run after the session's next one.
        """
        with self._sending:
            if self._stopped:
                return
            self._stopped = True
            self._in_flight.stop()
        self._room.release()
        wait_s = threading.TIMEOUT_MAX if timeout_s is None else timeout_s
        patience = threading.Timer(wait_s, self._call.cancel)
        patience.daemon = True
        try:
            if self.whole and self._in_flight:
                patience.start()
                self._hear_rest()
        finally:
            patience.cancel()
            self._call.cancel()

    def _begin_call(self) -> None:
        with self._sending:
            self._calls += 1
            self._in_flight.begin_again()
        self._call: Any = self._begin(self._messages(self._calls))

    def _hear(self) -> NtmServeError | None:
        """Wait for the oldest message's reply, or for the end. What broke, if it did."""
        in_flight = self._in_flight
        try:
            while not in_flight.answered:
                response = next(self._call, None)
                if response is None:
                    if self._read_all and not in_flight:
                        return None
                    return ServerUnreachable("the stream ended before its messages were answered")
                in_flight.keep(response)
        except grpc.RpcError as failed:
            return error_of_call(failed)
        return in_flight.passing

    def _heal(self, broken: NtmServeError) -> None:
        """Have another call take the place of one that broke. Raises what does not pass."""
        self._call.cancel()
        in_flight = self._in_flight
        if self._is_closing():
            raise self._fault or broken
        try:
            self._carry_out(
                back(self._patience, self._session, broken, sent_step=in_flight.sent_step, again=in_flight.again)
            )
        except NtmServeError as error:
            raise self._fault or error from None
        self._begin_call()

    def _hear_rest(self) -> None:
        self.whole = False
        with contextlib.suppress(grpc.RpcError):
            while self._in_flight:
                if self._in_flight.answered:
                    with contextlib.suppress(NtmServeError):
                        self._in_flight.take()
                elif (response := next(self._call, None)) is not None:
                    self._in_flight.keep(response)
                else:
                    return
            self.whole = True

    def _messages(self, call: int) -> Iterator[sessions_pb2.StreamRequest]:
        """For that call one after another: what the one before did not bring across, then what is read."""
        while True:
            with self._sending:
                if self._is_over(call):
                    return
                message = None if self._in_flight.all_sent else self._in_flight.next()
            if message is not None:
                yield message
            elif not self._read(call):
                return

    def _read(self, call: int) -> bool:
        """Have the next message to send, once there is room; False where there is none any more, for this call."""
        with self._reading:
            with self._sending:
                if self._is_over(call):
                    return False
                if not self._in_flight.all_sent:
                    return True
            if self._read_all:
                return False
            self._room.acquire()
            if self._stopped:
                return False
            try:
                steps = next(self._groups, None)
            except BaseException as fault:  # The fault of xs: the caller's thread shall see it, not gRPC's.
                self._fault, steps = fault, None
            with self._sending:
                if steps is None:
                    self._read_all = True
                elif not self._stopped:
                    self._in_flight.add(steps)
            return steps is not None

    def _is_over(self, call: int) -> bool:
        return self._stopped or call != self._calls


def _grouped(xs: Iterable[Inputs], grouping: Grouping) -> Iterator[Steps]:
    for x in xs:
        yield from grouping.add(x)
    yield from grouping.rest()
