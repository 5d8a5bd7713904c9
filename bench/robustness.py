"""Accuracy of an artefact on corrupted test images: `python -m bench.robustness ARTIFACT`.

Prints what an export writes into the manifest, measured by the same code. `--images` and
`--severities` take more of the test set, up to all of it at all five severities. The test set is
that of a published data set: the figures for images of your own are on the model's card.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.common.report import table
from limelight.artifact.measurements import Robustness
from limelight.artifact.store import ArtifactError, load_artifact, newest_version
from limelight.runtime.engine import Engine
from pipeline.data.registry import DATASETS, Split, load_dataset
from pipeline.data.served_images import as_served
from pipeline.errors import PipelineError
from pipeline.evaluation.common_corruptions.severities import SEVERITIES
from pipeline.evaluation.robustness import images_to_corrupt, measure_robustness
from pipeline.wording import percent


def measure(folder: Path, *, images: int | None, severities: int) -> Robustness:
    """Measure an artefact on the test set of its data set, on `images` of it or as an export does.

    Raises:
        ValueError: its data set is not a published one.
        DataError: its data set is not in the cache.
    """
    artifact = load_artifact(newest_version(folder))
    manifest = artifact.manifest
    if manifest.data.name not in DATASETS:
        raise ValueError(f"{manifest.data.name} is no published data set: see the model's card")
    test, rule = load_dataset(manifest.data.name).test, manifest.image
    engine = Engine(artifact, device="cpu", threads=0)
    return measure_robustness(
        engine.run,
        Split(as_served(test.images[:], rule), test.labels),
        rule,
        images=images or images_to_corrupt(manifest.network.multiply_accumulates),
        severities=severities,
    )


def shown(found: Robustness) -> str:
    """Write the figures as a table of Markdown."""
    severities = {f"severity {level}": it for level, it in enumerate(found.by_severity, 1)}
    corruptions = {name.replace("_", " "): it for name, it in found.corruptions.items()}
    figures = {
        "unchanged": found.clean_accuracy,
        "JPEG of quality 75, 4:2:0": found.jpeg_75,
        "JPEG of quality 50, 4:2:0": found.jpeg_50,
        "mean of the corruptions": found.mean_accuracy,
        "its standard error": found.standard_error,
        **severities,
        **corruptions,
    }
    return table(("images", "accuracy"), [(name, percent(it)) for name, it in figures.items()])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m bench.robustness", description=__doc__)
    parser.add_argument("artifact", type=Path, help="folder NAME or NAME/VERSION")
    parser.add_argument("--images", type=int, help="default: as many as an export takes")
    parser.add_argument(
        "--severities", type=int, default=1, choices=range(1, SEVERITIES + 1), help="of each image"
    )
    given = parser.parse_args(arguments)
    try:
        found = measure(given.artifact, images=given.images, severities=given.severities)
    except (ArtifactError, PipelineError, ValueError) as error:
        sys.exit(str(error))
    print(
        f"{found.images:,} test images, {found.severities} of {SEVERITIES} severities for each "
        f"corruption, with the parameters of {found.parameters}\n\n{shown(found)}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
