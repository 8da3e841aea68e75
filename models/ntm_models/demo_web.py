"""Something to look at: a server of its own whose page shows three sessions of different models at work, for as long as
it runs. Needs no torch.

    python -m ntm_models.demo_web [REPOSITORY] [--http-port PORT] [--writes]
"""

import argparse
import signal
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ntm_models.evaluate import task_for
from ntm_models.served import served
from ntm_models.tasks import Episodes, Task
from ntm_models.zoo import Entry, read_zoo
from ntm_serve.client import Client

SESSIONS = 3
# A step that a person can follow.
STEP_EVERY_S = 0.1
# Between two episodes, so that what is in memory at the end can be looked at.
REST_S = 2.0
# Of an episode; those of a few steps are over before anybody has seen them.
LENGTHS = range(6, 21)
SEED = 2014


def chosen(entries: Sequence[Entry]) -> list[Entry]:
    """Entries whose tasks are known: with heads to look at first, of different families, then of different tasks."""
    left = sorted((one for one in entries if one.scored), key=lambda one: not _has_heads(one))
    made: list[Entry] = []
    for differs in (_family, _task, _name):
        seen = {differs(one) for one in made}
        for one in left:
            if len(made) < SESSIONS and differs(one) not in seen:
                made.append(one)
                seen.add(differs(one))
    return made


def _has_heads(entry: Entry) -> bool:
    return any(one.role == "read_weighting" for one in entry.manifest.state)


def _family(entry: Entry) -> str:
    return entry.manifest.family


def _task(entry: Entry) -> str:
    return entry.manifest.task


def _name(entry: Entry) -> str:
    return entry.name


def session_of(entry: Entry) -> str:
    """The session that is kept at work."""
    return f"demo-{entry.name}"


def keep_stepping(client: Client, entry: Entry, task: Task, stop: threading.Event) -> None:
    """Episode after episode in one session, each from an empty memory, until told to stop."""
    random = np.random.default_rng(SEED)

    def drawn() -> Episodes:
        length = max(task.length_min, int(random.choice(LENGTHS)))
        return task.episodes(length=length, sequences=1, seed=int(random.integers(2**31)))

    episode = drawn()
    given = {name: array[0] for name, array in episode.initial_state.items()}
    session = client.session(entry.name, version=entry.version, session_id=session_of(entry), initial_state=given)
    while not stop.is_set():
        for step in range(episode.steps):
            if stop.wait(STEP_EVERY_S):
                return
            session.step({name: array[0, step] for name, array in episode.inputs.items()})
        if not stop.wait(REST_S):
            session.rewind(0)
            episode = drawn()


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; Ctrl-C ends it."""
    parser = argparse.ArgumentParser(prog="demo-web")
    parser.add_argument("repository", type=Path, nargs="?", default=Path("models/zoo"))
    parser.add_argument("--http-port", default="0", help="of the page; 0 is any free one")
    parser.add_argument("--writes", action="store_true", help="let the page fork sessions and step them")
    given = parser.parse_args(arguments)
    # What ends it ends its server too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    entries = chosen(read_zoo(given.repository))
    with tempfile.TemporaryDirectory() as folder:
        # A store with all of an episode's steps, so that a session can be taken back to its beginning.
        options = ["--store", f"sqlite:{folder}/sessions.db", "--retain-steps", "100000"]
        options += ["--http-port", given.http_port, "--inspector", "write" if given.writes else "read"]
        with served(given.repository, *options) as (target, http), Client(target) as client:
            _run(client, entries, target, http)


def _run(client: Client, entries: Sequence[Entry], target: str, http: str) -> None:
    stop = threading.Event()
    faults: list[BaseException] = []

    def step(entry: Entry) -> None:
        try:
            keep_stepping(client, entry, task_for(client.model(entry.name, entry.version), entry.manifest.task), stop)
        except BaseException as fault:
            if not stop.is_set():  # What it was waiting for when it was told to stop is no fault.
                faults.append(fault)
            stop.set()

    threads = [threading.Thread(target=step, args=(entry,), name=entry.name) for entry in entries]
    for thread in threads:
        thread.start()
    print(f"demo-web: open http://{http}/ (models {', '.join(one.name for one in entries)}; Ctrl-C ends it)")
    print(f"demo-web: or in a terminal: ntm-serve watch {session_of(entries[0])} --server {target}", flush=True)
    try:
        stop.wait()
    except KeyboardInterrupt:
        print("demo-web: ends", flush=True)
    finally:
        stop.set()
        client.close()
        for thread in threads:
            thread.join()
    if faults:
        raise faults[0]


if __name__ == "__main__":
    main()
