"""The service inference.GRPCInferenceService over gRPC: what is asked beside inferences. See infer.py for those."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import ntm_serve
from ntm_serve.errors import InvalidInput, ModelUnknown, Unsupported
from ntm_serve.frontends.infer import Inference
from ntm_serve.frontends.methods import Method, kind_of, methods_of
from ntm_serve.frontends.model_config import config_of, metadata_of, statistics_of
from ntm_serve.inference import service_pb2
from ntm_serve.observer import ModelTotals, Tracer
from ntm_serve.service import Service
from ntm_serve.step_model import ModelKey
from ntm_serve.tenancy import TenantService
from ntm_serve.views import ModelView

INFERENCE = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]

EXTENSIONS = ("sequence", "sequence(string_id)", "statistics", "model_repository")
CONTROL_EXTENSION = "model_repository(unload_dependents)"

# What an operator does, and what needs a client on this machine.
UNSUPPORTED = {
    "SystemSharedMemoryStatus": "shared memory is not supported: send tensors in messages",
    "SystemSharedMemoryRegister": "shared memory is not supported: send tensors in messages",
    "SystemSharedMemoryUnregister": "shared memory is not supported: send tensors in messages",
    "CudaSharedMemoryStatus": "shared memory is not supported: send tensors in messages",
    "CudaSharedMemoryRegister": "shared memory is not supported: send tensors in messages",
    "CudaSharedMemoryUnregister": "shared memory is not supported: send tensors in messages",
    "TraceSetting": "traces cannot be set from here: the server's metrics say how long requests wait and compute",
    "LogSettings": "the log cannot be set from here: it is set where the server is started, with --log-level",
}


class ModelControl(Protocol):
    """Loads and unloads models of the repository."""

    async def load(self, name: str) -> None:
        """Serve every version of a model that is there. Raises ModelUnknown, and the fault of one that cannot be."""
        ...

    async def unload(self, name: str) -> None:
        """Take no new session of a model. Raises ModelUnknown."""
        ...


@dataclass(frozen=True)
class InferenceSettings:
    """idle_life_s: of a sequence, None for no end. sessions_max: sequences at once. control: None where clients may
    not load and unload.
    """

    idle_life_s: float | None
    sessions_max: int
    control: ModelControl | None


class InferenceBehaviours:
    """See proto/ntm_serve/inference/service.proto."""

    def __init__(
        self,
        service: Service | TenantService,
        inference: Inference,
        *,
        settings: InferenceSettings,
        totals: Callable[[ModelKey], ModelTotals],
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._service = service
        self._settings = settings
        self._totals = totals
        self.ModelInfer = inference.ModelInfer
        self.ModelStreamInfer = inference.ModelStreamInfer
        for name, why in UNSUPPORTED.items():
            setattr(self, name, _refusal(why))

    def methods(self) -> Iterator[Method]:
        """Every method; both that infer take their calls over."""
        infer = INFERENCE.methods_by_name["ModelInfer"]
        own = Method(f"/{INFERENCE.full_name}/{infer.name}", kind_of(infer), self.ModelInfer)
        for method in methods_of(INFERENCE, self, self._tracer):
            yield own if method.path == own.path else method

    def ServerLive(self, request: service_pb2.ServerLiveRequest) -> service_pb2.ServerLiveResponse:
        return service_pb2.ServerLiveResponse(live=True)

    def ServerReady(self, request: service_pb2.ServerReadyRequest) -> service_pb2.ServerReadyResponse:
        return service_pb2.ServerReadyResponse(ready=not self._service.draining)

    def ModelReady(self, request: service_pb2.ModelReadyRequest) -> service_pb2.ModelReadyResponse:
        try:
            view = self._service.model(request.name, request.version)
        except ModelUnknown:
            return service_pb2.ModelReadyResponse(ready=False)
        return service_pb2.ModelReadyResponse(ready=view.takes_sessions and not self._service.draining)

    def ServerMetadata(self, request: service_pb2.ServerMetadataRequest) -> service_pb2.ServerMetadataResponse:
        control = (CONTROL_EXTENSION,) if self._settings.control is not None else ()
        return service_pb2.ServerMetadataResponse(
            name="ntm-serve", version=ntm_serve.__version__, extensions=(*EXTENSIONS, *control)
        )

    def ModelMetadata(self, request: service_pb2.ModelMetadataRequest) -> service_pb2.ModelMetadataResponse:
        view = self._served(request.name, request.version)
        assert view.model is not None
        return metadata_of(view.model, self._versions(request.name, request.version))

    def ModelConfig(self, request: service_pb2.ModelConfigRequest) -> service_pb2.ModelConfigResponse:
        view = self._served(request.name, request.version)
        assert view.model is not None
        config = config_of(
            view.model,
            self._versions(request.name, request.version),
            idle_life_s=self._settings.idle_life_s,
            sessions_max=self._settings.sessions_max,
        )
        return service_pb2.ModelConfigResponse(config=config)

    def ModelStatistics(self, request: service_pb2.ModelStatisticsRequest) -> service_pb2.ModelStatisticsResponse:
        if request.name:
            self._served(request.name, request.version)
        wanted = [
            view.key
            for view in self._service.models()
            if view.model is not None
            and request.name in ("", view.key.name)
            and request.version in ("", view.key.version)
        ]
        statistics = [statistics_of(key, self._totals(key)) for key in wanted]
        return service_pb2.ModelStatisticsResponse(model_stats=statistics)

    def RepositoryIndex(self, request: service_pb2.RepositoryIndexRequest) -> service_pb2.RepositoryIndexResponse:
        _expect_one_repository(request.repository_name)
        response = service_pb2.RepositoryIndexResponse()
        for view in self._service.models():
            if view.takes_sessions or not request.ready:
                response.models.add(
                    name=view.key.name,
                    version=view.key.version,
                    state="READY" if view.takes_sessions else "UNAVAILABLE",
                    reason="" if view.fault is None else view.fault.message,
                )
        return response

    async def RepositoryModelLoad(
        self, request: service_pb2.RepositoryModelLoadRequest
    ) -> service_pb2.RepositoryModelLoadResponse:
        control = self._control(request.repository_name)
        if request.parameters:
            raise Unsupported(
                f"model {request.model_name}: expected no parameters, got {sorted(request.parameters)}: "
                "a model is what its directory says"
            )
        await control.load(request.model_name)
        return service_pb2.RepositoryModelLoadResponse()

    async def RepositoryModelUnload(
        self, request: service_pb2.RepositoryModelUnloadRequest
    ) -> service_pb2.RepositoryModelUnloadResponse:
        await self._control(request.repository_name).unload(request.model_name)
        return service_pb2.RepositoryModelUnloadResponse()

    def _control(self, repository: str) -> ModelControl:
        _expect_one_repository(repository)
        if self._settings.control is None:
            raise Unsupported(
                "explicit model load / unload is not allowed: start the server with --model-control to allow it"
            )
        return self._settings.control

    def _served(self, name: str, version: str) -> ModelView:
        """Raises ModelUnknown, and the fault of a model that is not served."""
        try:
            view = self._service.model(name, version)
        except ModelUnknown as error:
            raise ModelUnknown(f"Request for unknown model: '{name}' is not found: {error.message}") from None
        if view.model is None and view.fault is not None:
            raise view.fault
        return view

    def _versions(self, name: str, version: str) -> list[str]:
        """Those that are served: all, or the one that was asked for."""
        return [
            view.key.version
            for view in self._service.models()
            if view.model is not None and view.key.name == name and version in ("", view.key.version)
        ]


def _expect_one_repository(name: str) -> None:
    if name:
        raise InvalidInput(f"repository_name: expected none, as there is one repository, got {name!r}")


def _refusal(why: str) -> Callable[[object], service_pb2.LogSettingsResponse]:
    def refuse(_request: object) -> service_pb2.LogSettingsResponse:
        raise Unsupported(why)

    return refuse
