"""`report.html`: a run on one page, of its validation split; the test set stays untouched."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import RunError
from pipeline.report.page import render
from pipeline.report.study import study
from pipeline.runs.run import read_run

__all__ = ["REPORT", "write_report"]

REPORT = "report.html"


def write_report(folder: Path, *, device: str = "auto", tta: bool = True) -> Path:
    """Write `report.html` into a run folder, whole or not at all, and return its path.

    Without `tta` each image is looked at once only, which saves up to nine tenths of the time.

    Raises:
        RunError: `folder` is no finished run, its data has changed, or it cannot be written to.

    """
    run, report = read_run(folder), folder / REPORT
    part = report.with_name(f"{REPORT}.part")
    try:
        with _written(report):
            part.touch()
            if report.is_dir():  # found before the work that would be lost
                raise IsADirectoryError(f"{report} is a folder")
        page = render(study(run, device=device, tta=tta))
        with _written(report):
            part.write_text(page, encoding="utf-8")
            part.replace(report)
    finally:
        part.unlink(missing_ok=True)
    return report


@contextmanager
def _written(report: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{report} cannot be written: {error}; make room, then: limelight report "
            f"{report.parent}"
        ) from error
