"""The handler that TorchServe's worker runs: a batch of what came, answered as bytes."""

from pathlib import Path
from typing import Any

from memories import Memories, parse


class Handler:
    """What the worker asks for."""

    def initialize(self, context: Any) -> None:
        """Load the model."""
        directory = Path(context.system_properties["model_dir"], "directory").read_text()
        self._memories = Memories(directory)

    def handle(self, data: list[dict[str, bytes]], context: Any) -> list[bytes]:
        """A step of each."""
        return [y.tobytes() for y in self._memories.step([parse(bytes(row["data"])) for row in data])]
