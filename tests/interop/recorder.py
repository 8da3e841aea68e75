"""Between a client and a server: hands calls of the inference protocol on as they are, and keeps their bytes."""

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

SERVICE = "/inference.GRPCInferenceService/"
INFER, STREAM = f"{SERVICE}ModelInfer", f"{SERVICE}ModelStreamInfer"


class Recorder(grpc.GenericRpcHandler):
    """exchanges: requests with their replies, in the order of the requests; one list for each call."""

    def __init__(self, target: str) -> None:
        self.exchanges: list[list[tuple[bytes, bytes]]] = []
        self._channel = grpc.insecure_channel(target)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """See grpc.GenericRpcHandler. Bytes go as they are."""
        if details.method == STREAM:
            return grpc.stream_stream_rpc_method_handler(self._stream)
        call = self._channel.unary_unary(details.method)

        def hand_on(request: bytes, _context: object) -> bytes:
            reply: bytes = call(request)
            if details.method == INFER:
                self.exchanges.append([(request, reply)])
            return reply

        return grpc.unary_unary_rpc_method_handler(hand_on)

    def _stream(self, requests: Iterator[bytes], _context: object) -> Iterator[bytes]:
        sent: list[bytes] = []
        exchanges: list[tuple[bytes, bytes]] = []
        self.exchanges.append(exchanges)

        def noted() -> Iterator[bytes]:
            for request in requests:
                sent.append(request)
                yield request

        for reply in self._channel.stream_stream(STREAM)(noted()):
            # A server answers a stream in order.
            exchanges.append((sent[len(exchanges)], reply))
            yield reply


@contextlib.contextmanager
def recording(target: str) -> Iterator[tuple[str, Recorder]]:
    """Where to connect to, and what is kept."""
    recorder = Recorder(target)
    server = grpc.server(ThreadPoolExecutor(80), handlers=[recorder])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}", recorder
    finally:
        stopped: threading.Event = server.stop(5)
        stopped.wait()
        recorder._channel.close()
