"""Shards: the unit of work, each a file of labels that is there whole or not at all."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.runs.atomic_files import replacing
from pipeline.scoring import ScoringError
from pipeline.scoring.plan import Plan
from pipeline.scoring.scorer import Scorer, Settings
from pipeline.scoring.sources import Source


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """All that it takes to score any shard, wherever that happens."""

    source: Source
    artifact: Path
    out: Path
    plan: Plan
    settings: Settings

    def part(self, shard: int) -> Path:
        """The file of a shard's labels; once it is there, the shard is done."""
        return self.out / f"part-{shard:05}.parquet"

    def bad(self, shard: int) -> Path:
        """The file of a shard's bad images; only where it has any."""
        return self.out / f"bad-{shard:05}.parquet"

    @property
    def missing(self) -> list[int]:
        """The shards that are yet to be scored."""
        return [shard for shard in range(self.plan.shards) if not self.part(shard).exists()]


@dataclass(frozen=True, slots=True)
class Totals:
    """How many images have a label, and how many could not be read."""

    scored: int
    bad: int

    @property
    def images(self) -> int:
        return self.scored + self.bad


def score_shard(
    job: Job, scorer: Scorer, shard: int, on_images: Callable[[int], None] = lambda images: None
) -> Totals:
    """Score a shard and write its files; `on_images` is told of each batch's images."""
    chunk = job.source.read(*job.plan.bounds(shard))
    scored, bad = scorer.score(chunk, on_images)
    # The labels come last: a shard that is cut short here is scored anew.
    if len(bad):
        _write(bad, job.bad(shard))
    else:
        job.bad(shard).unlink(missing_ok=True)
    _write(scored, job.part(shard))
    return Totals(len(scored), len(bad))


def count(job: Job) -> Totals:
    """Count what the files hold, and compare each shard's with the images that it was given.

    Raises:
        ScoringError: a shard's file is missing, damaged, or has rows too few or too many.

    """
    scored = bad = 0
    for shard in range(job.plan.shards):
        start, stop = job.plan.bounds(shard)
        part, rejected = job.part(shard), job.bad(shard)
        rows = _rows(part), _rows(rejected) if rejected.exists() else 0
        if sum(rows) != stop - start:
            raise ScoringError(
                f"{part}: {rows[0]:,} scored and {rows[1]:,} bad are not the {stop - start:,} "
                "images of the shard: delete the file and run the same command again"
            )
        scored, bad = scored + rows[0], bad + rows[1]
    return Totals(scored, bad)


def _rows(file: Path) -> int:
    try:
        return int(pq.read_metadata(file).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise ScoringError(
            f"{file} cannot be read ({error}): delete it and run the same command again"
        ) from error


def _write(table: pa.Table, file: Path) -> None:
    # Two processes that score the same shard must not write into one file.
    with replacing(file, f".{os.getpid()}.tmp") as part:
        pq.write_table(table, part)
