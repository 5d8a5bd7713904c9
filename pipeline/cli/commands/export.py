"""`limelight export`."""

from pathlib import Path
from typing import Annotated

import typer

from limelight.artifact.manifest import MANIFEST_FILE
from limelight.artifact.store import load_artifact, newest_version
from pipeline.cli.console import say
from pipeline.evaluation.ood_datasets import kinds_missing
from pipeline.export import export as exporting
from pipeline.runs.exported import rebuild_run
from pipeline.runs.run import read_run
from pipeline.runs.run_folder import CONFIG


def export(
    run: Annotated[
        Path,
        typer.Argument(help="a run folder from `limelight train`, or an artefact to export again"),
    ],
    to: Annotated[Path, typer.Option(help="folder of artefacts")] = Path("artifacts"),
    name: Annotated[
        str | None, typer.Option(help="the model's name; default from the data")
    ] = None,
    layercam: Annotated[
        bool,
        typer.Option(help="add LayerCAM maps, which are expensive, in a separate graph"),
    ] = True,
    fp16: Annotated[
        bool,
        typer.Option(help="also export a float16 graph, which the service uses on a GPU"),
    ] = False,
) -> None:
    """Export a run as the next version of an artefact, verified; prints its folder.

    Example: limelight export runs/mnist --to zoo
    """
    is_run = (run / CONFIG).is_file() or not (newest_version(run) / MANIFEST_FILE).is_file()
    source = read_run(run) if is_run else rebuild_run(run)
    missing = kinds_missing(source.config.source)
    if missing:
        say(
            f"{' and '.join(missing)} missing for the evaluation on out-of-distribution images; "
            "to include them, fetch them first: "
            + "; ".join(f"limelight data fetch {kind}" for kind in missing)
        )
    folder = exporting.export(source, to, name=name, layercam=layercam, fp16=fp16, tell=say)
    manifest = load_artifact(folder).manifest
    for file, parity in manifest.parity.items():
        identity = (
            "maps approximate"
            if parity.max_cam_identity_error is None
            else f"map identity within {parity.max_cam_identity_error:.1e}"
        )
        say(
            f"{file}: within {parity.max_probability_error:.1e} of eager torch on "
            f"{parity.images:,} images, {identity}"
        )
    metrics, calibration = manifest.metrics, manifest.calibration
    say(
        f"test set, {metrics.images:,} images: accuracy {metrics.accuracy:.2%}, "
        f"log loss {metrics.log_loss:.4f}, calibration error {metrics.ece:.2%}; temperature "
        f"{calibration.temperature:.3f}. Next: LIMELIGHT_MODELS={to} bentoml serve"
    )
    print(folder)
