"""A scoring job: source, artefact and output folder, run by one of the engines."""

import hashlib
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from limelight.artifact.manifest import MANIFEST_FILE
from limelight.artifact.store import load_artifact, newest_version
from limelight.imaging.formats import suffixes
from pipeline.errors import DataError
from pipeline.runs.folder_lock import locked
from pipeline.scoring import ScoringError
from pipeline.scoring.failures import in_words
from pipeline.scoring.missing_decoders import warn_of_missing_decoders
from pipeline.scoring.output_formats import FormatName
from pipeline.scoring.parquet import COLUMN, SUFFIX, ParquetSource, is_private
from pipeline.scoring.plan import Plan, begin
from pipeline.scoring.scorer import Scorer, Settings
from pipeline.scoring.shards import Job, Totals, count, score_shard
from pipeline.scoring.sources import Source, find_files, list_images

EngineName = Literal["local", "ray"]
OnImages = Callable[[int], None]


def find_source(path: Path, column: str | None = None, *, apart_from: Path | None = None) -> Source:
    """List the images at `path`: a Parquet file, a folder of them, or a folder of images.

    `column` is the column of a Parquet file's images; None: `COLUMN`. What is below `apart_from`
    does not count, such as the labels of an earlier run.

    Raises:
        DataError: there is nothing to score, or a Parquet file cannot be read.

    """
    if path.is_file() and path.suffix.lower() == SUFFIX:
        return ParquetSource(path.parent, [path.name], column or COLUMN)
    if not path.is_dir():
        raise DataError(f"{path} is neither a folder of images nor a Parquet file")
    files = list(find_files(path, suffixes() | {SUFFIX}))
    if apart_from is not None and apart_from.is_relative_to(path):
        below = f"{apart_from.relative_to(path).as_posix()}/"
        files = [name for name in files if not name.startswith(below)]
    images = [name for name in files if Path(name).suffix.lower() != SUFFIX]
    tables = sorted(name for name in set(files).difference(images) if not is_private(name))
    if images and tables:
        raise DataError(f"{path} has images and Parquet files: put them into separate folders")
    if tables:
        return ParquetSource(path, tables, column or COLUMN)
    if not images:
        known = ", ".join(sorted(suffixes()))
        raise DataError(f"{path} has no image ({known}) and no {SUFFIX} file below it")
    if column is not None:
        raise DataError(f"{path} is a folder of images: leave out --column, which is for Parquet")
    warn_of_missing_decoders(images)
    return list_images(path, images)


@in_words()
def plan_job(
    source: Path,
    artifact: Path,
    out: Path,
    *,
    shard_images: int,
    settings: Settings,
    column: str | None = None,
    output: FormatName = "parquet",
) -> Job:
    """List `source`, verify the artefact, and begin or continue the job in `out`.

    `column` is that of `find_source`, and `output` the format of the files.

    Raises:
        DataError: there is nothing to score at `source`.
        ScoringError: the artefact is damaged, or `out` belongs to another job.

    """
    if out.resolve() == source.resolve():
        raise ScoringError(f"{out} is SOURCE itself: choose another --out")
    # Absolute, since Ray's workers have other working folders.
    source, out = source.resolve(), out.resolve()
    artifact = newest_version(artifact.resolve())
    found = find_source(source, column, apart_from=out)
    manifest = load_artifact(artifact).manifest
    plan = Plan(
        source=str(source),
        listing=found.listing,
        column=column or COLUMN,
        images=found.images,
        shard_images=shard_images,
        format=output,
        model=f"{manifest.name}/{manifest.version}",
        manifest=hashlib.sha256((artifact / MANIFEST_FILE).read_bytes()).hexdigest(),
        explain=settings.explain,
    )
    begin(out, plan)
    return Job(source=found, artifact=artifact, out=out, plan=plan, settings=settings)


@in_words()
def run(
    job: Job, engine: EngineName = "local", on_images: OnImages = lambda images: None
) -> Totals:
    """Score the missing shards, and count all images.

    Raises:
        ScoringError: the engine is not available or fails, rows are missing, or another process
            writes into the folder.

    """
    try:
        with locked(job.out):
            if job.missing:
                _run_engine(job, engine, on_images)
            totals = count(job)
            for leftover in job.out.glob("*.tmp"):  # of interrupted runs
                leftover.unlink(missing_ok=True)
            return totals
    except BlockingIOError as error:
        raise ScoringError(
            f"another process scores into {job.out}: wait for it, or choose another --out"
        ) from error


def _run_engine(job: Job, engine: EngineName, on_images: OnImages) -> None:
    if engine == "ray":
        try:
            run_on_ray = importlib.import_module("pipeline.scoring.cluster").run_on_ray
        except ImportError as error:
            raise ScoringError(
                f"--engine ray needs Ray ({error}): pip install 'limelight[ray]'"
            ) from error
        run_on_ray(job, on_images)
        return
    scorer = Scorer(load_artifact(job.artifact), job.settings)
    for shard in job.missing:
        score_shard(job, scorer, shard, on_images)
