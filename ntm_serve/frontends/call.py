"""One gRPC call on the completion queue: its messages in and out, and the one status that ends it.

Rules of this file: at most one read and one write are under way, which is gRPC's own rule, and who writes
sees to it that what waits behind is bounded; what is asked of a call that is over is not done and no fault,
because a client may leave at any moment; whoever serves a call knows it and is known by it, so a call that is
over forgets, and is freed at once, and with it what gRPC holds of it: the garbage collector looks seldom.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import grpc
import structlog
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from ntm_serve.errors import EngineFault, LimitReached, NtmServeError, TooLarge
from ntm_serve.frontends.status import details_of
from ntm_serve.observer import MessageCounts
from ntm_serve.tenants import Account
from ntm_serve.wire import DETAILS_KEY, code_of

_NO_FLAGS = 0

log = structlog.get_logger()


class CallObserver(Protocol):
    """Told of every call; must not block."""

    def call_started(self, method: str, kind: str) -> None: ...

    def call_handled(self, method: str, kind: str, code: str) -> None: ...

    def messages(self, method: str, kind: str) -> MessageCounts:
        """The counts of a method's messages, which every call of it adds to."""
        ...


class Call:
    """A call that a client has begun."""

    __slots__ = (
        "_account", "_begun", "_call", "_code", "_counts", "_gone", "_observer", "_on_message", "_outbox", "_taken",
        "bytes_max", "kind", "metadata", "method", "on_over", "on_retire", "over",
    )  # fmt: skip

    def __init__(
        self, event: Any, *, method: str, kind: str, observer: CallObserver, gone: Callable[["Call"], None]
    ) -> None:
        """gone: whoever counts calls; told once that it is over."""
        self._call = event.call
        self._gone = gone
        # What the client sent with it: pairs of a key and a value.
        self.metadata: Sequence[tuple[str, str | bytes]] = event.invocation_metadata
        self.method = method
        self.kind = kind
        # The largest message that its caller may send; None is the largest that anybody may.
        self.bytes_max: int | None = None
        # Where it is counted, and the bytes that it waits with for its answer.
        self._account: Account | None = None
        self._taken = 0
        # Whether the client left, its deadline passed, or the status was sent.
        self.over = False
        # Told once that it is over, and whether it was cut short.
        self.on_over: Callable[[bool], None] = _nobody_asks
        # Whoever answers what is in flight before the call ends with an error; None ends it at once.
        self.on_retire: Callable[[NtmServeError], None] | None = None
        self._observer = observer
        self._counts = observer.messages(method, kind)
        self._begun = False
        self._code: grpc.StatusCode | None = None
        self._on_message: Callable[[bytes | None], None] = _nobody_reads
        # What is being written, and after it what waits.
        self._outbox: deque[tuple[bytes, Callable[[], None]]] = deque()
        observer.call_started(method, kind)
        self._call.start_server_batch((cygrpc.ReceiveCloseOnServerOperation(_NO_FLAGS),), self._closed)

    def count_in(self, account: Account) -> None:
        """It is that tenant's until it is over. Raises LimitReached."""
        account.begin_call()
        self._account = account

    def begin(self) -> None:
        """Tell the client that the call is taken: it may wait for that before it sends anything."""
        if not (self._begun or self.over):
            self._call.start_server_batch(self._beginning(), _done)

    def read(self, on_message: Callable[[bytes | None], None]) -> None:
        """Have the next message handed over, or None after the last; nothing where the call is over."""
        if not self.over:
            self._on_message = on_message
            self._call.start_server_batch((cygrpc.ReceiveMessageOperation(_NO_FLAGS),), self._received)

    def write(self, message: bytes, on_written: Callable[[], None]) -> None:
        """Send a message, after those before it. on_written: when gRPC has taken it, which is when the client has
        room for it; not called where the call is over or was ended.
        """
        if self.over or self._code is not None:
            return
        self._outbox.append((message, on_written))
        if len(self._outbox) == 1:
            self._write_next()

    def _write_next(self) -> None:
        operation = cygrpc.SendMessageOperation(self._outbox[0][0], _NO_FLAGS)
        operations = (operation,) if self._begun else (*self._beginning(), operation)
        self._call.start_server_batch(operations, self._sent)

    def finish(self, message: bytes | None = None) -> None:
        """End well, after a last message if there is one."""
        self._end(grpc.StatusCode.OK, b"", None, message)

    def fail(self, error: NtmServeError) -> None:
        """End with the error's status: its message, and the machine-readable details."""
        self._end(code_of(error), error.message.encode(), ((DETAILS_KEY, details_of(error)),), None)

    def retire(self, error: NtmServeError) -> None:
        """End with an error, after the answers to what is in flight where there are any."""
        (self.on_retire or self.fail)(error)

    def cut(self, error: NtmServeError) -> None:
        """End at once what its client does not read: what was to be sent is not."""
        if not self.over:
            self._call.cancel(code_of(error).value[0], error.message)

    def refuse(self, code: grpc.StatusCode, details: str) -> None:
        """End with a status that is gRPC's own and none of ours."""
        self._end(code, details.encode(), None, None)

    def fault(self, fault: Exception) -> None:
        """End with what the caller learns of a fault of ours: that it was one."""
        self.fail(fault_of(self.method, fault))

    def _end(self, code: grpc.StatusCode, details: bytes, metadata: Any, message: bytes | None) -> None:
        if self.over or self._code is not None:
            return
        self._code = code
        operations = () if self._begun else self._beginning()
        if message is not None:
            self._counts.sent += 1
            operations += (cygrpc.SendMessageOperation(message, _NO_FLAGS),)
        status = cygrpc.SendStatusFromServerOperation(metadata, code.value[0], details, _NO_FLAGS)
        self._call.start_server_batch((*operations, status), _done)

    def _beginning(self) -> tuple[Any, ...]:
        self._begun = True
        return (cygrpc.SendInitialMetadataOperation(None, _NO_FLAGS),)

    # Tags

    def _received(self, event: Any) -> None:
        message = event.batch_operations[0].message()
        if self._code is not None:  # It came after the end was said.
            return None
        if message is not None:
            self._counts.received += 1
            if self.bytes_max is not None and len(message) > self.bytes_max:
                return self.fail(_too_large(len(message), self.bytes_max))
            if self.kind == "unary" and self._account is not None:
                # A stream has a bound of its own, and is not read beyond it.
                try:
                    self._account.take_message(len(message))
                except LimitReached as error:
                    return self.fail(error.with_traceback(None))
                self._taken = len(message)
        return self._on_message(message)

    def _sent(self, event: Any) -> None:
        if not event.success or self.over:  # That it was cut short is told of by itself.
            return
        self._counts.sent += 1
        if self._code is not None:  # Nothing may follow the status, which is on its way.
            return
        _, on_written = self._outbox.popleft()
        if self._outbox:
            self._write_next()
        on_written()

    def _closed(self, event: Any) -> None:
        cut_short: bool = event.batch_operations[0].cancelled()
        self.over = True
        ended_well = self._code is not None and not cut_short
        code = self._code if ended_well and self._code is not None else grpc.StatusCode.CANCELLED
        self._observer.call_handled(self.method, self.kind, code.name)
        on_over, self.on_over, self._on_message = self.on_over, _nobody_asks, _nobody_reads
        self.on_retire = None
        self._outbox.clear()
        account, self._account = self._account, None
        if account is not None:
            account.end_call(self._taken)
        gone, self._gone = self._gone, _nobody_counts
        gone(self)
        on_over(cut_short)


def fault_of(call: str, fault: Exception) -> EngineFault:
    """What the caller learns of a fault of ours: that it was one. The log has the rest."""
    log.error("call failed", call=call, exc_info=fault)
    return EngineFault(f"{call}: an internal fault; the server's log has it")


def _too_large(size: int, most: int) -> TooLarge:
    wrong = f"message: expected at most {most} bytes, got {size}"
    return TooLarge.beyond("tenant_message_bytes_max", wrong, expected=most, actual=size)


def _done(event: Any) -> None:
    """The tag of what needs no answer."""


def _nobody_asks(cut_short: bool) -> None: ...


def _nobody_reads(message: bytes | None) -> None: ...


def _nobody_counts(call: Call) -> None: ...
