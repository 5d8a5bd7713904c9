"""`limelight report`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.runs.run import read_run


def report(
    run: Annotated[Path, typer.Argument(help="a run folder that `limelight train` wrote")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    tta: Annotated[
        bool,
        typer.Option("--tta/--no-tta", help="also evaluate with test-time augmentation"),
    ] = True,
) -> None:
    """Write a run's report.html: curves, errors, calibration and a model card; prints its path.

    Example: limelight report runs/mnist
    """
    # matplotlib takes a while to import.
    from pipeline.report import write_report

    print(write_report(read_run(run), device=device, tta=tta))
