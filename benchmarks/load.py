"""The client of the benchmarks: streams of prepared messages, each with a number of them on their way.

A process of its own, driven by lines of JSON on stdin and answering with one line each, so that it never
shares a core's time with what it measures unnoticed: it tells its own share of the CPU. Messages are bytes
made beforehand and replies stay bytes, so that every server is loaded by the same work.
"""

import asyncio
import base64
import json
import sys
import time
from typing import Any

import grpc
import numpy as np
import uvloop


async def load(order: dict[str, Any]) -> dict[str, float]:
    """Run the order's streams for its seconds, after a tenth of that to warm up.

    streams: lists of messages in base64, sent in turn for ever. in_flight: messages of a stream on their way.
    """
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(order["target"], options=options) as channel:
        begin_s = time.perf_counter() + order["seconds"] * 0.1
        end_s = begin_s + order["seconds"]
        latencies: list[list[float]] = [[] for _ in order["streams"]]
        method = channel.stream_stream(order["method"])

        async def run(number: int, messages: list[bytes]) -> None:
            call = method()
            sent: list[float] = []
            place = 0
            for _ in range(order["in_flight"]):
                sent.append(time.perf_counter())
                await call.write(messages[place % len(messages)])
                place += 1
            while True:
                if await call.read() is grpc.aio.EOF:
                    raise RuntimeError(f"stream {number} ended early: {await call.details()}")
                now_s = time.perf_counter()
                started_s = sent.pop(0)
                if now_s > end_s:
                    break
                if started_s > begin_s:
                    latencies[number].append(now_s - started_s)
                sent.append(now_s)
                await call.write(messages[place % len(messages)])
                place += 1
            call.cancel()

        before_s = time.process_time()
        started_s = time.perf_counter()
        streams = [[base64.b64decode(one) for one in stream] for stream in order["streams"]]
        await asyncio.gather(*(run(number, messages) for number, messages in enumerate(streams)))
        cpu = (time.process_time() - before_s) / (time.perf_counter() - started_s)
    watched = latencies[0] if order.get("watch_first") else [one for stream in latencies for one in stream]
    return {
        "messages_per_s": sum(len(stream) for stream in latencies) / order["seconds"],
        "p50_ms": float(np.percentile(watched, 50)) * 1000,
        "p99_ms": float(np.percentile(watched, 99)) * 1000,
        "client_cpu": cpu,
    }


def main() -> None:
    """Serve orders until stdin ends."""
    for line in sys.stdin:
        print(json.dumps(uvloop.run(load(json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
