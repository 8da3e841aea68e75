"""How many rows a batch of a model takes: measured where no setting says it.

Rules of this file: what is decided is decided from sizes and seconds, without a clock; measuring ends in
time, whatever the model; of sizes that are as good the smallest is taken, as a smaller batch is a shorter wait.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median

from ntm_serve.errors import EngineFault

# At the largest, what a run costs beside its rows is lost among them.
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)

# What loading a model may take longer for it.
BUDGET_S = 0.2

# A larger batch must make so much more, of the steps a second that a smaller one makes.
GAIN_MIN = 0.05

# Two sizes in a row that make less than this part of the best: state and temporaries have left the cache, and no
# larger batch brings them back. One alone may have been somebody else's turn of the core.
LOST = 0.8

# Inputs, outputs and both states of the largest batch that is tried. No cache holds more.
BYTES_MAX = 64 << 20

# Where a model is so slow, or its machine so busy, that nothing is known of larger sizes: what suits most.
SIZE_UNMEASURED = 64

# Growing, a size is run once to find its memory and then so often; after that all sizes take turns.
RUNS_GROWING = 3

Run = Callable[[], object]


def sizes_within(row_bytes: int) -> list[int]:
    """The sizes whose rows, of so many bytes each, are worth trying; at least the smallest."""
    return [size for size in SIZES if size == SIZES[0] or size * row_bytes <= BYTES_MAX]


def best_size(run_s: Mapping[int, float], sizes: Sequence[int]) -> int:
    """The smallest size that makes nearly the most steps a second: run_s has the seconds of a run of each
    size that was measured, sizes are all that might have been.

    Where time was over before the best was passed, at least SIZE_UNMEASURED or the next below it.
    """
    rates = _rates(run_s)
    enough = max(rates.values()) / (1 + GAIN_MIN)
    chosen = min(size for size, rate in rates.items() if rate >= enough)
    if max(rates) == max(sizes) or is_past_best(run_s):
        return chosen
    return max(chosen, *(size for size in sizes if size <= SIZE_UNMEASURED))


def is_past_best(run_s: Mapping[int, float]) -> bool:
    """Whether no size larger than these is worth trying."""
    rates = _rates(run_s)
    lost = LOST * max(rates.values())
    return len(rates) > 2 and all(rates[size] < lost for size in sorted(rates)[-2:])


def measured_run_s(
    prepared: Callable[[int], Run],
    sizes: Sequence[int],
    *,
    budget_s: float = BUDGET_S,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[int, float]:
    """The median seconds of a run of each size, as many of them as the budget allows, smallest first.

    prepared makes a run of so many rows. Sizes take turns, so that a slow moment of the machine is every size's.
    """
    end_s = clock() + budget_s
    runs: dict[int, Run] = {}
    seen: dict[int, list[float]] = {}
    for size in sizes:
        run = prepared(size)
        try:
            cold_s = _timed(run, clock)
        except EngineFault:  # Too large for the memory that there is: smaller ones were not.
            if not seen:
                raise
            break
        runs[size] = run
        seen[size] = [_timed(run, clock)]
        while len(seen[size]) < RUNS_GROWING and clock() + cold_s < end_s:
            seen[size].append(_timed(run, clock))
        # The next takes at most twice as long, and is run twice at least.
        if clock() + 4 * min(seen[size]) > end_s or is_past_best({size: min(times) for size, times in seen.items()}):
            break
    turn_s = 2 * sum(min(times) for times in seen.values())
    while clock() + turn_s < end_s:
        for size, run in runs.items():
            run()  # The weights come back into the cache from which the size before has driven them.
            seen[size].append(_timed(run, clock))
    return {size: median(times) for size, times in seen.items()}


def _rates(run_s: Mapping[int, float]) -> dict[int, float]:
    """Steps a second."""
    return {size: size / seconds for size, seconds in run_s.items()}


def _timed(run: Run, clock: Callable[[], float]) -> float:
    started_s = clock()
    run()
    return clock() - started_s
