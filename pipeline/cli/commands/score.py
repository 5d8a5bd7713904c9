"""`limelight score`: labels for many images at once."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.progress import MofNCompleteColumn

from pipeline.cli.model_choice import choose_model
from pipeline.console import next_command, say
from pipeline.progress_bars import ImagesPerSecond, progress_bar
from pipeline.scoring import ScoringError
from pipeline.scoring.output_formats import FormatName

if TYPE_CHECKING:
    from pipeline.scoring.shards import Job


def score(
    source: Annotated[Path, typer.Argument(help="folder of images or Parquet files, or a file")],
    model: Annotated[str, typer.Option(help="an artefact, or the name of a shipped model")],
    out: Annotated[Path, typer.Option(help="folder to write to, or to continue in")],
    column: Annotated[
        str | None, typer.Option(help="of the images in Parquet files; default: image")
    ] = None,
    output: Annotated[
        FormatName, typer.Option("--format", help="of the files; csv is safe for spreadsheets")
    ] = "parquet",
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="this process, or Ray's workers")
    ] = "local",
    batch_size: Annotated[int, typer.Option(min=1, help="images in a batch")] = 256,
    shard_size: Annotated[int, typer.Option(min=1, help="images in one file of labels")] = 4096,
    explain: Annotated[
        bool,
        typer.Option("--explain/--no-explain", help="add the box of the evidence for the label"),
    ] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option(help="auto uses a GPU if there is one")
    ] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="of the network; 0 uses every core")] = 0,
) -> None:
    """Label a folder of images, or of Parquet files with a column of images; prints OUT.

    OUT gets files part-NNNNN with labels, and files bad-NNNNN with what could not be read.
    Run the same command again to continue an interrupted one.

    Example: limelight score ./photos --model cifar10 --out scores
    """
    chosen = choose_model(model)
    if chosen.kind == "run":
        export = next_command("limelight", "export", Path(model))
        raise ScoringError(f"{model} is a run: export it first, by {export}")
    try:
        from pipeline.scoring.job import plan_job, run
        from pipeline.scoring.scorer import Settings
    except ImportError as error:
        raise ScoringError(
            f"scoring needs pyarrow ({error}): pip install 'limelight[score]'"
        ) from error
    settings = Settings(device=device, batch_size=batch_size, threads=threads, explain=explain)
    job = plan_job(
        source,
        chosen.folder,
        out,
        shard_images=shard_size,
        settings=settings,
        column=column,
        output=output,
    )
    before = _done(job)
    started = time.perf_counter()
    with progress_bar(MofNCompleteColumn(), ImagesPerSecond()) as bar:
        task = bar.add_task(job.plan.model, total=job.plan.images, completed=before)
        totals = run(job, engine, lambda images: bar.advance(task, images))
    seconds = time.perf_counter() - started
    new = totals.images - before
    say(
        f"{totals.images:,} images: {totals.scored:,} labelled, {totals.bad:,} bad"
        f"{f' (bad-*{job.format.suffix} says why)' if totals.bad else ''}; {new:,} of them now, in "
        f"{seconds:.1f} s, {new / seconds:,.0f} images/s"
    )
    print(out)


def _done(job: "Job") -> int:
    """Count the images of the shards that an earlier run has finished."""
    starts_and_stops = (job.plan.bounds(shard) for shard in job.missing)
    return job.plan.images - sum(stop - start for start, stop in starts_and_stops)
