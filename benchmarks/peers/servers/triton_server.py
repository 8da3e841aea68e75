"""NVIDIA Triton with a model of its Python backend: `python triton_server.py PORT MODEL WORK`.

nvidia-pytriton carries a tritonserver for CPU with that backend alone, so its implicit state, which needs the ONNX
Runtime backend, is not to be had. Sequences are batched by its "oldest" strategy: one step of each in a batch.
"""

import os
import shutil
import sys
import sysconfig
from pathlib import Path

import pytriton

CONFIG = """
name: "ntm"
backend: "python"
max_batch_size: 64
input [ { name: "x", data_type: TYPE_FP32, dims: [ -1, 9 ] } ]
output [ { name: "y", data_type: TYPE_FP32, dims: [ -1, 8 ] } ]
instance_group [ { kind: KIND_CPU, count: 1 } ]
parameters { key: "directory", value: { string_value: "DIRECTORY" } }
sequence_batching {
  max_sequence_idle_microseconds: 60000000
  oldest { max_candidate_sequences: 256 }
}
"""
SHARED = "ntm-peers-triton"


def main() -> None:
    """Lay out a model repository and become the server."""
    port, model, work = sys.argv[1:]
    for left in Path("/dev/shm").glob(f"{SHARED}*"):  # By one that was killed.
        left.unlink()
    here, triton = Path(__file__).parent, Path(pytriton.__file__).parent / "tritonserver"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = triton / "backends/python/triton_python_backend_stub"
    shutil.copy2(next((triton / "python_backend_stubs" / python).glob("triton_python_backend_stub*")), stub)

    version = Path(work, "repository/ntm/1")
    version.mkdir(parents=True, exist_ok=True)
    shutil.copy2(here / "triton_model.py", version / "model.py")
    shutil.copy2(here / "memories.py", version / "memories.py")
    (version.parent / "config.pbtxt").write_text(CONFIG.replace("DIRECTORY", model))

    libraries = [triton.parent.parent / "nvidia_pytriton.libs", sysconfig.get_config_var("LIBDIR")]
    packages = sysconfig.get_path("purelib")
    environment = os.environ | {"LD_LIBRARY_PATH": ":".join(map(str, libraries)), "NTM_PACKAGES": packages}
    command = [
        str(triton / "bin/tritonserver"), f"--model-repository={version.parent.parent}",
        f"--backend-directory={triton / 'backends'}", f"--backend-config=python,shm-region-prefix-name={SHARED}",
        "--grpc-address=127.0.0.1", f"--grpc-port={port}", "--reuse-grpc-port=0",
        # With the default, 8, it crashed in most loads of 256 sequences, on reading the id of a request.
        "--grpc-infer-allocation-pool-size=2048",
        "--allow-http=false", "--allow-metrics=false", "--log-info=false",
    ]  # fmt: skip
    os.execve(command[0], command, environment)


if __name__ == "__main__":
    main()
