"""`make compose-test`: docker-compose.yml as it stands, on a Docker Engine: it comes up, sessions stream through the
balancer while replicas are killed and their number changes, and nothing is lost; and it is as hardened as it says.

Writes benchmarks/results/compose.json, and prints a table. Ends with 1 where something does not hold; without a Docker
Engine it says so, and ends with 0.
"""

import argparse
import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import reduce
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.chaos.programs import free_ports
from benchmarks.chaos.scenarios import ZEROS, told
from benchmarks.chaos.stage import Figures, Plan, Stage, all_heard, p99, talking
from ntm_serve.client import AsyncClient
from ntm_serve.errors import ModelUnknown

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "compose.json"
REPLICAS = 3
MUST_BE_ZERO = (*ZEROS, "containers_not_hardened", "panels_and_rules_without_data")
# Of building and starting, and of everything else that Docker is asked.
UP_MAX_S, ASK_MAX_S = 900.0, 120.0
# Between two changes, so that sessions have moved and go on.
SETTLED_S = 6.0
# Callers make another connection now and then, and so meet replicas that are new.
MESSAGES_A_CONNECTION = 60
# A scrape and a look at DNS are each made every five seconds.
SCRAPED_MAX_S = 60.0


class Compose:
    """The project of docker-compose.yml, under a name and on ports of its own."""

    def __init__(self, name: str, ports: Sequence[int], *, profile: str = "cluster") -> None:
        self.target = f"127.0.0.1:{ports[0]}"
        self.http = f"http://127.0.0.1:{ports[1]}"
        self._command = ["docker", "compose", "--project-name", name, "--profile", profile]
        names = ("GRPC_PORT", "HTTP_PORT" if profile == "single" else "PROMETHEUS_PORT")
        self._environment = os.environ | dict(zip(names, map(str, ports), strict=True))

    async def ask(self, *arguments: str, limit_s: float = ASK_MAX_S) -> str:
        """What docker compose prints. Raises RuntimeError where it fails."""
        return await printed([*self._command, *arguments], limit_s=limit_s, environment=self._environment)

    async def up(self, *arguments: str) -> float:
        """Until all is healthy; how long it took, in seconds."""
        began_s = time.monotonic()
        await self.ask("up", "--detach", "--wait", *arguments, limit_s=UP_MAX_S)
        return time.monotonic() - began_s

    async def down(self) -> None:
        """Nothing is left, and no volume."""
        await self.ask("down", "--volumes", "--remove-orphans")

    async def containers(self, *services: str) -> list[str]:
        """The ids of those that run."""
        return (await self.ask("ps", "--quiet", *services)).split()


async def printed(command: Sequence[str], *, limit_s: float, environment: dict[str, str] | None = None) -> str:
    """What a command prints. Raises RuntimeError where it fails, or takes too long."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=environment,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(limit_s):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise RuntimeError(f"{' '.join(command)}: took longer than {limit_s:g} s") from None
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: status {process.returncode}: {err.decode()[-2000:]}")
    return out.decode()


async def docker(*arguments: str) -> str:
    """What docker prints. Raises RuntimeError where it fails."""
    return await printed(["docker", *arguments], limit_s=ASK_MAX_S)


async def faults_of(containers: Sequence[str]) -> list[str]:
    """What is not as hardened as it is meant to be: users, file systems, capabilities."""
    faults = []
    for described in json.loads(await docker("inspect", *containers)):
        name, host = described["Name"].lstrip("/"), described["HostConfig"]
        if (await docker("exec", described["Id"], "id", "-u")).strip() == "0":
            faults.append(f"{name}: runs as root")
        if await succeeds("exec", described["Id"], "touch", "/written"):
            faults.append(f"{name}: its file system can be written")
        if not host["ReadonlyRootfs"] or host["CapDrop"] != ["ALL"] or host["Privileged"]:
            faults.append(f"{name}: expected read_only and cap_drop ALL")
        if not any("no-new-privileges" in one for one in host["SecurityOpt"] or ()):
            faults.append(f"{name}: expected no-new-privileges")
    return faults


async def succeeds(*arguments: str) -> bool:
    """Whether docker does it."""
    try:
        await docker(*arguments)
    except RuntimeError:
        return False
    return True


def queried(url: str, expression: str) -> list[float]:
    """The values that Prometheus has for an expression."""
    with urlopen(f"{url}/api/v1/query?query={quote(expression)}", timeout=10) as response:
        return [float(one["value"][1]) for one in json.load(response)["data"]["result"]]


def panels() -> dict[str, list[str]]:
    """The expressions of the dashboard's panels by their titles, for everything and over a minute."""
    dashboard = json.loads((ROOT / "deploy" / "grafana" / "dashboards" / "ntm-serve.json").read_text())
    words = (("$__rate_interval", "1m"), ("$model", ".*"), ("$instance", ".*"))
    found = {}
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            found[panel["title"]] = [reduce(_replaced, words, target["expr"]) for target in panel["targets"]]
    return found


def _replaced(text: str, word: tuple[str, str]) -> str:
    return text.replace(*word)


def unseen(url: str) -> list[str]:
    """What Prometheus cannot tell: panels of the dashboard without data, and rules that it cannot evaluate."""
    empty = [title for title, expressions in panels().items() if not all(queried(url, one) for one in expressions)]
    with urlopen(f"{url}/api/v1/rules", timeout=10) as response:
        groups = json.load(response)["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    return empty + [rule["name"] for rule in rules if rule["health"] != "ok"] + ([] if rules else ["rules"])


async def until_scraped(compose: Compose, replicas: int) -> None:
    """Until Prometheus has just scraped so many replicas, and no other. Raises TimeoutError."""
    async with asyncio.timeout(SCRAPED_MAX_S):
        seen: list[float] = []
        while seen != [1.0] * replicas:
            await asyncio.sleep(1.0)
            seen = await asyncio.to_thread(queried, compose.http, 'up{job="ntm-serve"}')


async def refused(target: str) -> None:
    """A call that fails: however well the sessions fare, the dashboard has one to show."""
    async with AsyncClient(target) as client:
        with suppress(ModelUnknown):
            await client.model("of-nobody")


async def disturbed(compose: Compose, say: Callable[[str], None]) -> dict[str, float]:
    """Kill replicas and change their number while sessions stream. How long each took, in seconds."""
    took_s: dict[str, float] = {}

    async def done(what: str, doing: Awaitable[object]) -> None:
        say(what)
        began_s = time.monotonic()
        await doing
        took_s[what] = time.monotonic() - began_s
        await asyncio.sleep(SETTLED_S)

    for number in range(2):
        [victim, *_] = await compose.containers("server")
        await done(f"docker kill of a replica, {number + 1}", docker("kill", victim))
        await done(f"scale to 4, {number + 1}", compose.up("--no-recreate", "--scale", "server=4"))
        await until_scraped(compose, 4)
        await done(f"scale to 3, {number + 1}", compose.up("--no-recreate", "--scale", f"server={REPLICAS}"))
        await until_scraped(compose, REPLICAS)
    [leaver, *_] = await compose.containers("server")
    await done("docker stop of a replica", docker("stop", leaver))
    ended = json.loads(await docker("inspect", leaver))[0]["State"]
    if ended["ExitCode"]:
        raise RuntimeError(f"a replica that was told to stop ended with {ended['ExitCode']}, not by itself with 0")
    await done("start of that replica", compose.up("--no-recreate"))
    await refused(compose.target)
    [store] = await compose.containers("valkey")
    await done("docker kill of valkey", docker("kill", store))
    await done("start of valkey", docker("start", store))
    return took_s


async def measured(compose: Compose, folder: Path, *, seed: int, say: Callable[[str], None]) -> Figures:
    """Everything that is shown. Raises RuntimeError, TimeoutError."""
    say("build and up")
    figures = {"up_s": await compose.up("--build")}
    containers = await compose.containers()
    for fault in (faults := await faults_of(containers)):
        say(fault)
    figures |= {"containers": len(containers), "containers_not_hardened": len(faults)}
    figures["image_bytes"] = float(await docker("image", "inspect", "ntm-serve", "--format", "{{.Size}}"))
    await until_scraped(compose, REPLICAS)
    stage = Stage(folder, zoo=ROOT / "models" / "zoo", plan=Plan(), seed=seed)
    callers = stage.callers()
    async with talking(callers, [compose.target] * len(callers), messages_max=MESSAGES_A_CONNECTION):
        await all_heard(callers)
        await asyncio.sleep(SETTLED_S)
        took_s = await disturbed(compose, say)
        empty = await asyncio.to_thread(unseen, compose.http)
    for one in empty:
        say(f"Prometheus has nothing for: {one}")
    figures |= await stage.judged(callers, compose.target) | {"panels_and_rules_without_data": len(empty)}
    figures["server_faults"] = (await compose.ask("logs", "--no-color", "server")).count("Traceback")
    waits_s = [wait.answered_s - wait.failed_s for caller in callers for wait in caller.waits]
    noticed = Counter(wait.error for caller in callers for wait in caller.waits)
    figures |= told(callers) | {f"noticed: {reason}": count for reason, count in noticed.items()}
    return (
        figures
        | {"healing_median_s": float(np.median(waits_s)), "healing_p99_s": p99(waits_s)}
        | {f"{what}, s": s for what, s in took_s.items()}
    )


def missed(figures: Figures) -> list[str]:
    """The figures that are not zero and must be."""
    return [name for name in MUST_BE_ZERO if figures[name]]


async def run(seed: int) -> int:
    """The status to end with."""
    console = Console()
    if shutil.which("docker") is None or not await succeeds("info") or not await succeeds("compose", "version"):
        console.print("compose-test: skipped: it needs a Docker Engine with Compose, and `docker info` finds none")
        return 0
    compose = Compose(f"ntm-serve-test-{os.getpid()}", free_ports(2))
    with tempfile.TemporaryDirectory(prefix="compose-") as folder:
        try:
            figures = await measured(compose, Path(folder), seed=seed, say=console.print)
        except BaseException:
            console.print((await compose.ask("logs", "--no-color", "--tail", "30"))[-8000:], markup=False)
            raise
        finally:
            await compose.down()
    table = Table("figure", "measured", "")
    for name, value in figures.items():
        shown = f"{value:,.3f}".rstrip("0").rstrip(".")
        table.add_row(name, shown, "" if name not in MUST_BE_ZERO else "missed" if value else "met")
    console.print(table)
    RESULTS.write_text(json.dumps({"figures": figures, "seed": seed}, indent=2) + "\n")
    return 1 if missed(figures) else 0


def main() -> None:
    """`python -m benchmarks.compose [--seed N]`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compose", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    sys.exit(asyncio.run(run(parser.parse_args().seed)))


if __name__ == "__main__":
    main()
