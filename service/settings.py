"""Settings of the service, read once from the environment (`LIMELIGHT_*`)."""

import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from service.repository.source import check_source
from service.repository.version_policy import VersionPolicies

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#@*\s]+")


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("it is no URL: give one that begins with http:// or https://")
    return value


class Settings(BaseSettings):
    """Settings. Each field has an environment variable, e.g. ``LIMELIGHT_MAX_BYTES=1000000``."""

    model_config = SettingsConfigDict(env_prefix="LIMELIGHT_", frozen=True, extra="forbid")

    models: Path = Path(__file__).resolve().parent.parent / "zoo"
    """Folder of artefacts, NAME/VERSION/manifest.json, of which the newest version of each is
    served; or `bento:NAME:VERSION` or `bento:NAME:latest`, from BentoML's model store."""
    models_poll_s: float = Field(default=5.0, ge=0, le=86_400)
    """Interval at which `models` is searched for new and removed versions. 0: only at the start."""
    versions: str = "latest"
    """Versions to serve: `latest`, `latest:N` or `specific:V,V`; with `NAME=POLICY; ...`, of one
    model. The newest of them answers requests that name no version."""
    max_model_bytes: int | None = Field(default=None, ge=1)
    """Memory of the models in one worker. Versions that would exceed it are refused. Unset: any."""
    unload_idle_s: float = Field(default=0.0, ge=0, le=31_536_000)
    """Time without an image after which an older version may be unloaded to make room, within
    `max_model_bytes`. 0: none is unloaded."""
    admin_port: int | None = Field(default=None, ge=1, le=65535)
    """Port on loopback for `limelight models` and `log-level`, and for Triton's repository control.
    Unset: none."""
    admin_metrics: bool = False
    """Show the metrics of all workers at `/metrics` of the management port, too."""
    signatures: Literal["off", "warn", "require"] = "off"
    """Verify before a version is loaded who signed it. `require` refuses one that no trusted key
    signed; `warn` serves it, and logs."""
    trusted_keys: Path | None = Field(default=None, validate_default=True)
    """Public keys and root certificates (PEM) that may sign models: a file, or a folder of them."""
    default_model: str | None = None
    """Model for requests without `model`. Unset: `digits` if it exists, else the first by name."""
    device: Literal["auto", "cuda", "tensorrt", "cpu"] = "auto"
    """`auto` uses a GPU if there is one. With another device that fails, the service is unready."""
    precision: Literal["auto", "float32", "float16", "int8"] = "auto"
    """Precision of the layers. `auto` uses float16 on a GPU for models exported with `--fp16`, and
    int8 on a CPU for models exported with `--int8`, if it is right and faster on this processor."""
    workers: int = Field(default=0, ge=0, le=256)
    """Worker processes. 0 chooses the number by the cores and the container's CPU limit."""
    threads: int = Field(default=0, ge=0, le=1024)
    """ONNX Runtime threads of one forward pass in one worker. 0: cores divided by workers."""
    max_bytes: int = Field(default=10_000_000, ge=1)
    """Maximum size of a request body."""
    max_pixels: int = Field(default=40_000_000, ge=1)
    """Maximum width x height of an upload, checked in the image's header before decoding."""
    max_picture_pixels: int = Field(default=4_000_000, ge=1)
    """Maximum width x height of a picture with a map, and of the picture that `zoom` crops. Larger
    uploads are reduced."""
    max_decoded_bytes: int = Field(default=200_000_000, ge=1_000_000)
    """Most memory that decoding one image may take. An image that needs more is rejected; one that
    would have to wait for others until its deadline is rejected as well."""
    canary_header: str = Field(default="X-Client-Id", pattern=r"^[A-Za-z0-9-]{1,64}$")
    """Header whose value decides whether a client gets a canary. Without it, the name of the API
    key decides, or the request."""
    max_batch: int = Field(default=32, ge=1, le=1024)
    """Maximum number of images in a batch."""
    max_evaluations: int = Field(default=256, ge=4, le=4096)
    """Maximum number of masked images of one explanation by occlusion or Score-CAM."""
    max_queued: int = Field(default=4096, ge=1)
    """Maximum number of admitted images per worker and model. More are rejected."""
    max_queued_bytes: int = Field(default=256_000_000, ge=1)
    """Upload budget of one worker. Uploads that exceed it are rejected."""
    timeout_s: float = Field(default=10.0, gt=0, le=3600)
    """Time limit. A request that would exceed it is rejected. X-Timeout-Ms can shorten it."""
    cors_origins: Annotated[tuple[str, ...] | None, NoDecode] = None
    """Origins whose web pages may use the service, separated by commas; ``*``: any. Unset: none."""
    max_connections: int = Field(default=1000, ge=1)
    """Connections of one worker. For more, idle ones are closed, and then new ones are rejected."""
    max_head_bytes: int = Field(default=32_768, ge=1024)
    """Maximum size of a request's head, and of its trailers."""
    max_head_fields: int = Field(default=100, ge=1)
    """Maximum number of header fields in a request."""
    max_pipelined: int = Field(default=16, ge=1)
    """Maximum number of requests that wait on one connection. More are not read."""
    max_unsent_bytes: int = Field(default=64_000_000, ge=1)
    """Responses that the clients of one worker have not read. Above it, the slowest are dropped."""
    keep_alive_s: float = Field(default=75.0, gt=0, le=3600)
    """Time after which an idle connection is closed."""
    head_timeout_s: float = Field(default=10.0, gt=0, le=3600)
    """Time in which the head of a request must arrive."""
    write_timeout_s: float = Field(default=10.0, gt=0, le=3600)
    """Time in which a client must read a response, or the next 65,536 bytes of it."""
    linger_s: float = Field(default=30.0, gt=0, le=3600)
    """Time in which the rest of an upload is discarded after its response."""
    grpc_port: int | None = Field(default=None, ge=1, le=65535)
    """Port of the Open Inference Protocol over gRPC, on the address of HTTP. Unset: HTTP only."""
    grpc_max_streams: int = Field(default=100, ge=1)
    """Maximum number of calls at a time on one gRPC connection."""
    grpc_idle_s: float = Field(default=300.0, ge=1, le=86_400)
    """Time after which a gRPC connection without calls, or a stream without messages, is closed."""
    grpc_connection_age_s: float = Field(default=3600.0, ge=1, le=86_400)
    """Time after which a gRPC connection is closed; its client opens another one."""
    grpc_keepalive_s: float = Field(default=60.0, ge=1, le=86_400)
    """Interval at which gRPC clients are pinged; those that do not answer are disconnected."""
    grpc_reflection: bool = False
    """Let clients of the gRPC port ask for its services and messages, as grpcurl does."""
    drain_s: float = Field(default=0.0, ge=0, le=600)
    """Pause after SIGTERM, unready but still serving, for load balancers to notice."""
    worker_timeout_s: float = Field(default=30.0, ge=0, le=3600)
    """Time without a sign of life after which a worker is killed and replaced. 0: never."""
    keys_file: Path | None = None
    """File of API keys (TOML). Unset: nobody needs a key."""
    public_page: bool = True
    """With keys: the web page, which asks for a key itself, is shown without one."""
    public_metrics: bool = False
    """With keys: `/metrics` is shown without one."""
    access_log: bool = False
    """Log one line per request. Failures of the service are always logged."""
    log_format: Literal["text", "json"] = "text"
    metrics: bool = True
    """False leaves `/metrics` empty. Use it to measure the cost of the metrics."""
    trace_endpoint: Annotated[str, AfterValidator(_http_url)] | None = None
    """URL for OTLP over HTTP, e.g. ``http://collector:4318/v1/traces``. Unset: `OTEL_*` decide."""
    trace_ratio: float = Field(default=0.01, ge=0, le=1)
    """Share of requests to trace. A caller's own decision (`traceparent`) takes precedence."""

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        origins = tuple(value.lower().replace(",", " ").split())
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin[:100]!r} is not an origin: write it as https://example.com, without "
                    "a path, or * for any"
                )
        return origins

    @field_validator("models")
    @classmethod
    def _is_source(cls, value: Path) -> Path:
        check_source(value)
        return value

    @field_validator("versions")
    @classmethod
    def _is_policy(cls, value: str) -> str:
        VersionPolicies.parse(value)
        return value

    @field_validator("trusted_keys")
    @classmethod
    def _are_given(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None and info.data.get("signatures", "off") != "off":
            raise ValueError(
                "LIMELIGHT_SIGNATURES is set: name the public keys that may sign models"
            )
        return value

    @field_validator("*", mode="before")
    @classmethod
    def _is_not_empty(cls, value: object) -> object:
        if value == "":
            raise ValueError("it is empty: give it a value, or unset it")
        return value


def settings_problem(error: ValidationError) -> str:
    """Describe the errors in the environment, with the names of the variables."""
    return "; ".join(
        f"LIMELIGHT_{str(problem['loc'][0]).upper()} is {problem['input']!r}: "
        f"{_lower_first(problem['msg'].removeprefix('Value error, '))}"
        for problem in error.errors()
    )


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
