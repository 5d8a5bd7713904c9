"""OOD detection: choice of the score, its threshold, and how well it detects OOD images."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor

from limelight.artifact.manifest import Detection, ImageRule, OodScoreName, OutOfDistribution
from models.ood_scores import OodScore, candidates
from pipeline.data.stored_images import Images
from pipeline.evaluation.ood_datasets import kinds_for, ood_images

OOD_IMAGES = 1000
"""Images of each kind for the choice of a score, and as many others for the published figures."""
PASSING = 0.95
"""Share of the validation images below the threshold."""
FITTED = 10_000
"""Largest number of training images that a score is fitted to."""
_CHOICE_SEED, _MEASUREMENT_SEED = 0, 1

Scores = NDArray[np.float32]
ExtractFeatures = Callable[[Images], tuple[Tensor, Tensor]]
"""uint8 images (N, H, W, C) to pooled features (N, C) and logits (N, K)."""
ScoreImages = Callable[[NDArray[np.uint8]], Scores]
"""uint8 images (N, H, W, C) to scores (N,), higher for OOD images."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenScore:
    """Score with the best mean AUROC, and its threshold."""

    ood_score: OodScore
    threshold: float
    auroc: dict[OodScoreName, float]
    """Mean AUROC over the kinds of OOD images, of each candidate."""


def choose_score(
    extract: ExtractFeatures,
    fit: Images,
    validation: Images,
    *,
    dataset: str,
    rule: ImageRule,
    images: int | None = None,
) -> ChosenScore:
    """Choose the score with the best mean AUROC between validation images and OOD images.

    Args:
        extract: computes the network's features and logits.
        fit: training images (N, H, W, C); a score may be fitted to their features.
        validation: images of the validation split.
        dataset: name of the training data, which decides what is OOD.
        rule: image rule of the network.
        images: number of OOD images of each kind; `OOD_IMAGES` by default.

    """
    images = OOD_IMAGES if images is None else images
    rng = np.random.default_rng(_CHOICE_SEED)
    some = np.sort(rng.choice(len(fit), min(FITTED, len(fit)), replace=False))
    in_distribution = extract(validation)
    ood = [
        extract(ood_images(kind, rule, images, rng, held_out=False)) for kind in kinds_for(dataset)
    ]
    scores = candidates(*extract(fit[some]))
    auroc = {}
    for each in scores:
        known = _score(each, in_distribution)
        auroc[each.name] = float(np.mean([_auroc(known, _score(each, kind)) for kind in ood]))
    best = max(scores, key=lambda each: auroc[each.name])
    threshold = np.quantile(_score(best, in_distribution), PASSING)
    return ChosenScore(ood_score=best, threshold=float(threshold), auroc=auroc)


def measure_detection(
    score: ScoreImages,
    in_distribution: Scores,
    choice: ChosenScore,
    *,
    dataset: str,
    rule: ImageRule,
    held_out: bool,
    images: int | None = None,
) -> OutOfDistribution:
    """Measure how well the chosen score separates OOD images from in-distribution images.

    Args:
        score: computes the chosen score, as served.
        in_distribution: scores of the test set, or of the validation split before an export, (N,).
        choice: result of `choose_score`.
        dataset: as for `choose_score`.
        rule: as for `choose_score`.
        held_out: use OOD images that were not used for the choice.
        images: number of OOD images of each kind; `OOD_IMAGES` by default.

    """
    images = OOD_IMAGES if images is None else images
    rng = np.random.default_rng(_MEASUREMENT_SEED if held_out else _CHOICE_SEED)
    passing = np.quantile(in_distribution, PASSING)
    against = {}
    for kind in kinds_for(dataset):
        ood = score(ood_images(kind, rule, images, rng, held_out=held_out))
        against[kind] = Detection(
            images=len(ood),
            auroc=_auroc(in_distribution, ood),
            fpr95=float((ood <= passing).mean()),
        )
    return OutOfDistribution(
        score=choice.ood_score.name,
        threshold=choice.threshold,
        auroc_when_chosen=choice.auroc,
        images=len(in_distribution),
        flagged=float((in_distribution > choice.threshold).mean()),
        against=against,
    )


def _score(ood_score: OodScore, features_and_logits: tuple[Tensor, Tensor]) -> Scores:
    with torch.inference_mode():
        scores: Scores = ood_score(*features_and_logits).numpy()
    return scores


def _auroc(in_distribution: Scores, ood: Scores) -> float:
    labels = np.repeat([0, 1], [len(in_distribution), len(ood)])
    return float(roc_auc_score(labels, np.concatenate([in_distribution, ood])))
