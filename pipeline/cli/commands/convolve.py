"""`limelight convolve`: a convolution by hand, as in the lesson's first pages."""

from pathlib import Path
from typing import Annotated

import typer

from limelight.imaging.formats import accepted
from pipeline.figure_files import check_figure_file
from pipeline.lessons.by_hand import convolve_picture, read_picture
from pipeline.lessons.convolution import KERNELS, kernel_for


def convolve(
    image: Annotated[Path, typer.Argument(help=accepted(own_files=True))],
    kernel: Annotated[
        str, typer.Option(help=f"{', '.join(KERNELS)}; or a file with a row of numbers a line")
    ] = "top-edge",
    padding: Annotated[int, typer.Option(min=0, help="zeros on each side")] = 0,
    stride: Annotated[int, typer.Option(min=1, help="pixels from one location to the next")] = 1,
    at: Annotated[
        tuple[int, int] | None,
        typer.Option(help="row and column of the activation to show; default: the largest"),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="the picture, .svg or .png", callback=check_figure_file)
    ] = Path("convolution.png"),
) -> None:
    """Apply a kernel to an image by hand: the numbers of one activation, and a picture of all.

    The result is compared with one matrix product and with torch's conv2d. A colour image has a
    kernel for each channel, and their maps are summed.

    Example: limelight convolve examples/three.png --kernel top-edge --at 4 6
    """
    pixels = read_picture(image)
    weights = kernel_for(kernel, len(pixels))
    found = convolve_picture(pixels, weights, padding=padding, stride=stride, at=at)
    # matplotlib and torch take seconds to import: what can be refused is refused before.
    from pipeline.lessons.convolution_figure import draw_convolution
    from pipeline.lessons.convolution_text import lines_of
    from pipeline.report.figures import save

    save(draw_convolution(found), out)
    print("\n".join(lines_of(found, kernel)))
    print(f"\nthe picture: {out}")
