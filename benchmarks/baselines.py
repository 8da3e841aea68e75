"""What we are compared with, each a server in a process of its own: `python -m benchmarks.baselines KIND`.

echo: a bare grpc.aio servicer that sends back what it got, of the same sizes as our replies.
naive-ort: what a user would write first: ONNX Runtime per message, state per stream, one step at a time.
naive-torch: the same with the step in torch.
loop: no server at all: the best batched ONNX Runtime loop in one process, on as many threads; prints steps/s.
"""

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime as ort
import uvloop

from ntm_serve.model_directory import ModelDirectory, read_model_directory
from ntm_serve.v1 import sessions_pb2
from ntm_serve.wire import array_of, tensor_of

MODEL = Path("models/zoo/copy-lstm/1")
METHOD = "/ntm_serve.v1.Sessions/Stream"


class Generic(grpc.GenericRpcHandler):
    """One streaming method, whatever it does."""

    def __init__(self, behaviour: Any, *, parse: Any = None, serialise: Any = None) -> None:
        self._handler = grpc.stream_stream_rpc_method_handler(behaviour, parse, serialise)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handler if handler_call_details.method == METHOD else None


def reply_bytes() -> bytes:
    """A reply of the size of ours."""
    response = sessions_pb2.StepResponse(
        session_ids=["0" * 32],
        next_steps=[1],
        durable_steps=[0],
        outputs=[tensor_of("y", np.zeros((1, 1, 8), np.float32))],
    )
    return sessions_pb2.StreamResponse(step=response).SerializeToString()


def echo() -> Generic:
    """Bytes in, bytes of a reply's size out."""
    reply = reply_bytes()

    async def behaviour(requests: Any, context: Any) -> None:
        while await context.read() is not grpc.aio.EOF:
            await context.write(reply)

    return Generic(behaviour)


def naive_ort(directory: ModelDirectory) -> Generic:
    """A run of the graph per message."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(directory.model, options, providers=["CPUExecutionProvider"])
    entries = directory.manifest.state
    fetches = [directory.spec.outputs[0].name, *(entry.graph_output for entry in entries)]

    def fresh() -> dict[str, np.ndarray]:
        initial = zip(entries, directory.initial_state, strict=True)
        return {entry.graph_input: array[np.newaxis] for entry, array in initial}

    def step(x: np.ndarray, state: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        y, *following = session.run(fetches, {"x": x, **state})
        return y, dict(zip(state, following, strict=True))

    return _naive(fresh, step)


def naive_torch() -> Generic:
    """A step of the torch module per message."""
    import torch  # Only this baseline needs it.

    from ntm_models.build import load_step
    from ntm_models.recipe import read_recipe

    torch.set_num_threads(1)
    module = load_step(read_recipe(Path("models/recipes/copy-lstm.toml")), Path("models/weights/copy-lstm.pt"))

    def fresh() -> Any:
        return {name: value.detach()[None] for name, value in module.initial_state().items()}

    def step(x: np.ndarray, state: Any) -> tuple[np.ndarray, Any]:
        with torch.inference_mode():
            outputs, following = module({"x": torch.from_numpy(x.copy())}, state)
        return outputs["y"].numpy(), following

    return _naive(fresh, step)


def _naive(fresh: Any, step: Any) -> Generic:
    async def behaviour(requests: Any, context: Any) -> None:
        state, number = fresh(), 0
        while (message := await context.read()) is not grpc.aio.EOF:
            x = array_of(message.step.inputs[0])[0]
            outputs = []
            for row in x:
                y, state = step(row[np.newaxis], state)
                outputs.append(y)
            number += len(x)
            response = sessions_pb2.StepResponse(
                session_ids=message.step.session_ids,
                next_steps=[number],
                durable_steps=[0],
                outputs=[tensor_of("y", np.stack(outputs, axis=1))],
            )
            await context.write(sessions_pb2.StreamResponse(step=response))

    return Generic(
        behaviour,
        parse=sessions_pb2.StreamRequest.FromString,
        serialise=sessions_pb2.StreamResponse.SerializeToString,
    )


async def serve(handler: Generic) -> None:
    """Serve until killed; prints the port."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((handler,))
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await asyncio.Event().wait()


def loop(directory: ModelDirectory, seconds: float) -> float:
    """Steps/s of the best batch size, the state fed back as it comes; the time is split among the sizes."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(directory.model, options, providers=["CPUExecutionProvider"])
    entries = directory.manifest.state
    fetches = [directory.spec.outputs[0].name, *(entry.graph_output for entry in entries)]
    best = 0.0
    sizes = (16, 32, 64, 128)
    for size in sizes:
        x = np.repeat(directory.golden.inputs[0][:1], size, axis=0)
        state = [np.repeat(array[:1], size, axis=0) for array in directory.golden.state]
        steps, started_s = 0, time.perf_counter()
        while (passed_s := time.perf_counter() - started_s) < seconds / len(sizes):
            feed = {"x": x, **{entry.graph_input: array for entry, array in zip(entries, state, strict=True)}}
            _, *state = session.run(fetches, feed)
            steps += size
        best = max(best, steps / passed_s)
    return best


def main() -> None:
    """The command."""
    kind = sys.argv[1]
    if kind == "loop":
        print(loop(read_model_directory(MODEL), float(sys.argv[2])), flush=True)
        return
    directory = read_model_directory(MODEL)
    handlers = {"echo": echo, "naive-ort": lambda: naive_ort(directory), "naive-torch": naive_torch}
    uvloop.run(serve(handlers[kind]()))


if __name__ == "__main__":
    main()
