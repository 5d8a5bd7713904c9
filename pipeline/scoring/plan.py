"""`plan.json`: the job of an output folder, so that only the same job can be continued in it."""

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.atomic_files import replacing
from pipeline.scoring import ScoringError
from pipeline.scoring.output_formats import FormatName

PLAN = "plan.json"

_MEANINGS = {
    "source": "another SOURCE",
    "listing": "a SOURCE with other files (names and sizes)",
    "column": "another --column",
    "images": "a SOURCE of another number of images",
    "shard_images": "another --shard-size",
    "format": "another --format",
    "model": "another model",
    "manifest": "another manifest of the artefact",
    "explain": "another --explain",
}


class Plan(BaseModel):
    """Images in order, divided into shards, and the artefact that labels them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    source: str
    listing: str
    """SHA-256 of the names and sizes of the files."""
    column: str
    """Of the images, if the source is Parquet."""
    images: int = Field(ge=1)
    shard_images: int = Field(ge=1)
    format: FormatName
    model: str
    """NAME/VERSION"""
    manifest: str
    """SHA-256 of `manifest.json`, which holds that of every other file."""
    explain: bool

    @property
    def shards(self) -> int:
        return -(-self.images // self.shard_images)

    def bounds(self, shard: int) -> tuple[int, int]:
        """Return the first image of a shard, and the first one after it."""
        start = shard * self.shard_images
        return start, min(start + self.shard_images, self.images)


def begin(out: Path, plan: Plan) -> None:
    """Write `plan` into the empty folder `out`, or check that it is the plan in there.

    Raises:
        ScoringError: `out` has other files, or the plan of another job.

    """
    file = out / PLAN
    if file.exists():
        _compare(file, plan)
        return
    if out.exists() and (not out.is_dir() or any(not _is_leftover(path) for path in out.iterdir())):
        raise ScoringError(f"{out} is not an empty folder, and has no {PLAN}: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    with replacing(file, f".{os.getpid()}.tmp") as part:
        part.write_text(plan.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _is_leftover(path: Path) -> bool:
    """Tell whether `path` is a plan that a killed process had not finished writing."""
    return path.name.startswith(f"{PLAN}.") and path.suffix == ".tmp"


def _compare(file: Path, plan: Plan) -> None:
    try:
        found = Plan.model_validate_json(file.read_bytes())
    except (ValidationError, OSError) as error:
        raise ScoringError(
            f"{file} cannot be read ({error}): delete {file.parent}, or choose another --out"
        ) from error
    differences = [
        meaning
        for field, meaning in _MEANINGS.items()
        if getattr(found, field) != getattr(plan, field)
    ]
    if differences:
        raise ScoringError(
            f"{file.parent} was begun with {', '.join(differences)}: choose another --out, or "
            "delete it"
        )
