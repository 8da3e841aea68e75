"""`make bench-peers`, or `python -m benchmarks.peers [PEER ...]`: side by side with other servers.

The same model, the same client, one peer at a time, and our server in turn with it within each round: a ratio is ours
over theirs, the median of the rounds. Writes benchmarks/results/peers.json and prints tables. docs/peers.md
says how each is run and what the figures mean.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks import clients
from benchmarks.peers import perf_analyzer
from benchmarks.peers.environment import Unavailable, is_ready, set_up, version_of
from benchmarks.peers.lineup import PEERS, Peer
from benchmarks.peers.running import OURS, Fault, Figures, LoadClient, WrongAnswers, ours, peer_server
from benchmarks.peers.workloads import WORKLOADS

RESULTS = Path("benchmarks/results/peers.json")
ATTEMPTS = 3  # Triton's gRPC streams lose a request, or the process, now and then.
WIDTH = 110
GOALS = {
    "triton_ratio_32x1": 1.3,
    "triton_ratio_32x32": 1.5,
    "triton_gateway_ratio": 4.0,
    "triton_perf_analyzer_ratio_32": 1.0,
    "best_other_ratio_32x1": 2.0,
}


def measure(peer: Peer, client: LoadClient, options: argparse.Namespace) -> dict[str, Any]:
    """Rounds of ours and the peer in turn, per workload. Fault where a server fails in every attempt."""
    faults: list[str] = []
    rows: dict[str, list[tuple[Figures, Figures]]] = {name: [] for name in peer.workloads}
    while True:
        try:
            with ours() as target, peer_server(peer, client) as theirs:
                for name, done in rows.items():
                    while len(done) < options.rounds:
                        own = client.load(OURS, target, name, options.seconds)
                        done.append((own, client.load(peer.name, theirs, name, options.seconds)))
            return {"faults": faults, "workloads": {name: summary(done) for name, done in rows.items()}}
        except WrongAnswers:
            raise
        except Fault as fault:
            faults.append(str(fault))
            if len(faults) == ATTEMPTS:
                raise


def summary(rounds: list[tuple[Figures, Figures]]) -> dict[str, Any]:
    """The medians of the rounds."""

    def median(side: int) -> Figures:
        return {name: statistics.median(one[side][name] for one in rounds) for name in rounds[0][side]}

    ratios_of_rounds = sorted(own["steps_per_s"] / theirs["steps_per_s"] for own, theirs in rounds)
    ratio = statistics.median(ratios_of_rounds)
    return {OURS: median(0), "peer": median(1), "ratio": ratio, "ratios": ratios_of_rounds}


def compare(chosen: list[Peer], options: argparse.Namespace) -> dict[str, Any]:
    """What became of each peer."""
    results: dict[str, Any] = {peer.name: {"title": peer.title, "how": peer.how} for peer in chosen}
    with Progress() as progress:
        task = progress.add_task("setting up", total=len(chosen))
        for peer in chosen:
            progress.update(task, description=f"{'found' if is_ready(peer) else 'installing'} {peer.name}")
            try:
                set_up(peer)
                results[peer.name]["version"] = version_of(peer)
            except Unavailable as error:
                results[peer.name] |= {"status": "not installed", "reason": str(error)}
            progress.advance(task)
    there = [peer for peer in chosen if "reason" not in results[peer.name]]
    with Progress() as progress, LoadClient() as client:
        task = progress.add_task("measuring", total=len(there))
        for peer in there:
            progress.update(task, description=f"measuring {peer.name}")
            try:
                results[peer.name] |= {"status": "measured", **measure(peer, client, options)}
                if peer.name == "triton":
                    results[peer.name]["perf_analyzer"] = analyzed(peer, client, options)
            except WrongAnswers as wrong:
                results[peer.name] |= {"status": "wrong answers", "reason": str(wrong)}
            except Fault as fault:
                results[peer.name] |= {"status": "failed", "reason": str(fault)}
            progress.advance(task)
    return results


def analyzed(peer: Peer, client: LoadClient, options: argparse.Namespace) -> dict[str, Any]:
    """What perf_analyzer says of both, or why it says nothing."""
    try:
        return perf_analyzer.measure(peer, client, rounds=options.rounds, seconds=options.seconds)
    except (clients.Unavailable, Fault) as reason:
        return {"reason": str(reason)}


def ratios(results: dict[str, Any]) -> Figures:
    """The figures that have goals, as far as they were measured."""
    measured = {name: result["workloads"] for name, result in results.items() if "workloads" in result}
    figures = {}
    if triton := measured.pop("triton", None):
        figures["triton_ratio_32x1"] = triton["32x1"]["ratio"]
        figures["triton_ratio_32x32"] = triton["32x32"]["ratio"]
        figures["triton_gateway_ratio"] = triton["gateway"]["ratio"]
        if "ratio" in (seen := results["triton"]["perf_analyzer"]):
            figures["triton_perf_analyzer_ratio_32"] = seen["ratio"]
    if measured:
        figures["best_other_ratio_32x1"] = min(workloads["32x1"]["ratio"] for workloads in measured.values())
    return figures


def show(results: dict[str, Any], figures: Figures) -> None:
    """A table for each workload, one of the goals, and what went wrong."""
    console = Console(width=WIDTH)
    for name, workload in WORKLOADS.items():
        table = Table("server", "steps/s", "p50 ms", "p99 ms", "client CPU", "ours beside", "ratio", "of rounds")
        table.title = f"{name}: {workload.title}"
        for server, result in results.items():
            if "workloads" not in result:
                table.add_row(server, result["status"])
            elif name in result["workloads"]:
                row = result["workloads"][name]
                it, own = row["peer"], row[OURS]
                table.add_row(
                    server, f"{it['steps_per_s']:,.0f}", f"{it['p50_ms']:.1f}", f"{it['p99_ms']:.1f}",
                    f"{it['client_cpu']:.2f}", f"{own['steps_per_s']:,.0f}", f"{row['ratio']:.2f}",
                    f"{row['ratios'][0]:.2f} to {row['ratios'][-1]:.2f}",
                )  # fmt: skip
        if table.row_count:
            console.print(table)
    if "ratio" in (seen := results.get("triton", {}).get("perf_analyzer", {})):
        table = Table("server", "infer/s", "p50 ms", "p99 ms", title="perf_analyzer: 32 streams, a step a request")
        for server, row in ((OURS, seen[OURS]), ("triton", seen["peer"])):
            table.add_row(server, f"{row['steps_per_s']:,.0f}", f"{row['p50_ms']:.1f}", f"{row['p99_ms']:.1f}")
        console.print(table)
    elif seen:
        console.print(f"perf_analyzer: {seen['reason']}", markup=False)
    table = Table("figure", "measured", "goal", "")
    for name, value in figures.items():
        table.add_row(name, f"{value:.2f}", f">= {GOALS[name]}", "met" if value >= GOALS[name] else "missed")
    console.print(table)
    for server, result in results.items():
        for reason in [*result.get("faults", ()), *([result["reason"]] if "reason" in result else ())]:
            console.print(f"{server}: {reason}", markup=False)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description="Side by side with other servers.")
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"which, of {', '.join(PEERS)}; all if none is named")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of ours and theirs (default: 3)")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each load (default: 1.5)")
    options = parser.parse_args()
    if unknown := set(options.peers) - set(PEERS):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # So that no server is left behind.
    results = compare([PEERS[name] for name in options.peers or PEERS], options)
    figures = ratios(results)
    show(results, figures)
    machine = {"cores": len(os.sched_getaffinity(0)), "processor": platform.processor() or platform.machine()}
    packages = ("ntm-serve", "grpcio", "onnxruntime", "numpy")
    versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
    outcome = {"figures": figures, "peers": results, "machine": machine, "versions": versions}
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(outcome, indent=2) + "\n")


if __name__ == "__main__":
    main()
