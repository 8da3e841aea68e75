"""A store in memory that does what stores do on bad days: says nothing, loses answers, takes its time."""

import threading
from collections import Counter
from contextlib import contextmanager

from ntm_serve.errors import StoreUnavailable
from ntm_serve.stores.memory import MemoryStore

# A test that forgets to let a call go on fails rather than hanging.
HELD_MAX_S = 30.0

ASKED = (
    "keep_alive", "create", "restart", "claim", "wanted", "commit", "sync", "release", "end", "read", "list", "expire",
    "forget",
)  # fmt: skip


class Held:
    """A method whose calls wait at its door."""

    def __init__(self):
        self._arrived = threading.Semaphore(0)
        self._open = threading.Event()

    def wait(self):
        self._arrived.release()
        if not self._open.wait(HELD_MAX_S):
            raise TimeoutError("held: expected to be let go")

    def await_call(self):
        if not self._arrived.acquire(timeout=HELD_MAX_S):
            raise TimeoutError("held: expected a call")

    def let_go(self):
        self._open.set()


class FaultyStore(MemoryStore):
    """local: whether the event loop writes itself. down: no method answers, nor does anything. fails, loses: how many
    of a method's next calls do not answer: having done nothing, or all.
    """

    def __init__(self, *, local=True):
        super().__init__()
        self.local = local
        self.down = False
        self.fails = Counter()
        self.loses = Counter()
        self.calls = Counter()
        self._held = {}

    @property
    def is_local(self):
        return self.local

    @contextmanager
    def held(self, name):
        """Calls of this method wait until the block is left; only where no call is made on the event loop."""
        held = self._held[name] = Held()
        try:
            yield held
        finally:
            del self._held[name]
            held.let_go()

    def ask(self, name, method, *args, **more):
        self.calls[name] += 1
        if name in self._held:
            self._held[name].wait()
        if self.down or self.fails[name] > 0:
            self.fails[name] -= not self.down
            raise StoreUnavailable(f"store: {name}: no answer")
        answer = method(self, *args, **more)
        if self.loses[name] > 0:
            self.loses[name] -= 1
            raise StoreUnavailable(f"store: {name}: the answer was lost")
        return answer


def _asking(name):
    method = getattr(MemoryStore, name)

    def ask(self, *args, **more):
        return self.ask(name, method, *args, **more)

    return ask


for _name in ASKED:
    setattr(FaultyStore, _name, _asking(_name))
