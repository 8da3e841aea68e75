"""How a call ends with an error: its status, its message, and the machine-readable details."""

from typing import Any

from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from ntm_serve.errors import LimitReached, NtmServeError
from ntm_serve.wire import code_of

DOMAIN = "ntm-serve"


def details_of(error: NtmServeError) -> bytes:
    """The standard details of a status: google.rpc.ErrorInfo, and RetryInfo where a retry makes sense."""
    code: int = code_of(error).value[0]
    status = status_pb2.Status(code=code, message=error.message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.fields)
    status.details.append(_packed(info))
    if isinstance(error, LimitReached):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(round(error.retry_after_s * 1000))
        status.details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
    serialized: bytes = status.SerializeToString()
    return serialized


def _packed(message: Any) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
