"""What the questions of `make bench` share: processes of ours, and messages."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from ntm_serve.v1 import sessions_pb2
from ntm_serve.wire import tensor_of


@contextlib.contextmanager
def process(module: str, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process of ours, killed at the end."""
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True, **options
    ) as it:
        try:
            yield it
        finally:
            it.kill()


def line(source: subprocess.Popen[str]) -> str:
    """Its next line; an error where it has none."""
    assert source.stdout is not None
    text = source.stdout.readline()
    if not text:
        raise RuntimeError(f"{source.args}: ended early")
    return text


def message(ids: list[str], steps: int) -> bytes:
    """`steps` steps of each session, "the next ones"."""
    x = np.zeros((len(ids), steps, 9), np.float32)
    x[:, :, ::2] = 1
    request = sessions_pb2.StepRequest(session_ids=ids, inputs=[tensor_of("x", x)])
    return sessions_pb2.StreamRequest(step=request).SerializeToString()
