"""Between a client and a server: hands calls of the inference protocol on as they are, and keeps their bytes.

On one event loop, so that what comes first is handed on first: a client may have two requests of a sequence under way.
"""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator

import grpc

SERVICE = "/inference.GRPCInferenceService/"
INFER, STREAM = f"{SERVICE}ModelInfer", f"{SERVICE}ModelStreamInfer"
STOP_S = 5.0
START_S = 30.0


class Recorder(grpc.GenericRpcHandler):
    """exchanges: requests with their replies, in the order of the requests."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.exchanges: list[list[bytes]] = []
        self._channel = channel

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """See grpc.GenericRpcHandler. Bytes go as they are."""
        if details.method == STREAM:
            return grpc.stream_stream_rpc_method_handler(self._stream)
        call = self._channel.unary_unary(details.method)

        async def hand_on(request: bytes, _context: object) -> bytes:
            exchange = [request]
            if details.method == INFER:
                self.exchanges.append(exchange)
            reply: bytes = await call(request)
            exchange.append(reply)
            return reply

        return grpc.unary_unary_rpc_method_handler(hand_on)

    async def _stream(self, requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
        sent: list[list[bytes]] = []

        async def noted() -> AsyncIterator[bytes]:
            async for request in requests:
                sent.append([request])
                self.exchanges.append(sent[-1])
                yield request

        answered = 0
        async for reply in self._channel.stream_stream(STREAM)(noted()):
            sent[answered].append(reply)  # A server answers a stream in order.
            answered += 1
            yield reply


@contextlib.contextmanager
def recording(target: str) -> Iterator[tuple[str, Recorder]]:
    """Where to connect to, and what is kept."""
    started, stop = threading.Event(), threading.Event()
    made: list[tuple[str, Recorder]] = []

    async def serve() -> None:
        async with grpc.aio.insecure_channel(target) as channel:
            recorder = Recorder(channel)
            server = grpc.aio.server(handlers=[recorder])
            made.append((f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}", recorder))
            await server.start()
            started.set()
            await asyncio.to_thread(stop.wait)
            await server.stop(STOP_S)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(START_S), "the recorder did not start"
        yield made[0]
    finally:
        stop.set()
        thread.join()
