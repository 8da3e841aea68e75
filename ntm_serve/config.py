"""Settings: each declared once, with its default, unit, limits and help. The flag, the environment variable
(`NTM_SERVE_` and the name) and the documentation all come from here; nothing else reads the environment.
"""

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ntm_serve.errors import SettingsFault

ENVIRONMENT_PREFIX = "NTM_SERVE_"


class Settings(BaseSettings):
    """Settings of a server."""

    model_config = SettingsConfigDict(env_prefix=ENVIRONMENT_PREFIX, frozen=True, extra="forbid")

    models: Path = Field(Path("models"), description="model repository: <model>/<version>/ folders")
    repository_poll_s: float = Field(
        5.0, ge=0, description="how often the repository is looked through for versions that came or went; 0 is never"
    )
    model_control: bool = Field(
        False, description="let clients of the Open Inference Protocol load and unload models of the repository"
    )
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 is every one")
    port: int = Field(8001, ge=0, le=65535, description="gRPC port; 0 is any free one")
    http_port: int = Field(8002, ge=0, le=65535, description="port of metrics and health; 0 is any free one")
    compute_threads: int = Field(
        default_factory=lambda: max(1, len(os.sched_getaffinity(0)) - 1),
        ge=1,
        description="batches that run side by side; the cores of this process less one if not said",
    )
    batch_max: int = Field(
        0,
        ge=0,
        le=4096,
        description="most sessions in one batch; 0 measures what makes the most steps a second",
    )
    execution_provider: Literal["cpu", "openvino", "cuda"] = Field("cpu", description="what ONNX Runtime computes with")
    sessions_max: int = Field(200_000, ge=1, description="most sessions in memory, or coming there to be opened")
    idle_life_s: float = Field(
        7 * 24 * 3600.0, ge=0, description="seconds without a step after which a session expires; 0 is never"
    )
    store: str = Field(
        "", description="where sessions outlive the server: sqlite:PATH, or for several servers redis://HOST:PORT"
    )
    store_prefix: str = Field("ntm-serve", description="redis: what the names of keys begin with")
    durability: Literal["auto", "memory", "process", "disk"] = Field(
        "auto", description="of sessions that are opened without one; auto is process with a store, memory without"
    )
    resident_bytes_max: int = Field(
        0,
        ge=0,
        description="most bytes of states in memory; idle sessions leave it for the store, or end; 0 is no limit",
    )
    snapshot_steps: int = Field(64, ge=1, description="most steps that run again when a session comes back")
    retain_steps: int = Field(
        0, ge=0, description="steps that durable sessions can be forked and rewound back at least"
    )
    lease_s: float = Field(
        0.6, ge=0.1, description="redis: seconds after its last word when a server's sessions may be taken from it"
    )
    handover_s: float = Field(3.0, ge=0, description="seconds that a session is waited for which another server has")
    store_patience_s: float = Field(
        5.0, ge=0, description="seconds that the store may not answer, until what waits for it fails"
    )
    sessions_per_message_max: int = Field(4096, ge=1, description="most sessions, or rows without any, in one message")
    steps_per_message_max: int = Field(4096, ge=1, description="most steps of one session in one message")
    session_steps_waiting_max: int = Field(
        16_384, ge=1, description="most steps admitted and not yet answered, per session"
    )
    steps_waiting_max: int = Field(1_000_000, ge=1, description="most steps admitted and not yet answered, per model")
    steps_waiting_total_max: int = Field(
        2_000_000, ge=1, description="most steps admitted and not yet answered, over all models"
    )
    message_bytes_max: int = Field(64 << 20, ge=1024, description="largest message taken, in bytes")
    messages_in_flight_max: int = Field(64, ge=1, description="most messages of one stream without their answer")
    stream_bytes_max: int = Field(
        64 << 20, ge=1, description="bytes of one stream's messages without their answer beyond which none is read"
    )
    window_messages: int = Field(64, ge=1, description="messages per session whose replies are kept for retries")
    window_bytes_max: int = Field(
        1 << 20, ge=0, description="most bytes of such messages per session; the last one is always kept"
    )
    drain_s: float = Field(10.0, ge=0, description="most seconds that stopping waits for steps in flight")
    metrics_compat: Literal["none", "triton"] = Field(
        "none", description="also give metrics under the names of another server"
    )
    log_format: Literal["console", "json"] = Field("console", description="how log lines are written")
    log_sessions: Literal["no", "yes"] = Field(
        "no", description="whether each change of a session's state is logged: opened, woken, handed over, closed"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")


def read_settings(given: dict[str, Any]) -> Settings:
    """Settings from what was given, else from the environment, else the defaults. Raises SettingsFault that
    names every fault at once.
    """
    try:
        return Settings(**given)
    except ValidationError as fault:
        lines = []
        for error in fault.errors():
            name = ".".join(str(part) for part in error["loc"])
            lines.append(f"{name} ({ENVIRONMENT_PREFIX}{name.upper()}): {error['msg']}, got {error['input']!r}")
        raise SettingsFault("settings: " + "; ".join(lines)) from fault
