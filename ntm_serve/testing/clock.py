"""A clock that stands still until it is moved."""


class ManualClock:
    """Call it for the time in seconds."""

    def __init__(self, now_s: float = 0.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, by_s: float) -> None:
        if by_s < 0:
            raise ValueError(f"by_s: expected at least 0, got {by_s}")
        self.now_s += by_s
