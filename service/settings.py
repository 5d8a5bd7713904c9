"""How the service operates: one object, read once from the environment (`LIMELIGHT_*`)."""

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Each field is set by the variable of its name, e.g. ``LIMELIGHT_MAX_BYTES=1000000``."""

    model_config = SettingsConfigDict(env_prefix="LIMELIGHT_", frozen=True, extra="forbid")

    models: Path = Path(__file__).resolve().parent.parent / "zoo"
    """Folder of artefacts, NAME/VERSION/manifest.json; the newest version of each is served."""
    default_model: str | None = None
    """Answers a request without `model`. Unset: `digits` where there is one, else the first."""
    device: Literal["auto", "cuda", "tensorrt", "cpu"] = "auto"
    """`auto` takes a GPU where there is one; another that fails keeps the service unready."""
    precision: Literal["auto", "float32", "float16"] = "auto"
    """Of the networks' layers; `auto` takes float16 on a GPU, of models exported with `--fp16`."""
    workers: int = Field(default=0, ge=0, le=256)
    """Processes that answer requests; 0 chooses by the cores and the container's CPU limit."""
    threads: int = Field(default=0, ge=0, le=1024)
    """ONNX Runtime's threads for one pass in one worker; 0 shares the cores among the workers."""
    max_bytes: int = Field(default=10_000_000, ge=1)
    """Largest request body."""
    max_pixels: int = Field(default=40_000_000, ge=1)
    """Largest upload, width x height, read from the header before decoding."""
    max_batch: int = Field(default=32, ge=1, le=1024)
    """Most images in one pass through the network."""
    max_evaluations: int = Field(default=256, ge=4, le=4096)
    """Most masked images that one explanation by occlusion or Score-CAM may look at."""
    max_queued: int = Field(default=4096, ge=1)
    """Most images that wait in one worker for one model; further ones are refused."""
    max_queued_bytes: int = Field(default=256_000_000, ge=1)
    """Most bytes of uploads that one worker holds at a time; further ones are refused."""
    timeout_s: float = Field(default=10.0, gt=0, le=3600)
    """A request that cannot be answered in this time is refused; X-Timeout-Ms can shorten it."""
    grpc_port: int | None = Field(default=None, ge=1, le=65535)
    """Port of the Open Inference Protocol over gRPC, on HTTP's address; unset: HTTP alone."""
    drain_s: float = Field(default=0.0, ge=0, le=600)
    """Pause between saying "not ready" and closing, at SIGTERM: a load balancer's time to notice.
    """
    access_log: bool = False
    """One line for each request; failures of the service are logged anyway."""
    log_format: Literal["text", "json"] = "text"
    metrics: bool = True
    """False leaves `/metrics` empty; there to measure what counting costs."""
    trace_endpoint: str | None = None
    """OTLP over HTTP, as in ``http://collector:4318/v1/traces``; unset: no tracing."""
    trace_ratio: float = Field(default=0.01, ge=0, le=1)
    """Share of requests that are traced, of those whose caller has not decided."""


def settings_problem(error: ValidationError) -> str:
    """What is wrong with the environment, by the variables' own names."""
    return "; ".join(
        f"LIMELIGHT_{'_'.join(map(str, problem['loc'])).upper()} is {problem['input']!r}: "
        f"{problem['msg'][0].lower()}{problem['msg'][1:]}"
        for problem in error.errors()
    )
