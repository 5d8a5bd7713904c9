"""Shards: units of work, each with a file of labels that is written atomically."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from pipeline.atomic_files import replacing
from pipeline.scoring import ScoringError
from pipeline.scoring.output_formats import OUTPUT_FORMATS, OutputFormat
from pipeline.scoring.plan import Plan
from pipeline.scoring.scorer import Scorer, Settings
from pipeline.scoring.sources import Source


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """Everything needed to score any shard, in any process."""

    source: Source
    artifact: Path
    out: Path
    plan: Plan
    settings: Settings

    @property
    def format(self) -> OutputFormat:
        """Format of the files in `out`."""
        return OUTPUT_FORMATS[self.plan.format]

    def part(self, shard: int) -> Path:
        """Path of a shard's labels; if the file exists, the shard is finished."""
        return self.out / f"part-{shard:05}{self.format.suffix}"

    def bad(self, shard: int) -> Path:
        """Path of a shard's bad images; the file exists only if there are any."""
        return self.out / f"bad-{shard:05}{self.format.suffix}"

    @property
    def missing(self) -> list[int]:
        """Shards that are not scored yet."""
        return [shard for shard in range(self.plan.shards) if not self.part(shard).exists()]


@dataclass(frozen=True, slots=True)
class Totals:
    """Number of images with a label, and of those that could not be read."""

    scored: int
    bad: int

    @property
    def images(self) -> int:
        return self.scored + self.bad


def score_shard(
    job: Job, scorer: Scorer, shard: int, on_images: Callable[[int], None] = lambda images: None
) -> Totals:
    """Score a shard and write its files; `on_images` gets the image count of each batch."""
    chunk = job.source.read(*job.plan.bounds(shard))
    scored, bad = scorer.score(chunk, on_images)
    # The labels come last: a shard that is interrupted here is scored again.
    if len(bad):
        _write(bad, job.bad(shard), job.format)
    else:
        job.bad(shard).unlink(missing_ok=True)
    _write(scored, job.part(shard), job.format)
    return Totals(len(scored), len(bad))


def count(job: Job) -> Totals:
    """Count the rows of all files, and compare each shard's with its number of images.

    Raises:
        ScoringError: a shard's file is missing or damaged, or its number of rows is wrong.

    """
    scored = bad = 0
    for shard in range(job.plan.shards):
        start, stop = job.plan.bounds(shard)
        part, rejected = job.part(shard), job.bad(shard)
        rows = _rows(part, job.format), _rows(rejected, job.format) if rejected.exists() else 0
        if sum(rows) != stop - start:
            raise ScoringError(
                f"{part}: {rows[0]:,} scored and {rows[1]:,} bad are not the {stop - start:,} "
                "images of the shard: delete the file and run the same command again"
            )
        scored, bad = scored + rows[0], bad + rows[1]
    return Totals(scored, bad)


def _rows(file: Path, output: OutputFormat) -> int:
    try:
        return output.count_rows(file)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ScoringError(
            f"{file} cannot be read ({error}): delete it and run the same command again"
        ) from error


def _write(table: pa.Table, file: Path, output: OutputFormat) -> None:
    # Two processes that score the same shard must not write into one file.
    with replacing(file, f".{os.getpid()}.tmp") as part:
        output.write(table, part)
