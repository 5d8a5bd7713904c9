"""How the service operates: one object, read once from the environment (`LIMELIGHT_*`)."""

from pathlib import Path
from typing import Literal

from pydantic import Field
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
    max_bytes: int = Field(default=10_000_000, ge=1)
    """Largest request body."""
    max_pixels: int = Field(default=40_000_000, ge=1)
    """Largest upload, width x height, read from the header before decoding."""
    max_batch: int = Field(default=32, ge=1, le=1024)
    """Most images in one pass through the network."""
    threads: int = Field(default=1, ge=0)
    """ONNX Runtime's threads for one pass; 0 lets it take every core."""
