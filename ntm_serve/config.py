"""Settings: each declared once, with its default, unit, limits and help. The flag, the environment variable
(`NTM_SERVE_` and the name) and the documentation all come from here; nothing else reads the environment.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from ntm_serve.errors import SettingsFault

ENVIRONMENT_PREFIX = "NTM_SERVE_"

# A file that need not be; a variable that is set to nothing is one that is not set.
File = Annotated[Path | None, BeforeValidator(lambda given: given or None)]


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
    http_port: int = Field(8002, ge=0, le=65535, description="port of the page, metrics and health; 0 is any free one")
    tls_cert: File = Field(
        None, description="PEM file of the server's certificate and those between; read again when it changes"
    )
    tls_key: File = Field(None, description="PEM file of its key, without a password; read again when it changes")
    tls_client_ca: File = Field(
        None, description="PEM file of authorities; gRPC clients must have a certificate of one of them"
    )
    auth_file: File = Field(
        None,
        description="TOML file of callers, see docs/security.md; read again when it changes",
    )
    auth_jwt_keys: File = Field(
        None, description="JWK set file of an issuer of JSON Web Tokens; read again when it changes"
    )
    auth_jwt_issuer: str = Field("", description="JWT: the issuer (iss)")
    auth_jwt_audience: str = Field("", description="JWT: the audience (aud) that this server is")
    auth_jwt_tenant_claim: str = Field("tenant", description="JWT: the claim that says whose the caller is")
    auth_jwt_roles_claim: str = Field("roles", description="JWT: the claim with a list of roles: admin, metrics")
    metrics_access: Literal["open", "token"] = Field(
        "open",
        description="who reads /metrics: everybody, or tokens with the role metrics or admin",
    )
    tenants_file: File = Field(
        None, description="TOML file of tenants with limits of their own; read again when it changes"
    )
    tenant_sessions_max: int = Field(
        0, ge=0, description="most sessions of a tenant in memory, or coming there to be opened; 0 is no limit"
    )
    tenant_state_bytes_max: int = Field(
        0, ge=0, description="most bytes of states of a tenant's sessions in memory; 0 is no limit"
    )
    tenant_steps_waiting_max: int = Field(
        0, ge=0, description="most steps admitted and not yet answered, per tenant; 0 is no limit"
    )
    tenant_steps_per_s_max: float = Field(
        0, ge=0, description="most steps a second on the average, per tenant; 0 is no limit"
    )
    tenant_message_bytes_max: int = Field(
        0, ge=0, description="largest message taken of a tenant, in bytes; 0 is message_bytes_max"
    )
    tenant_steps_per_message_max: int = Field(
        0, ge=0, description="most steps of one session in one message of a tenant; 0 is steps_per_message_max"
    )
    tenant_calls_max: int = Field(
        0, ge=0, description="most calls of a tenant at once, streams among them; 0 is calls_max"
    )
    tenant_call_bytes_max: int = Field(
        0,
        ge=0,
        description="bytes of a tenant's unary calls in flight, beyond which none is taken; 0 is no limit",
    )
    tenant_watches_max: int = Field(
        0, ge=0, description="most that watch sessions of a tenant at once; 0 is watches_max"
    )
    tenant_model_sizes_max: int = Field(
        0, ge=0, description="sizes of a model's state that a tenant's sessions may have at once; 0 is model_sizes_max"
    )
    state_bytes_max: int = Field(
        0, ge=0, description="bytes of states in memory beyond which no session is opened; 0 is no limit"
    )
    steps_per_s_max: float = Field(0, ge=0, description="most steps a second on the average, of all; 0 is no limit")
    calls_max: int = Field(100_000, ge=1, description="most calls at once, streams among them")
    call_bytes_max: int = Field(
        1 << 30,
        ge=0,
        description="bytes of unary calls in flight, beyond which none is taken; 0 is no limit",
    )
    stream_age_max_s: float = Field(
        0, ge=0, description="seconds after which a stream is ended, and may be opened again; 0 is never"
    )
    http_tls: bool = Field(True, description="whether the HTTP port has the TLS that the gRPC port has")
    connections_max: int = Field(
        0, ge=0, description="most connections to the gRPC port at once; 0 is as many as the process may have files"
    )
    connection_calls_max: int = Field(
        10_000, ge=1, description="most calls at once over one connection; those beyond wait in the client"
    )
    connection_idle_s: float = Field(
        0, ge=0, description="seconds after which a connection without a call is closed; 0 is never"
    )
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
        description="most bytes of states in memory; idle sessions leave for the store, or end; 0 is no limit",
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
    model_sizes_max: int = Field(
        16, ge=0, description="sizes of a model's state that sessions may choose at once, beside its own"
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
    inspector: Literal["off", "read", "write"] = Field(
        "read", description="what the page of the HTTP port and its API give; write also forks and steps sessions"
    )
    http_names: str = Field("", description="names, as a,b, by which an open HTTP port is called, beside localhost")
    watches_max: int = Field(64, ge=0, description="most that watch a session at once, of the whole server")
    watch_frames_per_s_max: float = Field(30.0, gt=0, description="most frames a second that one who watches gets")
    drain_s: float = Field(10.0, ge=0, description="most seconds that stopping waits for steps in flight")
    metrics_compat: Literal["none", "triton"] = Field(
        "none", description="also give metrics under the names of another server"
    )
    trace_endpoint: str = Field(
        "", description="OpenTelemetry collector that spans of messages go to, as http://HOST:4318; empty is none"
    )
    trace_share: float = Field(
        0.01, ge=0, le=1, description="share of traces that begin here and are recorded; those of callers always are"
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
