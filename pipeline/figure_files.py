"""Formats of the figures that commands write."""

from pathlib import Path

from pipeline.errors import PipelineError


def check_figure_file(path: Path) -> Path:
    """Return `path`, if its suffix is that of a figure.

    Raises:
        PipelineError: it is neither .svg nor .png.

    """
    if path.suffix.lower() not in (".svg", ".png"):
        raise PipelineError(f"{path}: a figure is written as .svg or .png; choose one of them")
    return path
