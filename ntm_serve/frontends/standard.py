"""The standard services that tools expect: grpc.health.v1.Health, and server reflection."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from grpc_health.v1 import health_pb2
from grpc_health.v1.health import OVERALL_HEALTH
from grpc_reflection.v1alpha import reflection, reflection_pb2

from ntm_serve.errors import InvalidInput, ModelUnknown
from ntm_serve.frontends.call import Call
from ntm_serve.frontends.methods import Method, fail, methods_of, parsed

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]

# The same service under its later name: its messages are the same on the wire.
REFLECTION_V1_PATH = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"

# What a probe asks for that restarts a server which does not answer at all: one that drains, or whose store is away, is
# alive.
LIVENESS = "liveness"

# Of a name that is watched, which is kept for as long: anybody may ask, and no service or model is called that.
NAME_MAX = 1024

Status = health_pb2.HealthCheckResponse  # A response is but a status.


class Health:
    """What is serving and what is not, by the names of services and models; "" is the server as a whole."""

    def __init__(self) -> None:
        self._statuses: dict[str, int] = {LIVENESS: Status.SERVING}
        self._watching: defaultdict[str, set[Call]] = defaultdict(set)

    def set_serving(self, names: Iterable[str], *, serving: bool) -> None:
        """What is answered from now on for the server and these."""
        for name in (OVERALL_HEALTH, *names):
            self._statuses[name] = Status.SERVING if serving else Status.NOT_SERVING
            for call in self._watching.get(name, ()):
                self._tell(call, name)

    def forget(self, names: Iterable[str]) -> None:
        """These are no more; who watches one is told that it is unknown."""
        for name in names:
            self._statuses.pop(name, None)
            for call in self._watching.get(name, ()):
                self._tell(call, name)

    def methods(self) -> Iterator[Method]:
        return methods_of(HEALTH, self)

    def Check(self, request: health_pb2.HealthCheckRequest) -> Any:
        if request.service not in self._statuses:
            raise ModelUnknown(f"health: expected one of {sorted(self._statuses)}, got {request.service!r}")
        return Status(status=self._statuses[request.service])

    def List(self, request: health_pb2.HealthListRequest) -> health_pb2.HealthListResponse:
        return health_pb2.HealthListResponse(
            statuses={name: Status(status=status) for name, status in self._statuses.items()}
        )

    def Watch(self, call: Call) -> None:
        def watch(data: bytes | None) -> None:
            if data is None:
                return None
            try:
                name = parsed(health_pb2.HealthCheckRequest, data).service
                if len(name) > NAME_MAX:
                    raise InvalidInput(f"health: expected a name of at most {NAME_MAX} characters, got {len(name)}")
            except Exception as fault:
                return fail(call, fault)
            self._watching[name].add(call)
            call.on_over = lambda _: self._forget(call, name)
            return self._tell(call, name)

        call.read(watch)

    def _forget(self, call: Call, name: str) -> None:
        self._watching[name].discard(call)
        if not self._watching[name]:  # A name is any client's to make up.
            del self._watching[name]

    def _tell(self, call: Call, name: str) -> None:
        status = self._statuses.get(name, Status.SERVICE_UNKNOWN)
        call.write(Status(status=status).SerializeToString(), _written)


class Reflection:
    """Server reflection, on grpc's own servicer."""

    def __init__(self, services: Iterable[str]) -> None:
        self._servicer = reflection.ReflectionServicer([*services, HEALTH.full_name, REFLECTION.full_name])

    def methods(self) -> Iterator[Method]:
        for method in methods_of(REFLECTION, self):
            yield method
            yield Method(REFLECTION_V1_PATH, method.kind, method.serve)

    def ServerReflectionInfo(self, call: Call) -> None:
        call.begin()
        _Reflecting(self._servicer, call).read()


class _Reflecting:
    """One client's questions, each answered before the next is read."""

    def __init__(self, servicer: Any, call: Call) -> None:
        self._servicer = servicer
        self._call = call

    def read(self) -> None:
        self._call.read(self._answer)

    def _answer(self, data: bytes | None) -> None:
        if data is None:
            return self._call.finish()
        try:
            request = parsed(reflection_pb2.ServerReflectionRequest, data)
            (response,) = self._servicer.ServerReflectionInfo(iter([request]), None)
        except Exception as fault:
            return fail(self._call, fault)
        return self._call.write(response.SerializeToString(), self.read)


def _written() -> None: ...
