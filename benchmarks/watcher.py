"""Whoever looks at a session: `python -m benchmarks.watcher TARGET SESSION` prints a line when it sees something."""

import sys

from ntm_serve.client import Client


def main() -> None:
    """The command; it looks on until it is killed."""
    with Client(sys.argv[1]) as client:
        for number, _ in enumerate(client.watch(sys.argv[2])):
            if not number:
                print("sees", flush=True)


if __name__ == "__main__":
    main()
