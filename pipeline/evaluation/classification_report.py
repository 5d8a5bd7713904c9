"""What a validation split says about a network: its errors, and how far to trust its confidence."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_confusion_matrix

from pipeline.evaluation.calibration import BINS, expected_calibration_error

Figures = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassFigures:
    """How one class fares; a figure whose denominator is 0 is 0, as scikit-learn can have it."""

    name: str
    precision: float
    """Share of the images called so that are of this class."""
    recall: float
    """Share of the images of this class that are called so."""
    f1: float
    """Harmonic mean of the two."""
    support: int
    """Images of this class."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Confidence:
    """Probabilities against what came true, in 15 bins of equal width by confidence."""

    log_loss: float
    ece: float
    """Expected calibration error."""
    bin_confidence: Figures
    """Mean of each bin, (15,); NaN where it is empty."""
    bin_accuracy: Figures
    """Share of right answers, (15,); NaN where the bin is empty."""
    bin_counts: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class TopLoss:
    """An image that the network is most wrong about, or least sure of."""

    index: int
    """Among the assessed images."""
    loss: float
    label: int
    predicted: int
    probability: float
    """Of the prediction, as the network gives it."""
    rival: int
    """The label, where the prediction is wrong; otherwise the second choice."""
    rival_probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Assessment:
    """Everything that is reported about a split of N images in K classes."""

    images: int
    accuracy: float
    temperature: float
    uncalibrated: Confidence
    """At a temperature of 1."""
    calibrated: Confidence
    """At `temperature`, as served."""
    confusion: NDArray[np.int64]
    """Images by true class (rows) and predicted class: (K, K)."""
    classes: tuple[ClassFigures, ...]
    top_losses: tuple[TopLoss, ...]
    """Highest loss first, at `temperature`."""


def assess(
    logits_nk: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    temperature: float,
    *,
    top_losses: int = 16,
) -> Assessment:
    """Assess logits (N, K) against labels (N,)."""
    predicted = logits_nk.argmax(1)
    counts = multiclass_confusion_matrix(predicted, labels, num_classes=len(classes)).numpy()
    return Assessment(
        images=len(labels),
        accuracy=float((predicted == labels).double().mean()),
        temperature=temperature,
        uncalibrated=_confidence(logits_nk, labels),
        calibrated=_confidence(logits_nk / temperature, labels),
        confusion=counts,
        classes=_by_class(counts, classes),
        top_losses=_top_losses(logits_nk.double() / temperature, labels, top_losses),
    )


def _confidence(logits_nk: Tensor, labels: Tensor) -> Confidence:
    probabilities = logits_nk.softmax(1)
    confidence, predicted = probabilities.max(1)
    # A confidence of 1 is in the last bin.
    bins = np.minimum((confidence.double().numpy() * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    return Confidence(
        log_loss=float(nn.functional.cross_entropy(logits_nk.double(), labels)),
        ece=expected_calibration_error(probabilities, labels),
        bin_confidence=_means(confidence.double().numpy(), bins, counts),
        bin_accuracy=_means((predicted == labels).double().numpy(), bins, counts),
        bin_counts=counts,
    )


def _means(values: Figures, bins: NDArray[np.int64], counts: NDArray[np.int64]) -> Figures:
    sums = np.bincount(bins, weights=values, minlength=BINS)
    means: Figures = np.divide(sums, counts, out=np.full(BINS, np.nan), where=counts > 0)
    return means


def _by_class(counts_kk: NDArray[np.int64], classes: Sequence[str]) -> tuple[ClassFigures, ...]:
    right, support, called = counts_kk.diagonal(), counts_kk.sum(1), counts_kk.sum(0)
    return tuple(
        ClassFigures(
            name=name,
            precision=_share(right[at], called[at]),
            recall=_share(right[at], support[at]),
            f1=_share(2 * right[at], support[at] + called[at]),
            support=int(support[at]),
        )
        for at, name in enumerate(classes)
    )


def _share(part: int, whole: int) -> float:
    return float(part / whole) if whole else 0.0


def _top_losses(scaled_nk: Tensor, labels: Tensor, count: int) -> tuple[TopLoss, ...]:
    losses = nn.functional.cross_entropy(scaled_nk, labels, reduction="none")
    highest = torch.argsort(losses, descending=True, stable=True)[:count]
    tops = []
    for at in highest.tolist():
        probabilities = scaled_nk[at].softmax(0)
        predicted, second = probabilities.topk(2).indices.tolist()
        label = int(labels[at])
        rival = second if predicted == label else label
        tops.append(
            TopLoss(
                index=at,
                loss=float(losses[at]),
                label=label,
                predicted=predicted,
                probability=float(probabilities[predicted]),
                rival=rival,
                rival_probability=float(probabilities[rival]),
            )
        )
    return tuple(tops)
