"""Export of a run as an artefact: a new version folder that appears only when it is complete."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from limelight.artifact.manifest import MANIFEST_FILE
from limelight.artifact.store import Artifact, load_artifact
from models.calibrator import Calibrator
from pipeline.atomic_files import writing
from pipeline.exporting.draft_manifest import draft_manifest
from pipeline.exporting.formats import (
    INT8_ONNX,
    LAYERCAM_ONNX,
    ONNX,
    make_graphs,
    save_formats,
)
from pipeline.exporting.golden_samples import open_engines, with_golden_samples
from pipeline.exporting.measurements import choose_on_validation, measure
from pipeline.exporting.model_card import card
from pipeline.exporting.naming import check_name, default_name, next_version
from pipeline.exporting.serialization import describe
from pipeline.progress import Progress, silent
from pipeline.runs.run import Run
from pipeline.runs.run_data import RunData

CARD = "README.md"
_ADVICE = "make room, or choose another --to"


def export(
    run: Run,
    root: Path,
    *,
    name: str | None = None,
    layercam: bool = True,
    fp16: bool = False,
    int8: bool = False,
    progress: Progress = silent,
) -> Path:
    """Export a run as the next version of `root`/NAME and return that folder.

    With `layercam` there is a second graph that also computes LayerCAM maps, if the network allows
    it. It is a file of its own because ONNX Runtime computes every output of a graph in every
    forward pass, and the derivatives take ten times as long as the rest. With `fp16` there is a
    graph whose layers compute in float16, which the service runs on a GPU. With `int8` there is one
    whose convolutions compute in 8 bits, which it runs on a CPU. `progress` is told each step.

    The folder is written under a temporary name and renamed after every gate has passed. A failed
    export leaves nothing behind.

    Raises:
        GateError: a format does not agree with eager torch, the int8 graph is less accurate, the
            ONNX checker rejects a graph, or the maps say no more about what the network depends on
            than noise does.
        PipelineError: the run's data is missing or has changed, or `name` is not a valid name.
        UnwritableError: the folder cannot be written, as on a full disk.

    """
    if name is not None:
        check_name(name)
    data = run.data
    name = name or default_name(data.dataset.name)
    home = root / name
    with _staging_folder(home) as staging:
        version = _write(
            staging,
            run,
            data,
            progress,
            layercam=layercam,
            fp16=fp16,
            int8=int8,
            name=name,
        )
        return staging.rename(home / version)


@contextmanager
def _staging_folder(home: Path) -> Iterator[Path]:
    """Make a temporary folder in `home`, and remove what is left of it, and of `home` if empty."""
    with writing(home, _ADVICE):
        home.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=".staging-", dir=home))
    try:
        staging.chmod(0o755)
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if not any(home.iterdir()):
            home.rmdir()


def _write(
    folder: Path,
    run: Run,
    data: RunData,
    progress: Progress,
    *,
    layercam: bool,
    fp16: bool,
    int8: bool,
    name: str,
) -> str:
    """Write the files into `folder`, beside the versions before, and return the version."""
    choices = choose_on_validation(run, data, progress)
    example = torch.from_numpy(data.dataset.test.images[:2])
    graphs = make_graphs(
        run,
        Calibrator.of(choices.calibration),
        choices.ood.ood_score,
        example,
        layercam=layercam,
        fp16=fp16,
    )
    home = folder.parent
    with writing(home, _ADVICE):
        files = save_formats(folder, graphs, example, progress)
    quantized = None
    if int8:
        # It takes a second to import, and few exports need it.
        from pipeline.exporting.int8 import quantize

        images = data.fit.images, data.validation.images
        quantized = quantize(folder / ONNX, folder / INT8_ONNX, *images, progress=progress)
        files[INT8_ONNX] = describe(folder / INT8_ONNX, "onnx-int8")
    draft = draft_manifest(
        run,
        data,
        graphs.get(LAYERCAM_ONNX, graphs[ONNX]),
        example,
        name=name,
        version=next_version(home),
        files=files,
        calibration=choices.calibration,
    )
    # The hashes in the draft were computed from the files just written.
    artifact = Artifact(folder, draft)
    engines = open_engines(artifact)
    with writing(home, _ADVICE):
        draft = with_golden_samples(artifact, engines, data.validation)
    measured = measure(run, data, choices, graphs, artifact, engines, progress, quantized)
    # Another export may have taken the version of the draft meanwhile.
    manifest = draft.model_copy(update=measured | {"version": next_version(home)})
    with writing(home, _ADVICE):
        (folder / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n")
        (folder / CARD).write_text(card(manifest), encoding="utf-8")
    load_artifact(folder, in_place=False)
    return manifest.version
