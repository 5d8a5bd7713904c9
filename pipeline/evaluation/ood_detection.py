"""OOD detection: choice of the score, its threshold, and how well it detects OOD images."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor

from limelight.artifact.manifest import Detection, OodScoreName, OutOfDistribution
from models.ood_scores import OodScore, candidates
from pipeline.data.stored_images import Images

OOD_IMAGES, FEWEST = 1000, 50
"""Largest and smallest number of OOD images of each kind."""
PASSING = 0.95
"""Share of the validation images below the threshold."""
FITTED = 10_000
"""Largest number of training images that a score is fitted to."""
# An AUROC has about the variance a / m + b / n for m images and n OOD images (Hanley and McNeil,
# 1982). With n = 5 m its standard error is about a tenth larger than with any number of OOD images.
_OOD_PER_IMAGE = 5
_FITTING_SEED = 0

Scores = NDArray[np.float32]
ExtractFeatures = Callable[[Images], tuple[Tensor, Tensor]]
"""uint8 images (N, H, W, C) to pooled features (N, C) and logits (N, K)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenScore:
    """Score with the best mean AUROC, its threshold, and the scores that it was chosen by."""

    ood_score: OodScore
    threshold: float
    auroc: dict[OodScoreName, float]
    """Mean AUROC over the kinds of OOD images, of each candidate."""
    in_distribution: Scores
    """Scores of the validation images, (N,)."""
    ood: dict[str, Scores]
    """Scores of the OOD images by their kind, (M,) each."""


def ood_count(images: int) -> int:
    """Choose the number of OOD images of each kind to compare with `images` images."""
    return min(OOD_IMAGES, max(FEWEST, _OOD_PER_IMAGE * images))


def choose_score(
    extract: ExtractFeatures,
    fit: Images,
    validation: Images,
    ood: Iterable[tuple[str, Images]],
) -> ChosenScore:
    """Choose the score with the best mean AUROC between validation images and OOD images.

    Args:
        extract: computes the network's features and logits.
        fit: training images (N, H, W, C); a score may be fitted to their features.
        validation: images of the validation split.
        ood: OOD images by their kind; see `ood_images`.

    """
    in_distribution = extract(validation)
    extracted = {kind: extract(images) for kind, images in ood}
    scores = list(candidates(*extract(sample_to_fit(fit))))
    auroc = {}
    for each in scores:
        known = score_all(each, in_distribution)
        auroc[each.name] = float(
            np.mean([area_under_curve(known, score_all(each, kind)) for kind in extracted.values()])
        )
    best = max(scores, key=lambda each: auroc[each.name])
    known = score_all(best, in_distribution)
    return ChosenScore(
        ood_score=best,
        threshold=float(np.quantile(known, PASSING)),
        auroc=auroc,
        in_distribution=known,
        ood={kind: score_all(best, features) for kind, features in extracted.items()},
    )


def sample_to_fit(images: Images) -> Images:
    """Return at most `FITTED` random images in their order, always the same."""
    rng = np.random.default_rng(_FITTING_SEED)
    return images[np.sort(rng.choice(len(images), min(FITTED, len(images)), replace=False))]


def measure_detection(
    choice: ChosenScore, in_distribution: Scores, ood: Mapping[str, Scores]
) -> OutOfDistribution:
    """Measure how well the chosen score separates OOD images from in-distribution images.

    Args:
        choice: result of `choose_score`.
        in_distribution: scores of the test set, or of the validation split before an export, (N,).
        ood: scores of the OOD images by their kind, (M,) each.

    """
    passing = np.quantile(in_distribution, PASSING)
    against = {
        kind: Detection(
            images=len(scores),
            auroc=area_under_curve(in_distribution, scores),
            fpr95=float((scores <= passing).mean()),
        )
        for kind, scores in ood.items()
    }
    return OutOfDistribution(
        score=choice.ood_score.name,
        threshold=choice.threshold,
        auroc_when_chosen=choice.auroc,
        images=len(in_distribution),
        flagged=float((in_distribution > choice.threshold).mean()),
        against=against,
    )


def score_all(ood_score: OodScore, features_and_logits: tuple[Tensor, Tensor]) -> Scores:
    """Score images by their features (N, C) and logits (N, K): (N,)."""
    with torch.inference_mode():
        scores: Scores = ood_score(*features_and_logits).numpy()
    return scores


def area_under_curve(in_distribution: Scores, ood: Scores) -> float:
    """Return the AUROC: the probability that an OOD image has the higher score."""
    labels = np.repeat([0, 1], [len(in_distribution), len(ood)])
    return float(roc_auc_score(labels, np.concatenate([in_distribution, ood])))
