"""What is said to each server, and what it answers, as bytes: the same steps, each in its own protocol.

Messages are made before a load and answers are read after it, so none of this is on the path that is measured.
Protocol buffers are written and read by hand, by their field numbers: a client of each peer beside our own would
clash in protobuf's pool of names.
"""

import base64
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ntm_serve.v1 import sessions_pb2
from ntm_serve.wire import array_of, tensor_of

INPUT, OUTPUT = 9, 8


class Refused(Exception):
    """A server answered with an error."""


@dataclass(frozen=True)
class Said:
    """T steps of each of S sessions: x [S, T, 9]. `start` begins them anew, `end` forgets them afterwards."""

    sessions: Sequence[int]
    x: np.ndarray
    start: bool = False
    end: bool = False


@dataclass(frozen=True)
class Speech:
    """How a server is spoken to."""

    # stream: a bidirectional call per line. unary: a call per message. http: a connection per line.
    carrier: str
    # The method of gRPC, or the path of HTTP.
    method: str
    say: Callable[[Said], bytes]
    # [S, T, 8]; Refused where the server answered with an error.
    hear: Callable[[bytes], np.ndarray]
    # Whether a message may have several sessions.
    many: bool = False
    # Over how many lines a gateway spreads its sessions.
    gateway_lines: int = 1


def name_of(session: int) -> str:
    """What a session of ours is called."""
    return f"peers-{session}"


# Ours


def _say_ours(said: Said) -> bytes:
    names = [name_of(session) for session in said.sessions]
    request = sessions_pb2.StepRequest(session_ids=names, inputs=[tensor_of("x", said.x)])
    return sessions_pb2.StreamRequest(step=request).SerializeToString()


def _hear_ours(reply: bytes) -> np.ndarray:
    step = sessions_pb2.StreamResponse.FromString(reply).step
    if step.failures or step.HasField("error"):
        raise Refused(str(step.error or step.failures[0].error))
    return array_of(step.outputs[0])


# Protocol buffers by hand


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out + bytes([number]))


def _field(number: int, value: int | bytes | str) -> bytes:
    """A field: a number as a varint, anything else with its length."""
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    place = 0

    def varint() -> int:
        nonlocal place
        number = shift = 0
        while True:
            byte = message[place]
            place += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while place < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        elif key & 7 == 2:
            size = varint()
            yield key >> 3, message[place : place + size]
            place += size
        else:
            raise ValueError(f"wire type {key & 7} is not among those that are answered")


# The Open Inference Protocol, version 2: ModelInferRequest and ModelInferResponse, tensors raw


def _say_inference(said: Said) -> bytes:
    (session,) = said.sessions
    parameters = {
        "sequence_id": _field(2, session),
        "sequence_start": _field(1, int(said.start)),
        "sequence_end": _field(1, int(said.end)),
    }
    shape = _field(3, b"".join(_varint(size) for size in said.x.shape))
    told = (_field(4, _field(1, name) + _field(2, value)) for name, value in parameters.items())
    tensor = _field(5, _field(1, "x") + _field(2, "FP32") + shape)
    return _field(1, "ntm") + b"".join(told) + tensor + _field(7, said.x.tobytes())


def _hear_inference(reply: bytes) -> np.ndarray:
    raw = [value for number, value in _fields(reply) if number == 6]
    if len(raw) != 1:
        raise Refused(f"no output: {reply[:200]!r}")
    return _floats(raw[0])


def _hear_triton(reply: bytes) -> np.ndarray:
    """ModelStreamInferResponse: an error, or a response."""
    fields = dict(_fields(reply))
    if 1 in fields:
        raise Refused(fields[1].decode())
    return _hear_inference(fields[2])


# Bytes: session, start, end, then the tensor


def _say_bytes(said: Said) -> bytes:
    (session,) = said.sessions
    return struct.pack("<qBB", session, said.start, said.end) + said.x.tobytes()


def _floats(raw: bytes) -> np.ndarray:
    return np.frombuffer(raw, np.float32).reshape(1, -1, OUTPUT)


def _say_wrapped(said: Said) -> bytes:
    """google.protobuf.BytesValue."""
    return _field(1, _say_bytes(said))


def _hear_wrapped(reply: bytes) -> np.ndarray:
    return _floats(dict(_fields(reply))[1])


def _say_prediction(said: Said) -> bytes:
    """TorchServe's PredictionsRequest."""
    return _field(1, "ntm") + _field(3, _field(1, "data") + _field(2, _say_bytes(said)))


# HTTP


def _post(path: str, kind: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: peer\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _say_json(said: Said) -> bytes:
    (session,) = said.sessions
    row = [session, int(said.start), int(said.end), *said.x.ravel().tolist()]
    return _post("/step", "application/json", json.dumps({"rows": [row]}).encode())


def _hear_json(reply: bytes) -> np.ndarray:
    return np.array(json.loads(reply), np.float32).reshape(1, -1, OUTPUT)


def _say_octets(said: Said) -> bytes:
    return _post("/inference", "application/octet-stream", _say_bytes(said))


def _say_base64(said: Said) -> bytes:
    body = json.dumps({"message": base64.b64encode(_say_bytes(said)).decode()})
    return _post("/predict", "application/json", body.encode())


_INFERENCE = "/inference.GRPCInferenceService"
SPEECH = {
    "ntm-serve": Speech("stream", "/ntm_serve.v1.Sessions/Stream", _say_ours, _hear_ours, many=True),
    # A gateway of 256 sessions made about 9, 10 and 12 thousand steps/s with it over 1, 8 and 32 streams.
    "triton": Speech("stream", f"{_INFERENCE}/ModelStreamInfer", _say_inference, _hear_triton, gateway_lines=32),
    "mlserver": Speech("stream", f"{_INFERENCE}/ModelStreamInfer", _say_inference, _hear_inference),
    "kserve": Speech("unary", f"{_INFERENCE}/ModelInfer", _say_inference, _hear_inference),
    "ray": Speech("unary", "/ntm.Steps/Step", _say_wrapped, _hear_wrapped),
    "torchserve": Speech(
        "unary", "/org.pytorch.serve.grpc.inference.InferenceAPIsService/Predictions", _say_prediction, _hear_wrapped
    ),
    "bentoml": Speech("http", "/step", _say_json, _hear_json),
    "mosec": Speech("http", "/inference", _say_octets, _floats),
    "litserve": Speech("http", "/predict", _say_base64, _floats),
}
