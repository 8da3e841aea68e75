"""What a tenant at its limit costs another: `python -m benchmarks.tenants [SECONDS]`.

A quiet tenant steps a few sessions at a rate of its own, one message after another. It does so alone, then beside a
loud tenant that sends as much as it may, and then beside one that sends ten times as much and does not listen to
refusals. The three take turns, and each figure is the median of the rounds: what the quiet one's p99 is beside each, in
terms of the loud one that keeps to its limit. The loud one is a process that yields the cores to the others: what is
asked here is what it costs the server, and not what its client costs a machine that both share. The server's own share
of a core is told beside.
"""

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from statistics import median

import grpc
import numpy as np

from benchmarks.processes import line, message, process
from ntm_serve.auth.tokens import hash_of, new_token
from ntm_serve.client import Client

MODEL = "copy-ff"
ROUNDS = 5
QUIET_SESSIONS, QUIET_PAUSE_S = 4, 0.01
LOUD_SESSIONS, LOUD_STEPS_PER_S = 32, 400
RESULTS = Path("benchmarks/results/tenants.json")


def settings(folder: Path, tokens: dict[str, str]) -> list[str]:
    """Of a server with both tenants."""
    callers, tenants = folder / "callers.toml", folder / "tenants.toml"
    callers.write_text(
        "".join(
            f'[[tokens]]\nname = "{name}"\ntenant = "{name}"\nsha256 = "{hash_of(token).hex()}"\n'
            for name, token in tokens.items()
        )
    )
    tenants.write_text(f"[tenants.loud]\nsteps_per_s_max = {LOUD_STEPS_PER_S}\n")
    return ["--auth-file", str(callers), "--tenants-file", str(tenants)]


def quiet(target: str, token: str, seconds: float) -> float:
    """The p99 of a message's time, in seconds."""
    latencies: list[float] = []
    x = np.zeros(9, np.float32)
    with Client(target, token=token) as client:
        sessions = [client.session(MODEL) for _ in range(QUIET_SESSIONS)]
        end_s = time.monotonic() + seconds
        while (now_s := time.monotonic()) < end_s:
            for session in sessions:
                session.step(x)
            latencies.append((time.monotonic() - now_s) / len(sessions))
            time.sleep(QUIET_PAUSE_S)
        for session in sessions:
            session.close()
    return float(np.percentile(latencies, 99))


def loud(target: str, token: str, times: str) -> None:
    """The process of the other tenant: streams of its sessions that send so many times what it may, for ever."""
    metadata = [("authorization", f"Bearer {token}")]
    with Client(target, token=token) as client:
        ids = [client.session(MODEL).id for _ in range(LOUD_SESSIONS)]
    pause_s = LOUD_SESSIONS / (float(times) * LOUD_STEPS_PER_S)

    def one(session_id: str) -> None:
        data, method = message([session_id], 1), "/ntm_serve.v1.Sessions/Stream"

        def messages() -> object:
            while True:
                time.sleep(pause_s)
                yield data

        with grpc.insecure_channel(target, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            for _ in channel.stream_stream(method)(messages(), metadata=metadata):
                pass

    for session_id in ids:
        threading.Thread(target=one, args=(session_id,), daemon=True).start()
    print("here", flush=True)
    threading.Event().wait()


def main() -> None:
    """Measure, print, and write the figures."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 6.0
    tokens = {"quiet": new_token(), "loud": new_token()}
    p99_s: dict[str, list[float]] = {"alone": [], "beside one at its limit": [], "beside ten times its limit": []}
    shares: dict[str, list[float]] = {name: [] for name in p99_s}
    with tempfile.TemporaryDirectory() as folder:
        serve = ("serve", "--models", "models/zoo", "--port", "0", "--http-port", "0", "--batch-max", "16")
        with process("ntm_serve.cli", *serve, *settings(Path(folder), tokens), stderr=subprocess.DEVNULL) as server:
            found = re.search(r"grpc=(\S+)", line(server))
            assert found, "the server says where it listens"
            for _ in range(ROUNDS):
                for name, times in zip(p99_s, (0, 1, 10), strict=True):
                    before_s = cpu_s(server.pid)
                    p99_s[name].append(_beside(found[1], tokens, times, seconds))
                    shares[name].append((cpu_s(server.pid) - before_s) / seconds)
    report(p99_s, shares)


def cpu_s(pid: int) -> float:
    """Seconds of a core that a process has had."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _beside(target: str, tokens: dict[str, str], times: int, seconds: float) -> float:
    if not times:
        return quiet(target, tokens["quiet"], seconds)
    loudly = ("loud", target, tokens["loud"], str(times))
    with process("benchmarks.tenants", *loudly, preexec_fn=partial(os.nice, 19)) as other:
        line(other)
        time.sleep(1.0)  # Its second's worth is spent.
        return quiet(target, tokens["quiet"], seconds)


def report(p99_s: dict[str, list[float]], shares: dict[str, list[float]]) -> None:
    """Print the figures, and write them."""
    within, beyond = p99_s["beside one at its limit"], p99_s["beside ten times its limit"]
    ratios = [ten / one for one, ten in zip(within, beyond, strict=True)]
    figures = {
        "p99_ms": {name: round(median(values) * 1000, 3) for name, values in p99_s.items()},
        "server_cores": {name: round(median(values), 2) for name, values in shares.items()},
        "beyond_to_within": round(median(ratios), 3),
        "rounds": [round(one, 3) for one in ratios],
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
    }
    print(json.dumps(figures, indent=1))
    RESULTS.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    loud(*sys.argv[2:]) if sys.argv[1:2] == ["loud"] else main()
