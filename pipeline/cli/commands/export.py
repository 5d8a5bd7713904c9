"""`limelight export`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.training_options import Data, Workers
from pipeline.console import next_command, say
from pipeline.errors import PipelineError
from pipeline.exporting.bento_store import check_bentoml, put_in_store
from pipeline.runs.run_config import check_model


def export(
    run: Annotated[
        Path,
        typer.Argument(help="a run folder from `limelight train`, or an artefact to export again"),
    ],
    to: Annotated[
        Path, typer.Option(help="folder of artefacts; or NAME.onnx, for the graph alone")
    ] = Path("artifacts"),
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
    int8: Annotated[
        bool,
        typer.Option(help="also export an int8 graph, which the service uses on a CPU"),
    ] = False,
    bento: Annotated[
        bool,
        typer.Option(help="also put the artefact into BentoML's model store"),
    ] = False,
    data: Data = None,
    workers: Workers = None,
) -> None:
    """Export a run as the next version of an artefact, verified; prints its folder.

    Example: limelight export runs/mnist --to zoo
    """
    check_model(run)
    if bento:
        check_bentoml()
        if to.suffix == ".onnx":
            raise PipelineError("--bento stores an artefact: name a folder with --to, not a file")
    # torch takes seconds to import: the command line is checked before.
    from limelight.artifact.store import load_artifact
    from pipeline import api

    folder = api.export(
        run, to, name=name, layercam=layercam, fp16=fp16, int8=int8, data=data, workers=workers
    )
    if folder.is_file():
        print(folder)
        return
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
    if (int8_graph := manifest.int8) is not None:
        say(
            f"{manifest.int8_file}: accuracy {int8_graph.accuracy:.2%}, the same prediction as "
            f"float32 for {int8_graph.equal_winners:.2%} of the test images, maps correlate at "
            f"{int8_graph.map_correlation:.3f}"
        )
    served = f"bento:{put_in_store(folder)}" if bento else to
    metrics, calibration = manifest.metrics, manifest.calibration
    say(
        f"test set, {metrics.images:,} images: accuracy {metrics.accuracy:.2%}, "
        f"log loss {metrics.log_loss:.4f}, calibration error {metrics.ece:.2%}; temperature "
        f"{calibration.temperature:.3f}, exponent {calibration.exponent:.3f}. Next: "
        f"{next_command('bentoml', 'serve', 'service.bento:Limelight', LIMELIGHT_MODELS=served)}"
    )
    print(folder)
