"""`limelight inspect`: a picture of the layers of a trained network for an image."""

from pathlib import Path
from typing import Annotated

import typer

from limelight.errors import LimelightError
from limelight.imaging.formats import accepted
from limelight.imaging.preprocessing import read_upload
from pipeline.errors import PipelineError
from pipeline.figure_files import check_figure_file
from pipeline.runs.run_config import read_results

MAX_PIXELS = 40_000_000


def inspect(
    run: Annotated[Path, typer.Argument(help="a run folder that `limelight train` wrote")],
    image: Annotated[Path, typer.Argument(help=accepted(own_files=True))],
    out: Annotated[
        Path, typer.Option(help="the picture, .svg or .png", callback=check_figure_file)
    ] = Path("inspection.png"),
) -> None:
    """Draw the layers of a run's network for an image: maps, kernels, features; prints the file.

    Example: limelight inspect runs/mnist examples/seven.png
    """
    config, _ = read_results(run)
    try:
        upload = read_upload(image.read_bytes(), config.image, max_pixels=MAX_PIXELS, own_file=True)
    except (OSError, LimelightError) as error:
        raise PipelineError(f"{image} cannot be read ({error}); choose an image file") from error
    # torch takes seconds to import: what can be refused without it is refused before.
    from pipeline.evaluation.layers.feature_plot import draw_inside
    from pipeline.report.figures.output import save
    from pipeline.runs.run import read_run

    figure = draw_inside(read_run(run), upload.pixels_hwc)
    save(figure, out)
    print(out)
