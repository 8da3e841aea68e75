"""`make chaos`: sessions stream while servers are killed, stopped and restarted, and networks and stores break.

Writes benchmarks/results/chaos.json, and prints a table. Ends with 1 where a figure that must be zero is not.
"""

import argparse
import asyncio
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from benchmarks.chaos.scenarios import SCENARIOS, ZEROS
from benchmarks.chaos.stage import LONG, SHORT, Figures, Plan, Stage
from ntm_serve.engine import ORT_VERSION

ZOO = Path("models/zoo")
RESULTS = Path("benchmarks/results/chaos.json")
# All of it, and in the short form.
LIMIT_S, SHORT_LIMIT_S = 15 * 60.0, 2 * 60.0
GOALS = {
    **dict.fromkeys(ZEROS, 0.0),
    "stale_answers": 0.0,
    "fenced_writes_that_got_through": 0.0,
    "all_handover_p99_s": 1.0,
}


async def measured(
    name: str, *, plan: Plan, seed: int, zoo: Path = ZOO, progress: Callable[[float], None] = lambda part: None
) -> Figures:
    """The figures of one scenario."""
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        stage = Stage(Path(folder), zoo=zoo, plan=plan, seed=seed, progress=progress)
        try:
            figures = await SCENARIOS[name](stage)
        finally:
            await stage.close()
    return figures | {"took_s": time.monotonic() - began_s}


def missed(figures: Figures) -> dict[str, float]:
    """The figures that are worse than their goals."""
    return {name: value for name, value in figures.items() if name in GOALS and not value <= GOALS[name]}


async def run(names: list[str], *, plan: Plan, seed: int, limit_s: float) -> dict[str, Figures]:
    """One scenario after another, until told to stop."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    seen: dict[str, Figures] = {}
    async with asyncio.timeout(limit_s):
        with Progress() as bar:
            for name in names:
                line = bar.add_task(name, total=1.0)
                seen[name] = await measured(name, plan=plan, seed=seed, progress=partial(_show, bar, line))
                _show(bar, line, 1.0)
    return seen


def _show(bar: Progress, line: TaskID, part: float) -> None:
    bar.update(line, completed=part)


def main() -> None:
    """`python -m benchmarks.chaos [--short] [--seed N] [SCENARIO ...]`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; all by default")
    parser.add_argument("--short", action="store_true", help="at most two minutes")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    names = options.scenarios or list(SCENARIOS)
    if unknown := set(names) - set(SCENARIOS):
        parser.error(f"expected some of {', '.join(SCENARIOS)}, got {', '.join(unknown)}")
    plan, limit_s = (SHORT, SHORT_LIMIT_S) if options.short else (LONG, LIMIT_S)
    seen = asyncio.run(run(names, plan=plan, seed=options.seed, limit_s=limit_s))
    table = Table("scenario", "figure", "measured", "goal", "")
    for name, figures in seen.items():
        for figure, value in figures.items():
            goal = GOALS.get(figure)
            met = "" if goal is None else "missed" if figure in missed(figures) else "met"
            table.add_row(
                name, figure, f"{value:,.3f}".rstrip("0").rstrip("."), "" if goal is None else f"{goal:g}", met
            )
    Console().print(table)
    if not options.short:
        machine = {"cores": len(os.sched_getaffinity(0)), "processor": platform.processor() or platform.machine()}
        versions = {"python": platform.python_version(), "onnxruntime": ORT_VERSION}
        known = json.loads(RESULTS.read_text())["scenarios"] if RESULTS.exists() else {}
        scenarios = {name: figures for name, figures in (known | seen).items() if name in SCENARIOS}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(
            json.dumps(
                {"scenarios": scenarios, "seed": options.seed, "machine": machine, "versions": versions}, indent=2
            )
            + "\n"
        )
    sys.exit(any(missed(figures) for figures in seen.values()))


if __name__ == "__main__":
    main()
