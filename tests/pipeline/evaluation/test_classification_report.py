"""Classification report, compared with scikit-learn, torchmetrics and cases computed by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from torchmetrics.classification import MulticlassCalibrationError

from models.calibrator import Calibrator
from pipeline.evaluation.classification_report import (
    ClassificationReport,
    Confidence,
    make_classification_report,
)

CLASSES = ("ant", "bee", "cow", "dog")
CALIBRATOR = Calibrator(1.7, 1.2)


def _predictions(images: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are correct more often than not, for classes of unequal size."""
    rng = torch.Generator().manual_seed(0)
    shares = torch.tensor([0.5, 0.3, 0.15, 0.05])
    labels = torch.multinomial(shares, images, replacement=True, generator=rng)
    logits = 2 * torch.nn.functional.one_hot(labels, 4) + 1.5 * torch.randn(
        images, 4, generator=rng
    )
    return logits, labels


@pytest.fixture(scope="module")
def report() -> ClassificationReport:
    return make_classification_report(*_predictions(), CLASSES, CALIBRATOR)


def test_confusion_matrix_counts_true_classes_in_rows(report: ClassificationReport) -> None:
    logits, labels = _predictions()
    expected = np.zeros((4, 4), np.int64)
    np.add.at(expected, (labels.numpy(), logits.argmax(1).numpy()), 1)
    np.testing.assert_array_equal(report.confusion, expected)
    assert report.images == 400


def test_confusion_matrix_has_rows_of_absent_classes() -> None:
    logits = torch.tensor([[3.0, 0, 0], [0, 3.0, 0]])
    confusion = make_classification_report(
        logits, torch.tensor([1, 1]), ("a", "b", "c"), Calibrator()
    ).confusion
    np.testing.assert_array_equal(confusion, [[0, 0, 0], [1, 1, 0], [0, 0, 0]])


def test_class_scores_follow_from_the_confusion_matrix(report: ClassificationReport) -> None:
    correct = report.confusion.diagonal()
    support, predicted = report.confusion.sum(1), report.confusion.sum(0)
    assert report.accuracy == pytest.approx(correct.sum() / 400, abs=1e-12)
    assert [each.name for each in report.classes] == list(CLASSES)
    for at, each in enumerate(report.classes):
        expected = (
            correct[at] / predicted[at],
            correct[at] / support[at],
            2 * correct[at] / (predicted[at] + support[at]),
            support[at],
        )
        scores = (each.precision, each.recall, each.f1, each.support)
        assert scores == pytest.approx(expected, abs=1e-12)


def test_scores_of_an_absent_class_are_0() -> None:
    logits = torch.tensor([[3.0, 0, 0], [0, 3.0, 0]])
    labels, classes = torch.tensor([0, 1]), ("a", "b", "c")
    absent = make_classification_report(logits, labels, classes, Calibrator()).classes[2]
    assert (absent.precision, absent.recall, absent.f1, absent.support) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("form", "calibrator"), [("uncalibrated", Calibrator()), ("calibrated", CALIBRATOR)]
)
def test_log_loss_and_calibration_error_equal_scikit_learn_and_torchmetrics(
    report: ClassificationReport, form: str, calibrator: Calibrator
) -> None:
    logits, labels = _predictions()
    probabilities = calibrator(logits.double()).softmax(1)
    confidence: Confidence = getattr(report, form)
    assert confidence.log_loss == pytest.approx(log_loss(labels, probabilities), rel=1e-6)
    metric = MulticlassCalibrationError(num_classes=4, n_bins=15)
    assert confidence.ece == pytest.approx(float(metric(probabilities, labels)), abs=1e-6)


def test_weighted_bin_gaps_sum_to_the_calibration_error(report: ClassificationReport) -> None:
    confidence = report.calibrated
    gaps = np.abs(confidence.bin_confidence - confidence.bin_accuracy)
    total = np.nansum(gaps * confidence.bin_counts) / report.images
    assert total == pytest.approx(confidence.ece, abs=1e-6)
    assert confidence.bin_counts.sum() == report.images
    np.testing.assert_array_equal(np.isnan(gaps), confidence.bin_counts == 0)


def test_confidence_of_1_is_in_the_last_bin() -> None:
    # Confidences of 0.8, 0.8 (one of them correct) and 1.
    logits = torch.tensor([[0.8, 0.2], [0.8, 0.2], [1.0, 1e-30]]).log()
    labels = torch.tensor([0, 1, 0])
    bins = make_classification_report(logits, labels, ("a", "b"), Calibrator()).uncalibrated
    assert bins.bin_counts.tolist() == [0] * 12 + [2, 0, 1]
    assert bins.bin_confidence[12] == pytest.approx(0.8)
    assert bins.bin_accuracy[12] == 0.5
    assert bins.bin_accuracy[14] == 1


def test_top_losses_are_the_highest_log_losses(report: ClassificationReport) -> None:
    logits, labels = _predictions()
    probabilities = CALIBRATOR(logits.double()).softmax(1).numpy()
    losses = -np.log(probabilities[np.arange(400), labels])
    highest = np.argsort(-losses)[:16]
    assert [top.index for top in report.top_losses] == highest.tolist()
    for top in report.top_losses:
        row = probabilities[top.index]
        assert top.loss == pytest.approx(losses[top.index])
        assert top.label == labels[top.index]
        assert top.predicted == row.argmax()
        assert top.probability == pytest.approx(row.max())


def test_rival_is_the_label_of_an_error_or_else_the_second_class() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]).log()
    labels, classes = torch.tensor([0, 2]), ("a", "b", "c")
    wrong, correct = make_classification_report(logits, labels, classes, Calibrator()).top_losses
    assert (wrong.index, wrong.label, wrong.predicted, wrong.rival) == (1, 2, 0, 2)
    assert wrong.rival_probability == pytest.approx(0.2)
    assert (correct.index, correct.label, correct.predicted, correct.rival) == (0, 0, 0, 1)
    assert correct.rival_probability == pytest.approx(0.3)
