"""The aio client behind the interface of the sync one, so that one contract suite is run on both."""

import asyncio
import threading

from ntm_serve.client import AsyncClient

WAIT_S = 30.0


class BlockingClient:
    """An AsyncClient on an event loop of its own thread."""

    def __init__(self, target, **options):
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="aio-client")
        self._thread.start()
        self._client = self.run(self._made(target, options))
        # Which end with the client, as they end by themselves with a session alone.
        self._watching = []

    @staticmethod
    async def _made(target, options):
        return AsyncClient(target, **options)

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(_awaited(coroutine), self._loop).result(WAIT_S)

    def each(self, generator):
        try:
            while True:
                try:
                    yield self.run(anext(generator))
                except StopAsyncIteration:
                    return
        finally:
            self.run(generator.aclose())

    def __enter__(self):
        return self

    def __exit__(self, *fault):
        self.close()

    def close(self):
        for watching in self._watching:
            watching.close()
        self.run(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def models(self):
        return self.run(self._client.models())

    def model(self, name, version=""):
        return self.run(self._client.model(name, version))

    def sessions(self, model=""):
        return self.each(self._client.sessions(model))

    def session_info(self, session_id):
        return self.run(self._client.session_info(session_id))

    def watch(self, session_id, *tensors, **options):
        watching = self.each(self._client.watch(session_id, *tensors, **options))
        self._watching.append(watching)
        return watching

    def close_session(self, session_id):
        return self.run(self._client.close_session(session_id))

    def snapshot(self, session_id, **options):
        return self.run(self._client.snapshot(session_id, **options))

    def restore(self, snapshot, **options):
        return BlockingSession(self, self.run(self._client.restore(snapshot, **options)))

    def fork(self, session_id, *fork_id, **options):
        return BlockingSession(self, self.run(self._client.fork(session_id, *fork_id, **options)))

    def rewind(self, session_id, step):
        return self.run(self._client.rewind(session_id, step))

    def session(self, model, **options):
        return BlockingSession(self, self.run(self._client.session(model, **options)))

    def group(self, model, **options):
        return BlockingGroup(self, self.run(self._made_group(model, options)))

    async def _made_group(self, model, options):
        return self._client.group(model, **options)


class BlockingGroup:
    """An AsyncGroup, called from a thread."""

    def __init__(self, client, group):
        self._client = client
        self._group = group

    def __len__(self):
        return len(self._group)

    def __contains__(self, key):
        return key in self._group

    def __enter__(self):
        return self

    def __exit__(self, *fault):
        self._client.run(self._group.__aexit__(*fault))

    def next_steps(self):
        return self._group.next_steps()

    def open(self, keys):
        return self._client.run(self._group.open(keys))

    def step(self, xs, **options):
        return self._client.run(self._group.step(xs, **options))

    def step_rows(self, keys, x, **options):
        return self._client.run(self._group.step_rows(keys, x, **options))

    def stream(self, rounds, **options):
        return self._client.each(self._group.stream(rounds, **options))

    def stream_rows(self, rounds, **options):
        return self._client.each(self._group.stream_rows(rounds, **options))

    def forget(self, keys):
        return self._client.run(self._group.forget(keys))

    def close(self, keys=None):
        return self._client.run(self._group.close(keys))


class BlockingSession:
    """An AsyncSession, called from a thread."""

    def __init__(self, client, session):
        self.__dict__.update(_client=client, _session=session)

    def __getattr__(self, name):
        return getattr(self._session, name)

    def __setattr__(self, name, value):
        setattr(self._session, name, value)

    def __enter__(self):
        return self

    def __exit__(self, *fault):
        self._client.run(self._session.__aexit__(*fault))

    def step(self, x, **options):
        return self._client.run(self._session.step(x, **options))

    def snapshot(self, **options):
        return self._client.run(self._session.snapshot(**options))

    def fork(self, *session_id, **options):
        return BlockingSession(self._client, self._client.run(self._session.fork(*session_id, **options)))

    def rewind(self, step):
        return self._client.run(self._session.rewind(step))

    def stream(self, xs, **options):
        return self._client.each(self._session.stream(xs, **options))

    def info(self):
        return self._client.run(self._session.info())

    def state(self, *names):
        return self._client.run(self._session.state(*names))

    def close(self):
        return self._client.run(self._session.close())


async def _awaited(it):
    return await it
