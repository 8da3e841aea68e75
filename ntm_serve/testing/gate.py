"""A gate before the engine: a test decides when a run begins."""

import threading

# A gate that nobody opens fails its test rather than hanging it.
WAIT_S = 30.0


class Gate:
    """For `RunningSum(before_run=gate)`: holds every run until it is let through."""

    def __init__(self) -> None:
        self._permits = threading.Semaphore(0)
        self._arrived = threading.Semaphore(0)
        self._open = False

    def __call__(self, _rows: int) -> None:
        self._arrived.release()
        if not self._open and not self._permits.acquire(timeout=WAIT_S):
            raise TimeoutError(f"gate: expected to be opened within {WAIT_S:g} s")

    def await_run(self) -> None:
        """Until one more run has reached the gate."""
        if not self._arrived.acquire(timeout=WAIT_S):
            raise TimeoutError(f"gate: expected a run within {WAIT_S:g} s")

    def let_through(self, runs: int) -> None:
        """Let that many runs begin."""
        self._permits.release(runs)

    def open(self) -> None:
        """Hold nothing any more."""
        self._open = True
        # One for the run that may have been on its way past the mark; there is one scheduler, so one such run.
        self._permits.release()
