"""`report.html`: a run on one page, measured on its validation split, not on the test set."""

from pathlib import Path

from pipeline.atomic_files import writing
from pipeline.console import next_command
from pipeline.progress import Progress, silent
from pipeline.report.page import render
from pipeline.report.study import study
from pipeline.runs.run import Run

__all__ = ["REPORT", "write_report"]

REPORT = "report.html"


def write_report(
    run: Run, *, device: str = "auto", tta: bool = True, progress: Progress = silent
) -> Path:
    """Write the `report.html` of a run into its folder, atomically, and return its path.

    Without `tta`, test-time augmentation is left out, which saves up to 90 % of the time.
    `progress` is told each step.

    Raises:
        RunError: the data of the run has changed.
        UnwritableError: its folder cannot be written to.

    """
    report = run.folder / REPORT
    part = report.with_name(f"{REPORT}.part")
    advice = f"make room, then: {next_command('limelight', 'report', run.folder)}"
    try:
        with writing(report, advice):
            part.touch()
            if report.is_dir():  # checked before the slow work, which would be lost
                raise IsADirectoryError(f"{report} is a folder")
        page = render(study(run, device=device, tta=tta, progress=progress), progress)
        with writing(report, advice):
            # Names of files may have bytes that are not UTF-8.
            part.write_text(page, encoding="utf-8", errors="backslashreplace")
            part.replace(report)
    finally:
        part.unlink(missing_ok=True)
    return report
