"""Who looks at which session, and what they are told of it. No clock, no task, no socket.

Rules of this file: a session that nobody looks at knows of nobody; whoever looks is told that something changed and not
what, because the state is a value, to be taken when it is wanted; a viewer outlives the session in memory, and finds it
again when it comes back.
"""

from collections.abc import Callable, Iterator

from ntm_serve.errors import LIMIT, LimitReached, NtmServeError, StepAborted


class Viewer:
    """One that looks at a session."""

    __slots__ = ("_over", "_wake", "away", "commits", "entries", "fault", "session_id")

    def __init__(self, session_id: str, wake: Callable[[], None], over: Callable[[], None]) -> None:
        """wake: told that something changed. over: told that there is nothing to be seen any more."""
        self.session_id = session_id
        self._wake = wake
        self._over = over
        # Messages that became the session's since it was last looked at.
        self.commits = 0
        # How often it came into memory.
        self.entries = 0
        # Whether the session has left memory, and did not come back.
        self.away = False
        # Why there is nothing to be seen any more.
        self.fault: NtmServeError | None = None

    def stepped(self) -> None:
        """A message became the session's."""
        self.commits += 1
        self._wake()

    def entered(self) -> None:
        """The session is in memory again, or another took its place."""
        self.away = False
        self.entries += 1
        self._wake()

    def left(self, fault: NtmServeError | None) -> None:
        """The session is not in memory any more. fault: what it ended with."""
        self.away = True
        # Where it merely rests, or is made anew as when it is rewound, there is more to come.
        if fault is not None and not isinstance(fault, StepAborted):
            self.end(fault)
        self._wake()

    def end(self, fault: NtmServeError) -> None:
        """There is nothing to be seen any more."""
        self.fault = self.fault or fault
        self._over()
        self._wake()


class Watch:
    """Those who look at one session."""

    __slots__ = ("viewers",)

    def __init__(self) -> None:
        self.viewers: list[Viewer] = []

    def stepped(self) -> None:
        """On the path of a step, where anybody looks."""
        for viewer in self.viewers:
            viewer.stepped()

    def entered(self) -> None:
        for viewer in self.viewers:
            viewer.entered()

    def left(self, fault: NtmServeError | None) -> None:
        for viewer in self.viewers:
            viewer.left(fault)


class Watches:
    """All of a server's, by the key of the session."""

    def __init__(self, viewers_max: int) -> None:
        self._viewers_max = viewers_max
        self._watches: dict[str, Watch] = {}
        self._viewers = 0
        # Asked when a session enters memory.
        self.of = self._watches.get

    def __len__(self) -> int:
        """How many look."""
        return self._viewers

    def __iter__(self) -> Iterator[Viewer]:
        for watch in self._watches.values():
            yield from watch.viewers

    def expect_room(self) -> None:
        """Refuse one more. Raises LimitReached."""
        if self._viewers >= self._viewers_max:
            wrong = f"watch: expected at most {self._viewers_max} at once, of the whole server"
            raise LimitReached(wrong, fields={LIMIT: "watches_max"})

    def join(self, viewer: Viewer) -> Watch:
        """The viewer is told from now on; after `expect_room`."""
        watch = self._watches.setdefault(viewer.session_id, Watch())
        watch.viewers.append(viewer)
        self._viewers += 1
        return watch

    def leave(self, viewer: Viewer) -> bool:
        """The viewer is told no more; whether it was the last of its session."""
        watch = self._watches[viewer.session_id]
        watch.viewers.remove(viewer)
        self._viewers -= 1
        if not watch.viewers:
            del self._watches[viewer.session_id]
        return not watch.viewers
