"""OOD detection: choice of the score, its threshold, and how well it detects OOD images."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor

from limelight.artifact.field_types import OodScoreName
from limelight.artifact.measurements import Detection, OutOfDistribution
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
FeaturesAndLogits = tuple[Tensor, Tensor]
ExtractFeatures = Callable[[Images], FeaturesAndLogits]
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
    features = extract_features(extract, fit, validation, ood)
    scored = [score_images(each, features) for each in candidates(*features.fit)]
    best = max(scored, key=lambda each: each.mean_auroc)
    return ChosenScore(
        ood_score=best.ood_score,
        threshold=float(np.quantile(best.in_distribution, PASSING)),
        auroc={each.ood_score.name: each.mean_auroc for each in scored},
        in_distribution=best.in_distribution,
        ood=best.ood,
    )


class Features(NamedTuple):
    """Features (N, C) and logits (N, K) that scores are compared by."""

    fit: FeaturesAndLogits
    """Features and logits of at most `FITTED` random training images."""
    in_distribution: FeaturesAndLogits
    """Features and logits of the validation images."""
    ood: dict[str, FeaturesAndLogits]
    """Features and logits of the OOD images, by their kind."""


def extract_features(
    extract: ExtractFeatures,
    fit: Images,
    validation: Images,
    ood: Iterable[tuple[str, Images]],
) -> Features:
    """Compute what scores are compared by; the arguments are those of `choose_score`."""
    rng = np.random.default_rng(_FITTING_SEED)
    some = np.sort(rng.choice(len(fit), min(FITTED, len(fit)), replace=False))
    in_distribution = extract(validation)
    extracted = {kind: extract(images) for kind, images in ood}
    return Features(extract(fit[some]), in_distribution, extracted)


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredImages:
    """Validation images (N,), and OOD images (M,) by their kind, scored by one OOD score."""

    ood_score: OodScore
    in_distribution: Scores
    ood: dict[str, Scores]
    against: dict[str, Detection]
    """Detection of each kind of OOD images."""

    @property
    def mean_auroc(self) -> float:
        """Mean AUROC over the kinds of OOD images."""
        return float(np.mean([each.auroc for each in self.against.values()]))


def score_images(ood_score: OodScore, features: Features) -> ScoredImages:
    """Score the validation images and the OOD images, and compare them."""
    in_distribution = _score(ood_score, features.in_distribution)
    ood = {kind: _score(ood_score, each) for kind, each in features.ood.items()}
    against = _against(in_distribution, ood)
    return ScoredImages(
        ood_score=ood_score, in_distribution=in_distribution, ood=ood, against=against
    )


def measure_detection(
    choice: ChosenScore, in_distribution: Scores, ood: Mapping[str, Scores]
) -> OutOfDistribution:
    """Measure how well the chosen score separates OOD images from in-distribution images.

    Args:
        choice: result of `choose_score`.
        in_distribution: scores of the test set, or of the validation split before an export, (N,).
        ood: scores of the OOD images by their kind, (M,) each.

    """
    return OutOfDistribution(
        score=choice.ood_score.name,
        threshold=choice.threshold,
        auroc_when_chosen=choice.auroc,
        images=len(in_distribution),
        flagged=float((in_distribution > choice.threshold).mean()),
        against=_against(in_distribution, ood),
    )


def _against(in_distribution: Scores, ood: Mapping[str, Scores]) -> dict[str, Detection]:
    """Measure how well scores separate in-distribution images from OOD images of each kind."""
    passing = np.quantile(in_distribution, PASSING)
    return {
        kind: Detection(
            images=len(scores),
            auroc=_auroc(in_distribution, scores),
            fpr95=float((scores <= passing).mean()),
        )
        for kind, scores in ood.items()
    }


def _score(ood_score: OodScore, features_and_logits: FeaturesAndLogits) -> Scores:
    with torch.inference_mode():
        scores: Scores = ood_score(*features_and_logits).numpy()
    return scores


def _auroc(in_distribution: Scores, ood: Scores) -> float:
    labels = np.repeat([0, 1], [len(in_distribution), len(ood)])
    return float(roc_auc_score(labels, np.concatenate([in_distribution, ood])))
