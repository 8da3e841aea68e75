"""The parameters of requests of the Open Inference Protocol. Pure.

Rules of this file: a parameter that is read has its type, or is refused; one that begins with ntm_ and is not known is
refused, as a slip of the pen; others that are not known belong to somebody else.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ntm_serve.errors import InvalidInput
from ntm_serve.inference import service_pb2
from ntm_serve.sequences import SequenceId

OURS = "ntm_"

# An integer id is an unsigned one that travels as a signed one.
_UINT64 = 1 << 64


class Parameters:
    """What a request says beside its tensors. sequence_id: None for none. timeout_s: 0 is none. step: the number of its
    first step, None for the next. fork: the sequence that it begins from, as that one stands, or stood before
    fork_step.
    """

    __slots__ = (
        "end", "fork", "fork_step", "sequence_id", "snapshot", "start", "step", "timeout_s", "wants_final",
    )  # fmt: skip

    def __init__(self, given: Mapping[str, service_pb2.InferParameter]) -> None:
        """Raises InvalidInput."""
        self.sequence_id: SequenceId | None = None
        self.start = self.end = self.snapshot = self.wants_final = False
        self.timeout_s = 0.0
        self.step: int | None = None
        self.fork: SequenceId | None = None
        self.fork_step: int | None = None
        for name, value in given.items():
            reader = _READERS.get(name)
            if reader is not None:
                reader(self, name, value)
            elif name.startswith(OURS):
                known = [one for one in _READERS if one.startswith(OURS)]
                raise InvalidInput(f"parameters: expected some of {known}, got {name}")

    @property
    def asks_for_memory(self) -> bool:
        """Whether it asks for what a model without memory cannot give."""
        return self.step is not None or self.snapshot or self.fork is not None or self.fork_step is not None


def _bool(attribute: str) -> "Reader":
    def read(parameters: Parameters, name: str, value: Any) -> None:
        if value.WhichOneof("parameter_choice") != "bool_param":
            raise _wrong(name, "bool_param", value)
        setattr(parameters, attribute, value.bool_param)

    return read


def _number(attribute: str) -> "Reader":
    def read(parameters: Parameters, name: str, value: Any) -> None:
        choice = value.WhichOneof("parameter_choice")
        if choice not in ("int64_param", "uint64_param"):
            raise _wrong(name, "int64_param", value)
        number = getattr(value, choice)
        if number < 0:
            raise InvalidInput(f"{name}: expected a number of at least 0, got {number}")
        setattr(parameters, attribute, number)

    return read


def _identity(attribute: str) -> "Reader":
    def read(parameters: Parameters, name: str, value: Any) -> None:
        choice = value.WhichOneof("parameter_choice")
        if choice == "int64_param":
            identity: SequenceId = value.int64_param % _UINT64
        elif choice == "string_param":
            identity = value.string_param
        else:
            raise _wrong(name, "int64_param or string_param", value)
        setattr(parameters, attribute, identity or None)

    return read


def _timeout(parameters: Parameters, name: str, value: Any) -> None:
    _number("timeout_s")(parameters, name, value)
    parameters.timeout_s /= 1e6


def _priority(_parameters: Parameters, name: str, value: Any) -> None:
    """Read and let go: every sequence gets its turn."""
    if value.WhichOneof("parameter_choice") not in ("int64_param", "uint64_param"):
        raise _wrong(name, "uint64_param", value)


def _wrong(name: str, expected: str, value: Any) -> InvalidInput:
    return InvalidInput(f"{name}: expected {expected}, got {value.WhichOneof('parameter_choice') or 'nothing'}")


Reader = Callable[[Parameters, str, Any], None]

_READERS: Mapping[str, Reader] = {
    "sequence_id": _identity("sequence_id"),
    "sequence_start": _bool("start"),
    "sequence_end": _bool("end"),
    "triton_enable_empty_final_response": _bool("wants_final"),
    "timeout": _timeout,
    "priority": _priority,
    "ntm_step": _number("step"),
    "ntm_snapshot": _bool("snapshot"),
    "ntm_fork": _identity("fork"),
    "ntm_fork_step": _number("fork_step"),
}
