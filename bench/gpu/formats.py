"""The shipped models in every format, made on this machine, and how far each is from eager torch.

A file that another version of torch wrote may not be readable here, and the float16 graph does not
ship: so the formats are exported again, from the shipped weights. The graphs' OOD score is the
energy, whatever the shipped one is: choosing it needs the training images.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bench.common import ROOT
from bench.gpu.results import Deadline, Results
from bench.gpu.scale import Scale
from bench.serving.workloads import WORKLOADS
from limelight.artifact.manifest import MANIFEST_FILE
from limelight.artifact.store import Artifact, load_artifact, newest_version
from limelight.runtime.engine import Engine
from limelight.runtime.onnx_session import Device
from models.calibrator import Calibrator
from models.ood_scores import Energy
from models.serving_graph import ServingGraph
from pipeline.exporting.formats import (
    check_format,
    make_graphs,
    measure_format,
    runtimes,
    save_formats,
)
from pipeline.exporting.parity import Runtime
from pipeline.runs.exported import rebuild_run

MODELS = "models"


def export_again(name: str, folder: Path) -> tuple[Artifact, dict[str, ServingGraph]]:
    """Write a shipped model into `folder`/NAME/VERSION in every format; the graphs by their files.

    The files are written once: a folder that has them is used as it is.
    """
    run = rebuild_run(ROOT / "zoo" / name)
    shipped = load_artifact(newest_version(ROOT / "zoo" / name)).manifest
    rule = shipped.image
    rng = torch.Generator().manual_seed(0)
    shape = (2, rule.height, rule.width, rule.channels)
    example = torch.randint(0, 256, shape, dtype=torch.uint8, generator=rng)
    graphs = make_graphs(
        run, Calibrator.of(shipped.calibration), Energy(), example, layercam=True, fp16=True
    )
    target = folder / shipped.name / shipped.version
    if not (target / MANIFEST_FILE).is_file():
        target.mkdir(parents=True)
        files = save_formats(target, graphs, example)
        # Golden samples and int8 belong to the files that ship.
        own = {"files": files, "golden": None, "int8": None}
        manifest = shipped.model_copy(update=own)
        (target / MANIFEST_FILE).write_text(manifest.model_dump_json(indent=2) + "\n")
    return load_artifact(target), graphs


def run(
    scale: Scale, device: torch.device, results: Results, deadline: Deadline, folder: Path
) -> None:
    """Compare each format of each model, run on `device`, with eager torch on the CPU."""
    # TF32 would cost three digits.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    for name in scale.models:
        exported = results.attempt(name, partial(export_again, name, folder / MODELS))
        if exported is not None:
            step = partial(compare, *exported, device, results, scale.images)
            results.attempt(name, step)


def compare(
    artifact: Artifact,
    graphs: dict[str, ServingGraph],
    device: torch.device,
    results: Results,
    images: int,
) -> None:
    """Measure every format that can be loaded, and say whether it is within an export's bounds."""
    manifest = artifact.manifest
    on: Device = "cuda" if device.type == "cuda" else "cpu"
    # A GPU would get the float16 graph by default, which is measured by itself.
    engine = Engine(artifact, device=on, precision="float32", threads=0)
    drawn = WORKLOADS[f"{manifest.name}-png"].images(images)
    images_nhwc = np.stack([np.atleast_3d(np.asarray(image)) for image in drawn])
    for file, load in runtimes(artifact, engine, graphs, device).items():
        title = f"{manifest.name}, {file}"

        def step(file: str = file, load: Callable[[], Runtime] = load, title: str = title) -> None:
            parity = measure_format(file, load(), graphs, images_nhwc)
            results.add(title, parity.model_dump(mode="json"))
            check_format(file, parity)

        results.attempt(title, step)
