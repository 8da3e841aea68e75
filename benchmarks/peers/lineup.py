"""Who is compared, in which version, and how each is run."""

from dataclasses import dataclass
from importlib.metadata import version

ONNXRUNTIME = f"onnxruntime=={version('onnxruntime')}"  # The same kernels for all.


@dataclass(frozen=True)
class Peer:
    """A server of others."""

    name: str
    title: str
    requirements: tuple[str, ...]
    # How it is spoken to, what batches, where the state is.
    how: str
    workloads: tuple[str, ...] = ("32x1", "32x32")
    # A program that pip cannot bring, and where it is from.
    program: str = ""
    program_from: str = ""

    @property
    def distribution(self) -> str:
        """What pip calls it."""
        return self.requirements[0].partition("==")[0].partition("[")[0]


_PEERS = (
    Peer(
        "triton",
        "NVIDIA Triton 2.51",
        ("nvidia-pytriton==0.7.0", ONNXRUNTIME),
        "gRPC stream per session; Python backend, sequence batching (oldest), state in the model",
        workloads=("32x1", "32x32", "gateway"),
    ),
    Peer(
        "mlserver",
        "MLServer",
        ("mlserver==1.7.1", ONNXRUNTIME),
        "gRPC stream per session, a run per message; state in a custom runtime",
    ),
    Peer(
        "kserve",
        "KServe SDK",
        ("kserve==0.21.0", ONNXRUNTIME),
        "unary gRPC, a run per message; state in the model class",
    ),
    Peer(
        "ray",
        "Ray Serve",
        ("ray[serve]==2.60.0", "grpcio>=1.85", ONNXRUNTIME),
        "unary gRPC, one replica with @serve.batch; state in the replica",
    ),
    Peer(
        "torchserve",
        "TorchServe",
        ("torchserve==0.12.0", "torch==2.13.0", "pyyaml", ONNXRUNTIME),
        "unary gRPC, one worker with dynamic batching; state in the handler",
        program="java",
        program_from="TorchServe needs Java 17 (Debian: openjdk-17-jre-headless)",
    ),
    Peer(
        "bentoml",
        "BentoML",
        ("bentoml==1.4.39", ONNXRUNTIME),
        "HTTP and JSON, one process with adaptive batching; state in the service",
    ),
    Peer(
        "mosec",
        "mosec",
        ("mosec==0.9.8", ONNXRUNTIME),
        "HTTP and bytes, one worker with dynamic batching; state in the worker",
    ),
    Peer(
        "litserve",
        "LitServe",
        ("litserve==0.2.19", ONNXRUNTIME),
        "HTTP and JSON, one worker with batching; state in the worker",
    ),
)
PEERS = {peer.name: peer for peer in _PEERS}
