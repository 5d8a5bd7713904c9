"""Golden samples of an export: validation images with the outputs of the float32 graph."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from limelight.artifact.golden import GOLDEN_FILE, GOLDEN_OUTPUTS, GoldenSamples
from limelight.artifact.manifest import Manifest
from limelight.artifact.measurements import Golden
from limelight.artifact.store import Artifact
from limelight.runtime.engine import Engine
from limelight.runtime.onnx_session import Precision
from pipeline.data.splits import Split
from pipeline.exporting.serialization import describe

_MOST_IMAGES, _MOST_BYTES = 16, 4_000_000


def open_engines(artifact: Artifact) -> dict[Precision, Engine]:
    """Open each graph of a draft on the CPU, with the precision of its layers."""
    manifest = artifact.manifest
    files: dict[Precision, str | None] = {
        "float32": manifest.onnx_file,
        "float16": manifest.fp16_file,
        "int8": manifest.int8_file,
    }
    return {
        precision: Engine(artifact, device="cpu", precision=precision, threads=0)
        for precision, file in files.items()
        if file is not None
    }


def with_golden_samples(
    artifact: Artifact, engines: Mapping[Precision, Engine], validation: Split
) -> Manifest:
    """Write the golden samples of a draft, and return its manifest with them.

    They are up to 16 validation images of as many classes as possible, and at most 4 MB. `engines`
    run its graphs.
    """
    manifest, folder = artifact.manifest, artifact.folder
    one = int(np.prod(validation.images.shape[1:]))
    most_values = _MOST_BYTES // (len(manifest.classes) * int(np.prod(manifest.cam_shape)) * 4)
    count = max(1, min(_MOST_IMAGES, _MOST_BYTES // one, most_values, len(validation)))
    images = validation.images[_spread(validation.labels, count)]

    samples = GoldenSamples(images, engines["float32"].run(images, GOLDEN_OUTPUTS))
    samples.write(folder / GOLDEN_FILE)
    errors = {
        engine.file: samples.error_of(engine.run(images, GOLDEN_OUTPUTS))
        for engine in engines.values()
    }
    files = manifest.files | {GOLDEN_FILE: describe(folder / GOLDEN_FILE, "golden-samples")}
    golden = Golden(images=count, errors=errors)
    return manifest.model_copy(update={"files": files, "golden": golden})


def _spread(labels: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Return the indices of `count` images: the first of each class, then the second of each."""
    order = np.argsort(labels, kind="stable")
    ordered = labels[order]
    # The place of each image among those of its class.
    first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    place = np.arange(len(order)) - np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))
    return order[np.lexsort((ordered, place))][:count]
