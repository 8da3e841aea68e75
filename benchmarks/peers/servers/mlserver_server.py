"""MLServer with a runtime of one's own: `python mlserver_server.py PORT MODEL WORK`.

Its stream is used, which took more steps than its unary call; a run per message, since its adaptive batching does
not reach streams. Without worker processes: a stream works in none.
"""

import asyncio
import sys
from collections.abc import AsyncIterator

import numpy as np
from memories import Asked, Memories
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import NumpyCodec
from mlserver.settings import ModelParameters
from mlserver.types import InferenceRequest, InferenceResponse


class Runtime(MLModel):
    """A step of a session per request."""

    async def load(self) -> bool:
        """Load the model."""
        self._memories = Memories(self.settings.parameters.uri)
        return True

    async def predict_stream(self, payloads: AsyncIterator[InferenceRequest]) -> AsyncIterator[InferenceResponse]:
        """Steps, in the order of the stream."""
        async for payload in payloads:
            told = payload.parameters
            x = NumpyCodec.decode_input(payload.inputs[0])[0]
            y = self._memories.step([Asked(told.sequence_id, told.sequence_start, told.sequence_end, x)])
            outputs = [NumpyCodec.encode_output("y", y.astype(np.float32, copy=False))]
            yield InferenceResponse(model_name=self.name, outputs=outputs)


async def main() -> None:
    """Serve until killed."""
    port, model, _ = sys.argv[1:]
    settings = Settings(
        debug=False, host="127.0.0.1", grpc_port=int(port), http_port=0, metrics_endpoint=None, parallel_workers=0,
    )  # fmt: skip
    runtime = ModelSettings(name="ntm", implementation=Runtime, parameters=ModelParameters(uri=model))
    await MLServer(settings).start([runtime])


if __name__ == "__main__":
    asyncio.run(main())
