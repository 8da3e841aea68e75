"""The API of the page: docs/http-api.md is its manual, forms.py what it writes.

Rules of this file: who asks is asked first, and sees what its tenant sees over gRPC; what changes anything is refused
unless the server is set to take it; a watch is looked at once more, so that it ends with its caller's token.
"""

import asyncio
import io
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route

from ntm_serve.caller import Caller, Role
from ntm_serve.durability import Durability
from ntm_serve.errors import (
    LIMIT,
    InvalidInput,
    LimitReached,
    ModelUnknown,
    PermissionDenied,
    Unauthenticated,
    Unsupported,
)
from ntm_serve.history import INTERVAL_S, History
from ntm_serve.http.answers import (
    HEADERS,
    EventStream,
    HttpFault,
    answering,
    error_answer,
    event,
    json_answer,
    known_fault,
)
from ntm_serve.http.bodies import BODY_BYTES_MAX, body_of, text_in, whole_in
from ntm_serve.http.forms import (
    PAGE_SIZE_DEFAULT,
    PAGE_SIZE_MAX,
    QUERY_PARAMETERS,
    WISH_PARAMETERS,
    Json,
    arrays_of,
    error_json,
    expect_known,
    frame_json,
    model_json,
    nested,
    point_json,
    query_of,
    session_json,
    token_of,
    whole_of,
    wish_of,
)
from ntm_serve.http.gate import HttpAccess, HttpGate
from ntm_serve.http.server import CONNECTIONS_MAX
from ntm_serve.message import StepRequest
from ntm_serve.picture import PICTURE_STEPS_MAX, Frame
from ntm_serve.service import Service
from ntm_serve.tenancy import Tenancy, TenantService
from ntm_serve.views import ModelView, SessionView
from ntm_serve.watching import (
    COLUMNS_DEFAULT,
    COLUMNS_MAX,
    FRAMES_PER_S_DEFAULT,
    ROWS_DEFAULT,
    ROWS_MAX,
    Wish,
)

PATH = "/api/v1"
# So many elements are written as JSON on the event loop: a millisecond's work or two.
HERE_MAX = 1 << 16
# The rest of the connections is for probes, and for whoever asks once.
WATCHES_MAX = CONNECTIONS_MAX // 2
# How often it is asked again whether who watches still may.
ASK_AGAIN_S = 2.0


@dataclass(frozen=True, slots=True)
class ApiFacts:
    """What the API tells of its server; see the settings of the same names. durability: of sessions that are opened
    without one. started_at_s: Unix seconds.
    """

    version: str
    writes_allowed: bool
    durability: Durability
    started_at_s: float
    frames_per_s_max: float
    watches_max: int
    steps_per_message_max: int


class Api:
    """What is at /api/v1."""

    def __init__(
        self, tenancy: Tenancy, gate: HttpGate, facts: ApiFacts, history: History, *, is_ready: Callable[[], bool]
    ) -> None:
        self._tenancy = tenancy
        self._gate = gate
        self._facts = facts
        self._history = history
        self._is_ready = is_ready
        self._watches = 0

    def routes(self) -> Sequence[BaseRoute]:
        one = f"{PATH}/sessions/{{session_id}}"
        return (
            Route(f"{PATH}/server", self.server),
            Route(f"{PATH}/models", self.models),
            Route(f"{PATH}/sessions", self.sessions),
            Route(one, self.session),
            Route(f"{one}/state", self.state),
            Route(f"{one}/watch", self.watch),
            Route(f"{one}/snapshot", self.snapshot),
            Route(f"{one}/fork", self.fork, methods=["POST"]),
            Route(f"{one}/steps", self.steps, methods=["POST"]),
            Route(f"{PATH}/{{path:path}}", self.nothing, methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        )

    # Reading

    @answering
    async def server(self, request: Request) -> Response:
        self._gate.expect_ours(request.headers)
        access, facts = self._gate.access, self._facts
        asked = access is HttpAccess.OPEN or "authorization" in request.headers
        caller = self._gate.caller_of(request.headers) if asked and access is not HttpAccess.CLOSED else None
        expect_known(request.query_params, ())
        told: Json = {"api_version": 1, "access": access.value, "ready": self._is_ready(), "caller": None}
        beyond = ("version", "writes_allowed", "has_store", "durability", "started_at_s", "limits")
        if caller is None:
            return json_answer({**told, **dict.fromkeys(beyond)})
        roles = sorted(role.value for role in caller.roles)
        return json_answer(
            {
                **told,
                "caller": {"name": caller.name, "tenant": caller.tenant, "roles": roles},
                "version": facts.version,
                "writes_allowed": facts.writes_allowed,
                "has_store": self._tenancy.service.has_store,
                "durability": facts.durability.value,
                "started_at_s": facts.started_at_s,
                "limits": {
                    "frames_per_s_max": facts.frames_per_s_max,
                    "frames_per_s_default": min(FRAMES_PER_S_DEFAULT, facts.frames_per_s_max),
                    "rows_max": ROWS_MAX,
                    "rows_default": ROWS_DEFAULT,
                    "columns_max": COLUMNS_MAX,
                    "columns_default": COLUMNS_DEFAULT,
                    "picture_steps_max": PICTURE_STEPS_MAX,
                    "watches_max": facts.watches_max,
                    "page_size_max": PAGE_SIZE_MAX,
                    "page_size_default": PAGE_SIZE_DEFAULT,
                    "steps_per_message_max": facts.steps_per_message_max,
                    "body_bytes_max": BODY_BYTES_MAX,
                },
            }
        )

    @answering
    async def models(self, request: Request) -> Response:
        service, caller = self._enter(request)
        # What is counted is of every tenant.
        may_count = not caller.roles.isdisjoint({Role.METRICS, Role.ADMIN})
        models = [self._counted(view, may_count=may_count) for view in service.models()]
        return json_answer({"series_interval_s": INTERVAL_S, "models": models})

    def _counted(self, view: ModelView, *, may_count: bool) -> Json:
        history = self._history
        return {
            **model_json(view),
            "steps": history.steps(view.key) if may_count else None,
            "series": [point_json(one) for one in history.points(view.key)] if may_count else None,
        }

    @answering
    async def sessions(self, request: Request) -> Response:
        service, _ = self._enter(request, *QUERY_PARAMETERS)
        views, last, complete = await service.find_sessions(query_of(request.query_params))
        return json_answer(
            {
                "sessions": [session_json(view) for view in views],
                "next_page_token": None if last is None else token_of(last),
                "complete": complete,
            }
        )

    @answering
    async def session(self, request: Request) -> Response:
        service, _ = self._enter(request)
        return json_answer(session_json(await service.get_session(_id_of(request))))

    @answering
    async def state(self, request: Request) -> Response:
        service, _ = self._enter(request, *WISH_PARAMETERS, "format")
        session_id, wish = _id_of(request), wish_of(request.query_params)
        form = request.query_params.get("format", "json")
        if form == "json":
            return json_answer(frame_json(await service.look(session_id, wish)))
        if form != "npz":
            raise InvalidInput(f"format: expected json or npz, got {form!r}")
        next_step, state = await service.look_whole(session_id, wish.tensors)
        archive = await asyncio.to_thread(_npz, {**state, "next_step": np.int64(next_step)})
        return _file(archive, f"{session_id}-{next_step}.npz")

    @answering
    async def watch(self, request: Request) -> Response:
        service, caller = self._enter(request, *WISH_PARAMETERS, "frames_per_s")
        session_id, wish = _id_of(request), wish_of(request.query_params)
        events = self._events(service, session_id, wish, request, caller)
        # So that what cannot be watched is an answer with a status.
        first = await anext(events)
        return EventStream(_again(first, events))

    async def _events(
        self, service: Service | TenantService, session_id: str, wish: Wish, request: Request, caller: Caller
    ) -> AsyncGenerator[bytes, None]:
        """The first two together. Raises what the first raises; what comes later is the last event."""
        if self._watches >= WATCHES_MAX:
            wrong = f"watch: expected at most {WATCHES_MAX} at once over HTTP"
            raise LimitReached(wrong, fields={LIMIT: "http_watches_max"})
        self._watches += 1
        try:
            async with aclosing(self._seen(service, session_id, wish, request, caller)) as events:
                async for one in events:
                    yield one
        finally:
            self._watches -= 1

    async def _seen(
        self, service: Service | TenantService, session_id: str, wish: Wish, request: Request, caller: Caller
    ) -> AsyncGenerator[bytes, None]:
        async with aclosing(service.watch(session_id, wish)) as seen:
            begun = self._begun(service, await anext(seen), wish)
            yield begun + await _seen_event(await anext(seen))
            asked_s = time.monotonic()
            try:
                async for one in seen:
                    if time.monotonic() - asked_s > ASK_AGAIN_S:
                        asked_s = time.monotonic()
                        if self._gate.caller_of(request.headers) != caller:
                            raise Unauthenticated("watch: what its caller may has changed; begin another")
                    yield await _seen_event(one)
            except Exception as fault:
                yield event("end", {"error": error_json(known_fault(request.url.path, fault))})

    def _begun(self, service: Service | TenantService, view: Any, wish: Wish) -> bytes:
        frames_per_s, grid = service.grant(wish)
        return event(
            "begun",
            {
                "session": session_json(view),
                "model": model_json(service.model(*view.model)),
                "frames_per_s": frames_per_s,
                "rows_max": grid.rows_max,
                "columns_max": grid.columns_max,
                "reduction": grid.reduction.value,
            },
        )

    @answering
    async def snapshot(self, request: Request) -> Response:
        service, _ = self._enter(request, "step")
        session_id = _id_of(request)
        step, snapshot = await service.snapshot_session(session_id, whole_of(request.query_params, "step", None))
        return _file(snapshot, f"{session_id}-{step}.snapshot", **{"x-ntm-step": str(step)})

    # Writing

    @answering
    async def fork(self, request: Request) -> Response:
        service = self._enter_to_write(request)
        said = await body_of(request, {"fork_session_id", "step", "durability"})
        durability = text_in(said, "durability")
        if durability is not None and durability not in list(Durability):
            raise InvalidInput(f"durability: expected {', '.join(Durability)}, got {durability!r}")
        view = await service.fork_session(
            _id_of(request),
            fork_id=text_in(said, "fork_session_id"),
            step=whole_in(said, "step"),
            durability=None if durability is None else Durability(durability),
        )
        return json_answer(session_json(view), status=201)

    @answering
    async def steps(self, request: Request) -> Response:
        service = self._enter_to_write(request)
        said, session_id = await body_of(request, {"inputs", "first_step"}), _id_of(request)
        view = await service.get_session(session_id)
        served = service.model(*view.model)
        model = served.model
        if model is None:
            raise ModelUnknown(f"model {served.key}: is not served here, and session {session_id} makes no steps")
        inputs = arrays_of(model.spec.inputs, said.get("inputs"))
        first_step = whole_in(said, "first_step")
        submission = await service.step(StepRequest([session_id], [first_step], inputs, ()))
        if submission.errors:
            raise submission.errors[0]
        next_step = submission.next_steps[0]
        outputs = {spec.name: array[0] for spec, array in submission.outputs()}
        return json_answer(
            {
                "first_step": next_step - submission.timeline().steps if first_step is None else first_step,
                "next_step": next_step,
                "durable_step": submission.durable_steps[0],
                "outputs": {name: nested(array) for name, array in outputs.items()},
            }
        )

    @answering
    async def nothing(self, request: Request) -> Response:
        for route in self.routes()[:-1]:
            if isinstance(route, Route) and route.matches(request.scope)[0] is Match.PARTIAL:
                methods = ", ".join(sorted(route.methods or ()))
                refused = Unsupported(f"{request.url.path}: expected {methods}, got {request.method}")
                return error_answer(HttpFault(405, refused), allow=methods)
        return error_answer(
            HttpFault(404, Unsupported(f"path: expected one of docs/http-api.md, got {request.url.path}"))
        )

    # Who asks

    def _enter(self, request: Request, *parameters: str) -> tuple[Service | TenantService, Caller]:
        """The service as whoever asks sees it. parameters: of the query, that there may be. Raises Unauthenticated,
        PermissionDenied, InvalidInput.
        """
        caller = self._gate.caller_of(request.headers)
        expect_known(request.query_params, parameters)
        return self._tenancy.of(caller.tenant), caller

    def _enter_to_write(self, request: Request) -> Service | TenantService:
        service, _ = self._enter(request)
        if not self._facts.writes_allowed:
            raise PermissionDenied("writes: this server takes none over HTTP; --inspector write lets it")
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise HttpFault(415, InvalidInput("content-type: expected application/json"))
        return service


def _id_of(request: Request) -> str:
    session_id: str = request.path_params["session_id"]
    return session_id


async def _seen_event(seen: Frame | SessionView) -> bytes:
    if not isinstance(seen, Frame):
        return event("session", session_json(seen))
    if seen.elements <= HERE_MAX:
        return _frame_event(seen)
    return await asyncio.to_thread(_frame_event, seen)


def _frame_event(frame: Frame) -> bytes:
    return event("frame", frame_json(frame))


async def _again(first: bytes, events: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(events):
        yield first
        async for one in events:
            yield one


def _npz(arrays: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _file(content: bytes, name: str, **headers: str) -> Response:
    # A session's name has no character that would have to be quoted.
    disposition = {"content-disposition": f'attachment; filename="{name}"'}
    return Response(content, headers={**HEADERS, **disposition, **headers}, media_type="application/octet-stream")
