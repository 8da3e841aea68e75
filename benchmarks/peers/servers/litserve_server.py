"""LitServe with batching and one worker: `python litserve_server.py PORT MODEL WORK`.

It reads JSON or forms, so bytes travel to it in base64; it answers with bytes.
"""

import base64
import sys
from typing import Any

import litserve as ls
from fastapi import Response
from memories import Asked, Memories, parse


class Steps(ls.LitAPI):
    """Batches of steps."""

    def setup(self, device: str) -> None:
        """Load the model."""
        self._memories = Memories(sys.argv[2])

    def decode_request(self, request: dict[str, Any]) -> Asked:
        """From base64."""
        return parse(base64.b64decode(request["message"]))

    def batch(self, inputs: list[Asked]) -> list[Asked]:
        """As they came."""
        return inputs

    def predict(self, batch: list[Asked]) -> list[bytes]:
        """A step of each."""
        return [y.tobytes() for y in self._memories.step(batch)]

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        """As they are."""
        return output

    def encode_response(self, output: bytes) -> Response:
        """To bytes."""
        return Response(output, media_type="application/octet-stream")


if __name__ == "__main__":
    api = Steps(max_batch_size=256, batch_timeout=0.001)
    server = ls.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False, log_level="error"
    )
