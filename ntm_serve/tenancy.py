"""Tenancy: the service as one tenant sees it, and as whoever runs the server does.

Rules of this file: names become keys here (of steps in service.py) and keys become names again, and nowhere else; what
is another tenant's is not refused but unknown, in the same words and by the same way as what never was; where nobody
counts and nobody is asked who calls, callers have the service itself.
"""

import secrets
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import replace

from ntm_serve.caller import AFTER_MARK, MARK, as_told, key_of, keys_of, parted
from ntm_serve.durability import Durability
from ntm_serve.errors import NtmServeError
from ntm_serve.message import StepRequest
from ntm_serve.picture import Frame
from ntm_serve.search import Place, Query
from ntm_serve.service import ModelView, Service, SessionView
from ntm_serve.spec import Array
from ntm_serve.stateless import InferRequest
from ntm_serve.step_model import ModelKey, StepModel
from ntm_serve.submission import Reply, Submission
from ntm_serve.tenants import NO_LIMITS, Account, Accounts, TenantLimits
from ntm_serve.watching import Granted, Wish


class TenantService:
    """One tenant's. Its methods are those of `Service`, and raise what those raise."""

    def __init__(self, service: Service, account: Callable[[], Account], tenant: str) -> None:
        """account: the tenant's, as it is when it is asked for."""
        self._service = service
        self._account = account
        self._tenant = tenant

    @property
    def limits(self) -> TenantLimits:
        """The tenant's."""
        return self._account().limits

    @property
    def draining(self) -> bool:
        return self._service.draining

    @property
    def held_s(self) -> float:
        """For how long the tenant is at a limit."""
        return self._account().held_s

    def models(self) -> list[ModelView]:
        """See Service.models; the sessions are the tenant's in this server's memory."""
        return [self._counted(view) for view in self._service.models()]

    def model(self, name: str, version: str = "") -> ModelView:
        """See Service.model."""
        return self._counted(self._service.model(name, version))

    async def open_session(
        self,
        model_name: str,
        version: str = "",
        *,
        session_id: str | None = None,
        resume: bool = False,
        durability: Durability | None = None,
        initial_state: Mapping[str, Array] | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> SessionView:
        """See Service.open_session."""
        with self._telling():
            return told(
                await self._service.open_session(
                    model_name,
                    version,
                    session_id=self._new_key(session_id),
                    resume=resume,
                    durability=durability,
                    initial_state=initial_state,
                    sizes=sizes,
                )
            )

    async def get_session(self, session_id: str) -> SessionView:
        """See Service.get_session."""
        with self._telling():
            return told(await self._service.get_session(self._key(session_id)))

    async def get_state(self, session_id: str, names: Sequence[str]) -> tuple[SessionView, dict[str, Array]]:
        """See Service.get_state."""
        with self._telling():
            view, state = await self._service.get_state(self._key(session_id), names)
        return told(view), state

    async def list_sessions(self, *, model_name: str = "", after: str = "", page_size: int = 100) -> list[SessionView]:
        """See Service.list_sessions."""
        views: list[SessionView] = []
        after = place_of(self._tenant, after)
        with self._telling():
            while len(views) < page_size:
                page = await self._service.list_sessions(
                    model_name=model_name, after=after, page_size=page_size, tenant=self._tenant
                )
                for view in page:
                    tenant, _ = parted(view.session_id)
                    if tenant == self._tenant:
                        views.append(told(view))
                    elif self._tenant:  # Its own stand side by side.
                        return views
                    after = view.session_id if tenant == self._tenant else f"{tenant}{AFTER_MARK}"
                if len(page) < page_size:
                    break
        return views[:page_size]

    async def find_sessions(self, query: Query) -> tuple[list[SessionView], Place | None, bool]:
        """See Service.find_sessions; prefix and places are of names."""
        after = query.after
        if after is not None:
            after = Place(after.value, place_of(self._tenant, after.key))
        theirs = replace(query, prefix=place_of(self._tenant, query.prefix), after=after, tenant=self._tenant)
        with self._telling():
            views, last, complete = await self._service.find_sessions(theirs)
        if last is not None:
            last = Place(last.value, parted(last.key)[1])
        return [told(view) for view in views], last, complete

    async def close_session(self, session_id: str) -> SessionView:
        """See Service.close_session."""
        with self._telling():
            return told(await self._service.close_session(self._key(session_id)))

    async def snapshot_session(self, session_id: str, step: int | None = None) -> tuple[int, bytes]:
        """See Service.snapshot_session. The bytes have the session's name, and not whose it is."""
        with self._telling():
            return await self._service.snapshot_session(self._key(session_id), step, named=session_id)

    async def restore_session(
        self, snapshot: bytes, *, session_id: str | None = None, durability: Durability | None = None
    ) -> SessionView:
        """See Service.restore_session. Whoever has the bytes may: they have the state, for all to read."""
        with self._telling():
            key = self._new_key(session_id)
            return told(await self._service.restore_session(snapshot, session_id=key, durability=durability))

    async def fork_session(
        self,
        session_id: str,
        *,
        fork_id: str | None = None,
        step: int | None = None,
        durability: Durability | None = None,
    ) -> SessionView:
        """See Service.fork_session."""
        with self._telling():
            key, fork = self._key(session_id), self._new_key(fork_id)
            return told(await self._service.fork_session(key, fork_id=fork, step=step, durability=durability))

    async def rewind_session(self, session_id: str, step: int) -> SessionView:
        """See Service.rewind_session."""
        with self._telling():
            return told(await self._service.rewind_session(self._key(session_id), step))

    def grant(self, wish: Wish) -> Granted:
        """See Service.grant."""
        return self._service.grant(wish)

    async def look(self, session_id: str, wish: Wish) -> Frame:
        """See Service.look."""
        with self._telling():
            return await self._service.look(self._key(session_id), wish)

    async def look_whole(self, session_id: str, tensors: Sequence[str]) -> tuple[int, dict[str, Array]]:
        """See Service.look_whole."""
        with self._telling():
            return await self._service.look_whole(self._key(session_id), tensors)

    async def watch(self, session_id: str, wish: Wish) -> AsyncGenerator[Frame | SessionView, None]:
        """See Service.watch."""
        with self._telling():
            async with aclosing(self._service.watch(self._key(session_id), wish)) as seen:
                async for one in seen:
                    yield one if isinstance(one, Frame) else told(one)

    def submit(self, request: StepRequest, reply: Reply, *, tag: int = 0, together: bool = True) -> Submission:
        """See Service.submit."""
        return self._service.submit(request, reply, tag=tag, together=together, account=self._account())

    async def step(self, request: StepRequest, *, tag: int = 0) -> Submission:
        """See Service.step."""
        return await self._service.step(request, tag=tag, account=self._account())

    def submit_rows(self, request: InferRequest, reply: Reply, *, tag: int = 0) -> Submission:
        """See Service.submit_rows."""
        return self._service.submit_rows(request, reply, tag=tag, account=self._account())

    async def infer(self, request: InferRequest) -> dict[str, Array]:
        """See Service.infer."""
        return await self._service.infer(request, account=self._account())

    # What sequences ask beside

    async def wake_session(self, session_id: str) -> None:
        """See Service.wake_session."""
        with self._telling():
            await self._service.wake_session(self._key(session_id))

    @property
    def has_store(self) -> bool:
        """See Service.has_store."""
        return self._service.has_store

    def begin_here(self, session_id: str, model_name: str, version: str = "") -> bool:
        """See Service.begin_here."""
        with self._telling():
            return self._service.begin_here(self._new_key(session_id), model_name, version)

    def end_here(self, session_id: str) -> bool:
        """See Service.end_here."""
        return self._service.end_here(self._key(session_id))

    def model_here(self, session_id: str) -> StepModel | None:
        """See Service.model_here."""
        return self._service.model_here(self._key(session_id))

    def expect_readable(self, request: StepRequest, model: StepModel) -> None:
        """See Service.expect_readable."""
        self._service.expect_readable(request, model, account=self._account())

    def count_restart(self, model: ModelKey) -> None:
        """See Service.count_restart."""
        self._service.count_restart(model)

    async def until_answered(self, session_id: str) -> None:
        """See Service.until_answered."""
        await self._service.until_answered(self._key(session_id))

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Errors go on in the tenant's words."""
        try:
            yield
        except NtmServeError as error:
            raise as_told(error, self._tenant) from error

    def _new_key(self, name: str | None) -> str:
        return key_of(self._tenant, secrets.token_hex(16) if name is None else name)

    def _key(self, name: str) -> str:
        """Of a session that should be there."""
        return keys_of(self._tenant, [name])[0]

    def _counted(self, view: ModelView) -> ModelView:
        return view if view.model is None else view._replace(sessions=self._account().sessions_by_model[view.key])


class Tenancy:
    """Who gets which service."""

    def __init__(self, service: Service, accounts: Accounts | None) -> None:
        """accounts: None where there is one tenant, and nothing to count."""
        self.service = service
        self._accounts = accounts

    def of(self, tenant: str) -> "Service | TenantService":
        """The service as that tenant sees it."""
        accounts = self._accounts
        if accounts is None:
            return self.service
        return TenantService(self.service, lambda: accounts.of(tenant), tenant)

    def limits_of(self, tenant: str) -> TenantLimits:
        """What that tenant may use."""
        return NO_LIMITS if self._accounts is None else self._accounts.of(tenant).limits

    async def list_all(self, *, model_name: str = "", after: str = "", page_size: int = 100) -> list[SessionView]:
        """Open sessions of every tenant, in the order of tenants and names, those after a place in that order."""
        views = await self.service.list_sessions(model_name=model_name, after=after, page_size=page_size)
        return [told(view) for view in views]


def place_of(tenant: str, name: str) -> str:
    """Where a session stands in the order of tenants and names."""
    return f"{tenant}{MARK}{name}" if tenant else name


def told(view: SessionView) -> SessionView:
    """A session by its name, and whose it is."""
    tenant, name = parted(view.session_id)
    return view._replace(session_id=name, tenant=tenant)
