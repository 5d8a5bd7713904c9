"""Which score tells strange images from the training data's kind, and how well it does."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor

from limelight.artifact.manifest import Detection, ImageRule, OodScoreName, OutOfDistribution
from models.ood_scores import OodScore, candidates
from pipeline.evaluation.ood_datasets import kinds_for, ood_images

OOD_IMAGES = 1000
"""Images of each kind, as many to choose by and as many to publish."""
PASSING = 0.95
"""Share of the validation images that the threshold lets pass."""
_CHOOSING, _PUBLISHING = 0, 1

FITTED = 10_000
"""Most training images that a score is made by."""
Scores = NDArray[np.float32]
Inside = Callable[[NDArray[np.uint8]], tuple[Tensor, Tensor]]
"""uint8 images (N, H, W, C) to pooled features (N, C) and logits (N, K)."""
ScoreImages = Callable[[NDArray[np.uint8]], Scores]
"""uint8 images (N, H, W, C) to scores (N,), higher for stranger ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The score that was best, and its threshold."""

    ood_score: OodScore
    threshold: float
    auroc: dict[OodScoreName, float]
    """Mean over the kinds, of each score that there was to choose from."""


def choose_score(
    inside: Inside,
    fit: NDArray[np.uint8],
    validation: NDArray[np.uint8],
    *,
    dataset: str,
    rule: ImageRule,
    images: int | None = None,
) -> Choice:
    """Take the score with the best mean AUROC between validation images and strange ones.

    Args:
        inside: the network.
        fit: images (N, H, W, C) that the network was fitted to; a score may be made by them.
        validation: images that the network was chosen by.
        dataset: what the network was trained on, which decides what is strange to it.
        rule: how an image becomes the network's input.
        images: how many of each kind; `OOD_IMAGES` by default.

    """
    images = OOD_IMAGES if images is None else images
    rng = np.random.default_rng(_CHOOSING)
    some = np.sort(rng.choice(len(fit), min(FITTED, len(fit)), replace=False))
    ordinary = inside(validation)
    ood = [
        inside(ood_images(kind, rule, images, rng, held_out=False)) for kind in kinds_for(dataset)
    ]
    every = candidates(*inside(fit[some]))
    auroc = {
        each.name: float(np.mean([_auroc(_score(each, ordinary), _score(each, it)) for it in ood]))
        for each in every
    }
    best = max(every, key=lambda each: auroc[each.name])
    threshold = np.quantile(_score(best, ordinary), PASSING)
    return Choice(ood_score=best, threshold=float(threshold), auroc=auroc)


def measure_detection(
    score: ScoreImages,
    ordinary: Scores,
    choice: Choice,
    *,
    dataset: str,
    rule: ImageRule,
    held_out: bool,
    images: int | None = None,
) -> OutOfDistribution:
    """How well the chosen score tells strange images from ordinary ones.

    Args:
        score: the chosen score, as served.
        ordinary: scores of the test set, or of the validation split while that is untouched, (N,).
        choice: what `choose_score` gave.
        dataset: as for `choose_score`.
        rule: as for `choose_score`.
        held_out: whether to take strange images that the score was not chosen by.
        images: how many of each kind; `OOD_IMAGES` by default.

    """
    images = OOD_IMAGES if images is None else images
    rng = np.random.default_rng(_PUBLISHING if held_out else _CHOOSING)
    passing = np.quantile(ordinary, PASSING)
    against = {}
    for kind in kinds_for(dataset):
        ood = score(ood_images(kind, rule, images, rng, held_out=held_out))
        against[kind] = Detection(
            images=len(ood),
            auroc=_auroc(ordinary, ood),
            fpr95=float((ood <= passing).mean()),
        )
    return OutOfDistribution(
        score=choice.ood_score.name,
        threshold=choice.threshold,
        auroc_when_chosen=choice.auroc,
        images=len(ordinary),
        flagged=float((ordinary > choice.threshold).mean()),
        against=against,
    )


def _score(ood_score: OodScore, seen: tuple[Tensor, Tensor]) -> Scores:
    with torch.inference_mode():
        scores: Scores = ood_score(*seen).numpy()
    return scores


def _auroc(ordinary: Scores, ood: Scores) -> float:
    labels = np.repeat([0, 1], [len(ordinary), len(ood)])
    return float(roc_auc_score(labels, np.concatenate([ordinary, ood])))
