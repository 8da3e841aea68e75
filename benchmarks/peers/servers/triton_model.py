"""The model that Triton's Python backend runs: batches whatever `execute` is handed."""

import json
import os
import sys

# The backend's interpreter knows neither PYTHONPATH nor the environment that its server was started from.
sys.path.insert(0, os.environ["NTM_PACKAGES"])

import triton_python_backend_utils as pb_utils  # Exists inside the backend alone.
from memories import Asked, Memories

START, END = 1, 2


class TritonPythonModel:
    """What the backend asks for, by this name."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the model."""
        parameters = json.loads(args["model_config"])["parameters"]
        self._memories = Memories(parameters["directory"]["string_value"])

    def execute(self, requests: list) -> list:
        """One step, or T steps, of each sequence."""
        batch = []
        for request in requests:
            flags = request.flags()
            x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()[0]
            batch.append(Asked(request.correlation_id(), bool(flags & START), bool(flags & END), x))
        y = self._memories.step(batch)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", y[row : row + 1])]) for row in range(len(y))]
