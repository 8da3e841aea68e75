"""TorchServe with a handler of one's own and dynamic batching: `python torchserve_server.py PORT MODEL WORK`.

Its own sequence batching is not used: it stalled under this load, and without it a worker batches what comes.
"""

import json
import os
import shutil
import socket
import sys
from pathlib import Path

# Else it logs several lines a request.
LOG = """<Configuration><Loggers><Root level="error"/></Loggers></Configuration>"""
MODEL = {"minWorkers": 1, "maxWorkers": 1, "batchSize": 64, "maxBatchDelay": 1, "responseTimeout": 60}


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return int(it.getsockname()[1])


def main() -> None:
    """Lay out a model store and become the server."""
    port, model, work = sys.argv[1:]
    here, archive = Path(__file__).parent, Path(work, "store/ntm")
    shutil.rmtree(archive, ignore_errors=True)
    (archive / "MAR-INF").mkdir(parents=True)
    for name in ("torchserve_handler.py", "memories.py"):
        shutil.copy2(here / name, archive / name)
    (archive / "directory").write_text(model)
    described = {"modelName": "ntm", "handler": "torchserve_handler.py", "modelVersion": "1.0"}
    manifest = {"runtime": "python", "archiverVersion": "0.12.0", "model": described}
    (archive / "MAR-INF/MANIFEST.json").write_text(json.dumps(manifest))
    http, management, metrics, grpc_management = (free_port() for _ in range(4))
    settings = {
        "inference_address": f"http://127.0.0.1:{http}", "management_address": f"http://127.0.0.1:{management}",
        "metrics_address": f"http://127.0.0.1:{metrics}", "grpc_inference_address": "127.0.0.1",
        "grpc_management_address": "127.0.0.1", "grpc_inference_port": port, "grpc_management_port": grpc_management,
        "disable_token_authorization": "true", "disable_system_metrics": "true", "enable_envvars_config": "false",
        "models": json.dumps({"ntm": {"1.0": {"defaultVersion": True, "marName": "ntm", **MODEL}}}),
    }  # fmt: skip
    config = Path(work, "config.properties")
    config.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    log = Path(work, "log4j2.xml")
    log.write_text(LOG)
    command = [
        str(Path(sys.executable).parent / "torchserve"), "--start", "--foreground", "--ncs", "--disable-token-auth",
        "--model-store", str(archive.parent), "--models", "ntm=ntm", "--ts-config", str(config),
        "--log-config", str(log),
    ]  # fmt: skip
    os.chdir(work)  # It writes its logs to where it is started.
    os.execve(command[0], command, os.environ | {"TEMP": work})


if __name__ == "__main__":
    main()
