"""OOD scores of a model beside each other: `python -m bench.ood_scores ARTIFACT`.

Compares validation images with OOD images of each kind, as an export does when it chooses the
score. The test set is not read. The scores by the nearest training images are computed with
several numbers of training images and neighbours, too.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from bench.common.report import table
from limelight.artifact.store import ArtifactError
from models.ood_scores import NearestNeighbour, NearestProjection, OodScore, candidates
from pipeline.errors import PipelineError
from pipeline.evaluation.ood_datasets import ood_images
from pipeline.evaluation.ood_detection import extract_features, ood_count, score_images
from pipeline.runs.exported import rebuild_run
from pipeline.training.inference import look_inside

KEPT, NEIGHBOURS = (300, 500, 700, 1000), (1, 3, 5, 10)


def variants(pooled: Tensor, logits: Tensor) -> Iterator[tuple[str, OodScore]]:
    """Yield the scores that an export chooses from, and others of the same kinds."""
    for score in candidates(pooled, logits):
        yield score.name, score
    for kind, kept, neighbour in product((NearestNeighbour, NearestProjection), KEPT, NEIGHBOURS):
        score = kind(pooled, logits, kept=kept, neighbour=neighbour)
        yield f"{kind.name}, {kept} images, neighbour {neighbour}", score


def compare(artifact: Path) -> str:
    """Return a table in Markdown: mean AUROC, and FPR95 of each kind of OOD images."""
    run = rebuild_run(artifact)
    data, normalisation = run.data, run.config.normalisation
    dataset, validation = data.dataset, data.validation.images
    device = torch.device("cpu")
    features = extract_features(
        partial(look_inside, run.network, normalisation=normalisation, device=device),
        data.fit.images,
        validation,
        ood_images(dataset.name, dataset.image, ood_count(len(validation)), held_out=False),
    )
    rows = []
    for name, score in variants(*features.fit):
        found = score_images(score, features)
        accepted = [f"{each.fpr95:.1%}" for each in found.against.values()]
        rows.append((name, f"{found.mean_auroc:.4f}", *accepted))
    return table(("score", "mean AUROC", *(f"FPR95 of {kind}" for kind in features.ood)), rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m bench.ood_scores", description=__doc__)
    parser.add_argument("artifact", type=Path, help="folder NAME or NAME/VERSION")
    given = parser.parse_args(arguments)
    try:
        print(compare(given.artifact), end="")
    except (ArtifactError, PipelineError) as error:
        sys.exit(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
