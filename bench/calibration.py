"""Calibrations of a model beside each other: `python -m bench.calibration ARTIFACT...`.

Compares them on validation images that they were not fitted to, as an export does when it chooses
one. The test set is not read.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bench.common.report import table
from limelight.artifact.store import ArtifactError
from models.calibrator import Calibrator
from pipeline.errors import PipelineError
from pipeline.evaluation.calibration import try_calibrators
from pipeline.evaluation.reliability import expected_calibration_error
from pipeline.runs.exported import rebuild_run
from pipeline.training.inference import evaluate

HEADER = ("model", "calibration", "temperature", "exponent", "log loss", "calibration error")


def compare(artifact: Path) -> list[tuple[str, ...]]:
    """Return a row for each calibration; one that is the same as another is left out."""
    run = rebuild_run(artifact)
    validation, device = run.data.validation, torch.device("cpu")
    logits = evaluate(run.network, validation.images, run.config.normalisation, device)
    labels = torch.from_numpy(validation.labels)
    return [
        (
            str(artifact),
            _name(tried.fitted.calibrator),
            f"{tried.fitted.calibrator.temperature:.3f}",
            f"{tried.fitted.calibrator.exponent:.3f}",
            f"{tried.log_loss:.4f}",
            f"{expected_calibration_error(tried.calibrated.softmax(1), labels):.2%}",
        )
        for tried in try_calibrators(logits, labels)
    ]


def _name(calibrator: Calibrator) -> str:
    if calibrator == Calibrator():
        return "none"
    return "temperature" if calibrator.exponent == 1 else "temperature and exponent"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m bench.calibration", description=__doc__)
    parser.add_argument("artifacts", type=Path, nargs="+", help="folder NAME or NAME/VERSION")
    given = parser.parse_args(arguments)
    try:
        print(table(HEADER, [row for each in given.artifacts for row in compare(each)]), end="")
    except (ArtifactError, PipelineError) as error:
        sys.exit(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
