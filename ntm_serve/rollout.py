"""Rollout: follows a model repository while the server runs.

Rules of this file: a version that appears is loaded beside the others and takes the new sessions; one that is taken
out takes no more, and is unloaded after its last session; what cannot be loaded takes nothing from what is served.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from ntm_serve.errors import ModelRejected, ModelUnknown, NtmServeError, OperatorFault, SettingsFault
from ntm_serve.manifest import MANIFEST_FILE
from ntm_serve.repository import Found, find_models
from ntm_serve.service import Service
from ntm_serve.step_model import ModelKey, StepModel

log = structlog.get_logger()


class Rollout:
    """Whoever makes it owns `run`."""

    def __init__(
        self,
        repository: Path,
        service: Service,
        *,
        load: Callable[[Found], StepModel],
        begin: Callable[[StepModel, float], None],
        end: Callable[[ModelKey], None],
    ) -> None:
        """load: on a thread; raises OperatorFault. begin: have a model served that took so many seconds to load. end:
        have one served no more.
        """
        self._repository = repository
        self._service = service
        self._load = load
        self._begin = begin
        self._end = end
        self._leaving: set[ModelKey] = set()
        # Models that were unloaded by name, and stay so until they are loaded by name.
        self._unloaded: set[str] = set()
        # One at a time: each awaits between what it found and what it does about it.
        self._turn = asyncio.Lock()
        # When a file of a version was last written: with what was seen of it nothing is tried again.
        self._seen: dict[ModelKey, float] = {key: written for key, (_, written) in (self._found() or {}).items()}

    async def run(self, every_s: float) -> None:
        """Look again and again, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            try:
                await self.look()
            except (NtmServeError, OSError) as fault:  # A store or a file system that does not answer: the next time.
                log.warning("the repository was not looked through", fault=str(fault))

    async def load(self, name: str) -> None:
        """Serve every version of a model in the repository, also one that was unloaded. Raises ModelUnknown where there
        is none, and the fault of one that cannot be served.
        """
        async with self._turn:
            found = await asyncio.to_thread(self._found) or {}
            named = {key: there for key, there in found.items() if key.name == name}
            if not named:
                raise ModelUnknown(f"failed to load '{name}': expected a model of the repository")
            self._unloaded.discard(name)
            for key, (one, written) in named.items():
                self._seen[key] = written
                if key not in self._served() or key in self._leaving:
                    await self._add(one)
            faults = [view.fault for view in self._service.models() if view.key in named and view.fault is not None]
            if faults:
                raise faults[0]

    async def unload(self, name: str) -> None:
        """Take no new session of a model; it leaves memory with its last. Raises ModelUnknown."""
        async with self._turn:
            views = [view for view in self._service.models() if view.key.name == name]
            if not views:
                raise ModelUnknown(f"failed to unload '{name}': expected a model of the repository")
            self._unloaded.add(name)
            for view in views:
                if view.model is not None:
                    self._leaving.add(view.key)
                    self._service.fault_model(view.key, _unloaded(view.key))
            await self._let_leave()

    async def look(self) -> None:
        """Load what is new, let go what is gone."""
        async with self._turn:
            await self._look()

    async def _look(self) -> None:
        found = await asyncio.to_thread(self._found)
        if found is None:  # No folder, for now: what is served is served on.
            return
        for key, (one, written) in found.items():
            if self._seen.get(key) == written or key.name in self._unloaded:
                continue
            self._seen[key] = written
            if key in self._served() and key not in self._leaving:
                log.warning("a version is what it was: give what changed a number of its own", model=str(key))
            else:
                await self._add(one)
        for view in self._service.models():
            if view.key not in found and view.key in self._seen:
                self._let_go(view.key, is_served=view.model is not None)
        await self._let_leave()

    async def _let_leave(self) -> None:
        """Those whose last session is over leave memory."""
        for key in list(self._leaving):
            if not await self._service.is_used(key):
                self._leaving.discard(key)
                self._service.remove_model(key)
                self._end(key)
                written = self._seen.pop(key, None)  # What is there under its number now may be served.
                if key.name in self._unloaded and written is not None:
                    self._service.fault_model(key, _unloaded(key))
                    self._seen[key] = written
                log.info("model is unloaded", model=str(key))

    async def _add(self, found: Found) -> None:
        started_s, key = time.perf_counter(), found.key
        try:
            model = await asyncio.to_thread(self._load, found)
            if key in self._leaving and self._service.model(*key).model is not None:
                self._take_back(key, model)
                return
        except OperatorFault as fault:
            self._service.fault_model(key, fault)
        else:
            self._begin(model, time.perf_counter() - started_s)

    def _take_back(self, key: ModelKey, model: StepModel) -> None:
        """It is back before its last session ended. Raises ModelRejected where it is not what it was."""
        served = self._service.model(*key).model
        if served is not None and served.card.digest != model.card.digest:
            raise ModelRejected(f"model {key}: came back with other content, and has sessions of what it was")
        self._leaving.discard(key)
        self._service.offer_model(key)
        log.info("model takes sessions again", model=str(key))

    def _let_go(self, key: ModelKey, *, is_served: bool) -> None:
        del self._seen[key]
        if not is_served:
            self._service.remove_model(key)
            return
        self._leaving.add(key)
        fault = ModelRejected(f"model {key}: was taken out of the repository; it serves the sessions that it has")
        self._service.fault_model(key, fault)
        log.info("model takes no more sessions", model=str(key))

    def _served(self) -> set[ModelKey]:
        return {view.key for view in self._service.models() if view.model is not None}

    def _found(self) -> dict[ModelKey, tuple[Found, float]] | None:
        """The versions in the repository that have a manifest, and when a file of each was last written; None where
        there is no repository. One that is being copied fails, and is tried again when more of it is there.
        """
        if not self._repository.is_dir():
            return None
        try:
            all_found = find_models(self._repository)
        except SettingsFault:
            return {}
        found: dict[ModelKey, tuple[Found, float]] = {}
        for one in all_found:
            try:
                if (one.path / MANIFEST_FILE).exists():
                    found[one.key] = one, max(file.stat().st_mtime for file in one.path.iterdir())
            except OSError:
                continue
        return found


def _unloaded(key: ModelKey) -> ModelRejected:
    return ModelRejected(f"model {key}: was unloaded; load it to have it served")
