"""The server of KServe's SDK: `python kserve_server.py PORT MODEL WORK`.

It has unary calls only, and no batching: KServe batches in a sidecar that carries HTTP.
"""

import sys

import grpc.aio
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from memories import Asked, Memories

_bind = grpc.aio.Server.add_insecure_port


def on_loopback(server: grpc.aio.Server, address: str) -> int:
    """KServe binds every interface and cannot be told otherwise."""
    return _bind(server, f"127.0.0.1:{address.rpartition(':')[2]}")


class Steps(Model):
    """A step of a session per request."""

    def __init__(self, directory: str) -> None:
        super().__init__("ntm")
        self._memories = Memories(directory)
        self.ready = True

    async def predict(self, payload: InferRequest, headers: dict | None = None) -> InferResponse:
        """A step."""
        told = payload.parameters
        asked = Asked(
            told["sequence_id"].int64_param, told["sequence_start"].bool_param, told["sequence_end"].bool_param,
            payload.inputs[0].as_numpy()[0],
        )  # fmt: skip
        y = self._memories.step([asked])
        output = InferOutput("y", list(y.shape), "FP32")
        output.set_data_from_numpy(y)
        return InferResponse(payload.id, self.name, [output], use_binary_outputs=True)


if __name__ == "__main__":
    grpc.aio.Server.add_insecure_port = on_loopback
    ModelServer(http_port=0, grpc_port=int(sys.argv[1]), enable_latency_logging=False).start([Steps(sys.argv[2])])
