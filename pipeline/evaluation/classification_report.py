"""Classification report of a validation split: errors by class, calibration, highest losses."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support
from torch import Tensor, nn

from models.calibrator import Calibrator
from pipeline.evaluation.reliability import Floats, Integers, reliability


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassScores:
    """Scores of one class; a score whose denominator is 0 is 0."""

    name: str
    precision: float
    """Share of the images predicted as this class that belong to it."""
    recall: float
    """Share of the images of this class that are predicted as such."""
    f1: float
    """Harmonic mean of precision and recall."""
    support: int
    """Number of images of this class."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Confidence:
    """Confidence compared with accuracy, in 15 bins of equal width by confidence."""

    log_loss: float
    ece: float
    """Expected calibration error."""
    bin_confidence: Floats
    """Mean confidence of each bin, (15,); NaN if the bin is empty."""
    bin_accuracy: Floats
    """Accuracy of each bin, (15,); NaN if the bin is empty."""
    bin_counts: Integers


@dataclass(frozen=True, kw_only=True, slots=True)
class TopLoss:
    """Image with one of the highest losses."""

    index: int
    """Position in the split."""
    loss: float
    label: int
    predicted: int
    probability: float
    """Probability of the predicted class."""
    rival: int
    """The label if the prediction is wrong, otherwise the class with the second highest logit."""
    rival_probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassificationReport:
    """Report of a split of N images in K classes."""

    images: int
    accuracy: float
    calibrator: Calibrator
    uncalibrated: Confidence
    """As the network computes it."""
    calibrated: Confidence
    """After calibration, as served."""
    confusion: Integers
    """Images by true class (rows) and predicted class: (K, K)."""
    classes: tuple[ClassScores, ...]
    top_losses: tuple[TopLoss, ...]
    """Highest loss first, after calibration."""


def make_classification_report(
    logits_nk: Tensor,
    labels: Tensor,
    classes: Sequence[str],
    calibrator: Calibrator,
    *,
    calibrated_nk: Tensor | None = None,
    top_losses: int = 16,
) -> ClassificationReport:
    """Compare logits (N, K) with labels (N,).

    `calibrated_nk` are the logits calibrated by what was fitted to other images. By default
    `calibrator` calibrates them.
    """
    predicted = logits_nk.argmax(1)
    return ClassificationReport(
        images=len(labels),
        accuracy=float((predicted == labels).double().mean()),
        calibrator=calibrator,
        uncalibrated=_confidence(logits_nk, labels),
        calibrated=_confidence(
            calibrator(logits_nk) if calibrated_nk is None else calibrated_nk, labels
        ),
        confusion=confusion_matrix(labels, predicted, labels=range(len(classes))),
        classes=_class_scores(labels, predicted, classes),
        top_losses=_top_losses(calibrator(logits_nk.double()), labels, top_losses),
    )


def _class_scores(
    labels: Tensor, predicted: Tensor, classes: Sequence[str]
) -> tuple[ClassScores, ...]:
    columns = precision_recall_fscore_support(
        labels, predicted, labels=range(len(classes)), zero_division=0
    )
    return tuple(
        ClassScores(
            name=name,
            precision=float(precision),
            recall=float(recall),
            f1=float(f1),
            support=int(support),
        )
        for name, precision, recall, f1, support in zip(classes, *columns, strict=True)
    )


def _confidence(logits_nk: Tensor, labels: Tensor) -> Confidence:
    bins = reliability(logits_nk.softmax(1), labels)
    return Confidence(
        log_loss=float(nn.functional.cross_entropy(logits_nk.double(), labels)),
        ece=bins.calibration_error,
        bin_confidence=bins.confidence,
        bin_accuracy=bins.accuracy,
        bin_counts=bins.counts,
    )


def _top_losses(calibrated_nk: Tensor, labels: Tensor, count: int) -> tuple[TopLoss, ...]:
    losses = nn.functional.cross_entropy(calibrated_nk, labels, reduction="none")
    highest = torch.argsort(losses, descending=True, stable=True)[:count]
    tops = []
    for index in highest.tolist():
        probabilities = calibrated_nk[index].softmax(0)
        predicted, second = probabilities.topk(2).indices.tolist()
        label = int(labels[index])
        rival = second if predicted == label else label
        tops.append(
            TopLoss(
                index=index,
                loss=float(losses[index]),
                label=label,
                predicted=predicted,
                probability=float(probabilities[predicted]),
                rival=rival,
                rival_probability=float(probabilities[rival]),
            )
        )
    return tuple(tops)
