"""Every error of the project, by who must act. None knows of a transport: one table maps each to a status.

    NtmServeError
    ├── CallerFault               the caller changes the request
    │   ├── InvalidInput          a wrong dtype, shape, size, number or name
    │   ├── TooLarge              more than there may ever be: to send less helps, to wait does not
    │   ├── Unsupported           what this server does not do, or is not set to do
    │   ├── Unauthenticated       a token or certificate that is missing, wrong, or of the past
    │   ├── PermissionDenied      the caller is known, and has not the role that the call needs
    │   ├── ModelUnknown
    │   ├── SessionUnknown        no session of that name was ever seen here
    │   ├── SessionClosed         the caller, or another, closed it
    │   ├── SessionExpired        it was idle for longer than its idle life
    │   ├── SessionEvicted        it made room: the server had no place to keep it
    │   ├── SessionLost           its server went, or fell back, and its memory with it; only a client raises it
    │   ├── SessionExists
    │   ├── SessionDiffers        it is to be resumed, and began otherwise than the caller says
    │   ├── StepAhead             the number is higher than the session's next step
    │   ├── StepForgotten         the number is lower than the reply window reaches
    │   ├── StepConflict          the number was taken with other inputs: two callers step one session
    │   ├── StepAborted           a step that this one was to follow failed, or the session was rewound
    │   ├── StepCancelled         nobody waited for it any more
    │   ├── SnapshotRejected      bytes that are no snapshot, or not one of a model that is served
    │   └── NonFiniteState        the step would have left NaN or infinity in the session's state
    ├── LimitReached              the caller waits and tries again, or the operator raises a limit
    ├── ServerDraining            the caller tries again: another replica, or this one after its restart
    │   └── StreamAged            the caller opens another stream: this one was open for long enough
    ├── OwnedElsewhere            the caller tries again: another replica has the session, or gives it up
    ├── StoreUnavailable          the caller tries again: the store did not answer
    ├── ServerUnreachable         no server answered; only a client raises it
    ├── DeadlinePassed            the caller's time was over
    ├── OperatorFault             whoever runs the server acts
    │   ├── ModelDamaged          a file differs from what its manifest promises
    │   ├── ModelIncomplete       a file of the model directory is missing
    │   ├── ModelRejected         whole, but this server cannot serve it
    │   ├── StoreDamaged          what a store gave is not what was put there
    │   ├── StoreConflict         a record that does not follow the one before it
    │   └── SettingsFault         a setting, a port, a path
    └── EngineFault               we act: the engine failed on input that was checked

Each class has a `reason`, the machine-readable word that travels with the status and brings the same
class back in the client. Messages name the thing, the expected and the actual. What a message may tell of a server
is what its callers know too: paths, addresses and the words of libraries are for the detail, which the log and
the commands of whoever runs the server show.
"""

from collections.abc import Iterator, Mapping
from typing import ClassVar

MESSAGE_BYTES_MAX = 1000

# The field that names the limit, where one is the reason.
LIMIT = "limit"


class NtmServeError(Exception):
    """The root. `reason` is stable and machine-readable; `fields` are facts a program may act on. `message` is what
    callers are told; `detail`, which stays here, what whoever runs the server is told in its place.
    """

    reason: ClassVar[str] = "ERROR"

    def __init__(self, message: str, *, fields: Mapping[str, str] | None = None, detail: str = "") -> None:
        # A message may quote what a client sent; the metadata of a gRPC status has room for 16 KiB.
        text = message.encode(errors="replace")
        cut = text[:MESSAGE_BYTES_MAX].decode(errors="ignore")
        self.message = message if len(text) <= MESSAGE_BYTES_MAX else f"{cut}... (shortened)"
        self.detail = detail or self.message
        super().__init__(self.detail)
        self.fields = dict(fields or {})


class CallerFault(NtmServeError):
    """The caller must change the request."""

    reason = "CALLER_FAULT"


class InvalidInput(CallerFault):
    """A value that does not fit its spec, named with the expected and the actual."""

    reason = "INVALID_INPUT"


class TooLarge(CallerFault):
    """More than a limit ever lets through, however long one waits: a message's bytes, its steps, a session's state.

    `fields["limit"]` is the limit's name, a tenant's beginning with "tenant_"; `fields["expected"]` is the most, and
    `fields["actual"]` what there was.
    """

    reason = "TOO_LARGE"

    @classmethod
    def beyond(cls, limit: str, message: str, *, expected: int, actual: int) -> "TooLarge":
        """Of what is beyond that limit."""
        return cls(message, fields={LIMIT: limit, "expected": str(expected), "actual": str(actual)})


class Unsupported(CallerFault):
    """A call or an option that this server does not have, or that it is not set to have."""

    reason = "UNSUPPORTED"


class Unauthenticated(CallerFault):
    """The server does not know who calls."""

    reason = "UNAUTHENTICATED"


class PermissionDenied(CallerFault):
    """The server knows who calls, and this caller may not; `fields["role"]` is the role that may."""

    reason = "PERMISSION_DENIED"


class ModelUnknown(CallerFault):
    """No model, or no version of it, with that name."""

    reason = "MODEL_UNKNOWN"


class SessionUnknown(CallerFault):
    """No session of that name was ever seen here, or it ended too long ago to remember why."""

    reason = "UNKNOWN"


class SessionClosed(CallerFault):
    """The session was closed."""

    reason = "CLOSED"


class SessionExpired(CallerFault):
    """The session was idle for longer than its idle life."""

    reason = "EXPIRED"


class SessionEvicted(CallerFault):
    """The session had to make room, and could not be kept anywhere else."""

    reason = "EVICTED"


class SessionLost(CallerFault):
    """A session that this client has stepped is not known any more, or stands at an earlier step than was answered.

    `fields["answered_step"]`: its replies had come for the steps below; `fields["expected_step"]`, where the server
    still has the session: its next step there. Either step the session again from there, or open another.
    """

    reason = "LOST"


class SessionExists(CallerFault):
    """A session of that name is open."""

    reason = "SESSION_EXISTS"


class SessionDiffers(CallerFault):
    """A session that is to be resumed began otherwise than the caller says."""

    reason = "SESSION_DIFFERS"


class StepAhead(CallerFault):
    """The step number is higher than the session's next one; `fields["expected_step"]` is that one."""

    reason = "STEP_AHEAD"


class StepForgotten(CallerFault):
    """The step number is lower than the oldest reply kept; `fields["oldest_step"]` is that one."""

    reason = "STEP_FORGOTTEN"


class StepConflict(CallerFault):
    """The step number was already taken, with other inputs: two callers step one session."""

    reason = "STEP_CONFLICT"


class StepAborted(CallerFault):
    """A step that this one was to follow failed or was cancelled, or the session was rewound meanwhile."""

    reason = "STEP_ABORTED"


class StepCancelled(CallerFault):
    """Nobody waited for the step any more, so it was not run or not kept; the session is as it was."""

    reason = "STEP_CANCELLED"


class NonFiniteState(CallerFault):
    """The step was refused because its next state was not finite; the session is as it was."""

    reason = "NON_FINITE_STATE"


class SnapshotRejected(CallerFault):
    """The bytes are damaged, of another format, or a snapshot of a model that is not served here."""

    reason = "SNAPSHOT_REJECTED"


class LimitReached(NtmServeError):
    """A limit is reached, `fields["limit"]` by name; `retry_after_s` is when a retry makes sense."""

    reason = "LIMIT_REACHED"

    def __init__(self, message: str, *, retry_after_s: float = 1.0, fields: Mapping[str, str] | None = None) -> None:
        super().__init__(message, fields=fields)
        self.retry_after_s = retry_after_s


class ServerDraining(NtmServeError):
    """The server is stopping; no step of the request was run that no reply was given for."""

    reason = "DRAINING"


class StreamAged(ServerDraining):
    """The stream was open for as long as streams may be; all that it had in flight was answered."""

    reason = "STREAM_AGED"


class OwnedElsewhere(NtmServeError):
    """Another replica has the session; `fields["owner"]` is its name. It has been asked to give it up."""

    reason = "OWNED_ELSEWHERE"


class StoreUnavailable(NtmServeError):
    """The store did not answer, or not in time; what was asked may have been done."""

    reason = "STORE_UNAVAILABLE"


class ServerUnreachable(NtmServeError):
    """No server answered at that address, or the connection broke; what was sent may have been run."""

    reason = "UNREACHABLE"


class DeadlinePassed(NtmServeError):
    """The caller's time was over before the answer came; what was sent may have been run."""

    reason = "DEADLINE_PASSED"


class OperatorFault(NtmServeError):
    """Whoever runs the server must act."""

    reason = "OPERATOR_FAULT"


class ModelDamaged(OperatorFault):
    """A file of a model directory differs from what its manifest promises, or the golden run does."""

    reason = "MODEL_DAMAGED"


class ModelIncomplete(OperatorFault):
    """A file that a model directory needs is missing."""

    reason = "MODEL_INCOMPLETE"


class ModelRejected(OperatorFault):
    """A model directory that is whole, but that this server cannot serve."""

    reason = "MODEL_REJECTED"


class StoreDamaged(OperatorFault):
    """What came back from a store is not what was put there, or was written by something else."""

    reason = "STORE_DAMAGED"


class StoreConflict(OperatorFault):
    """A record does not follow the one before it: two servers write as the same owner."""

    reason = "STORE_CONFLICT"


class SettingsFault(OperatorFault):
    """A setting that cannot be used: a port that is taken, a path that is not there."""

    reason = "SETTINGS_FAULT"


class EngineFault(NtmServeError):
    """The engine failed on input that was checked: a fault of ours or of the model."""

    reason = "ENGINE_FAULT"


def _family(root: type[NtmServeError]) -> Iterator[type[NtmServeError]]:
    yield root
    for child in root.__subclasses__():
        yield from _family(child)


ERROR_OF_REASON: Mapping[str, type[NtmServeError]] = {error.reason: error for error in _family(NtmServeError)}
