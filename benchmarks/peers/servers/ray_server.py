"""Ray Serve over its gRPC proxy, with one replica that batches: `python ray_server.py PORT MODEL WORK`."""

import os
import socket
import sys
import time

import grpc
import ray
from google.protobuf.wrappers_pb2 import BytesValue
from memories import Memories, parse
from ray import serve
from ray.serve.config import gRPCOptions


def add_steps(servicer: object, server: grpc.aio.Server) -> None:
    """What generated code would do for a service of one method; Ray routes by names, not by the servicer."""
    step = grpc.unary_unary_rpc_method_handler(
        lambda request, context: None,
        request_deserializer=BytesValue.FromString,
        response_serializer=BytesValue.SerializeToString,
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("ntm.Steps", {"Step": step}),))


@serve.deployment(num_replicas=1, max_ongoing_requests=512, ray_actor_options={"num_cpus": 1})
class Steps:
    """Batches of steps."""

    def __init__(self, directory: str) -> None:
        self._memories = Memories(directory)

    @serve.batch(max_batch_size=256, batch_wait_timeout_s=0)
    async def _batch(self, messages: list[bytes]) -> list[bytes]:
        return [y.tobytes() for y in self._memories.step([parse(message) for message in messages])]

    async def Step(self, request: BytesValue) -> BytesValue:  # noqa: N802 - the wire names its methods.
        """A step."""
        return BytesValue(value=await self._batch(request.value))


def main() -> None:
    """Serve until killed."""
    port, model, _ = sys.argv[1:]
    with socket.socket() as it:  # Its HTTP proxy cannot be left out.
        it.bind(("127.0.0.1", 0))
        http_port = it.getsockname()[1]
    os.environ["PYTHONPATH"] = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120
    ray.init(include_dashboard=False, log_to_driver=False, num_cpus=2)
    options = gRPCOptions(port=int(port), grpc_servicer_functions=["ray_server.add_steps"])
    serve.start(http_options={"host": "127.0.0.1", "port": http_port}, grpc_options=options)
    serve.run(Steps.bind(model))
    time.sleep(3600)


if __name__ == "__main__":
    main()
