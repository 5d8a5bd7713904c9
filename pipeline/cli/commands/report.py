"""`limelight report`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.training_options import Data, Device, Workers
from pipeline.data.registry import check_source, source_at
from pipeline.progress_bars import reading_bar, step_bar
from pipeline.runs.run_config import read_results


def report(
    run: Annotated[Path, typer.Argument(help="a run folder that `limelight train` wrote")],
    device: Device = "auto",
    tta: Annotated[
        bool,
        typer.Option("--tta/--no-tta", help="also evaluate with test-time augmentation"),
    ] = True,
    data: Data = None,
    workers: Workers = None,
) -> None:
    """Write a run's report.html: curves, errors, calibration and a model card; prints its path.

    Example: limelight report runs/mnist
    """
    config, _ = read_results(run)
    check_source(source_at(data) if data else config.source)
    # torch takes seconds to import: what can be refused without it is refused before.
    from pipeline.data.reading_options import Reading
    from pipeline.report import write_report
    from pipeline.runs.run import read_run

    with reading_bar() as read:
        found = read_run(run, moved_to=data, reading=Reading(workers=workers, progress=read))
        _ = found.data  # read while the bar for it is there
    with step_bar() as progress:
        page = write_report(found, device=device, tta=tta, progress=progress)
    print(page)
