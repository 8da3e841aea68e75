"""mosec with dynamic batching and one worker, bytes over HTTP: `python mosec_server.py PORT MODEL WORK`."""

import os
import sys

from memories import Memories, parse
from mosec import Server, Worker


class Steps(Worker):
    """Batches of steps."""

    resp_mime_type = "application/octet-stream"

    def __init__(self) -> None:
        super().__init__()
        self._memories = Memories(os.environ["NTM_DIRECTORY"])

    def deserialize(self, data: bytes) -> bytes:
        """As it came."""
        return data

    def serialize(self, data: bytes) -> bytes:
        """As it is."""
        return data

    def forward(self, data: list[bytes]) -> list[bytes]:
        """A step of each."""
        return [y.tobytes() for y in self._memories.step([parse(message) for message in data])]


if __name__ == "__main__":
    port, model, work = sys.argv[1:]
    os.environ |= {
        "NTM_DIRECTORY": model, "MOSEC_ADDRESS": "127.0.0.1", "MOSEC_PORT": port, "MOSEC_LOG_LEVEL": "error",
        "MOSEC_PATH": f"{work}/ipc",
    }  # fmt: skip
    sys.argv[1:] = []
    server = Server()
    # It waits for a batch to fill for at most so long, in ms: 1 is the least.
    server.append_worker(Steps, num=1, max_batch_size=256, max_wait_time=1)
    server.run()
