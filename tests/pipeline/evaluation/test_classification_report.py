"""The assessment of a split, against scikit-learn, torchmetrics and cases worked out by hand."""

import numpy as np
import pytest
import torch
from sklearn.metrics import classification_report, confusion_matrix, log_loss
from torchmetrics.classification import MulticlassCalibrationError

from pipeline.evaluation.classification_report import Assessment, Confidence, assess

CLASSES = ("ant", "bee", "cow", "dog")
TEMPERATURE = 1.7


def _answers(images: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are right more often than not, of classes that are filled unevenly."""
    rng = torch.Generator().manual_seed(0)
    shares = torch.tensor([0.5, 0.3, 0.15, 0.05])
    labels = torch.multinomial(shares, images, replacement=True, generator=rng)
    logits = 2 * torch.nn.functional.one_hot(labels, 4) + 1.5 * torch.randn(
        images, 4, generator=rng
    )
    return logits, labels


@pytest.fixture(scope="module")
def assessment() -> Assessment:
    return assess(*_answers(), CLASSES, TEMPERATURE)


def test_the_confusion_matrix_is_scikit_learns(assessment: Assessment) -> None:
    logits, labels = _answers()
    np.testing.assert_array_equal(assessment.confusion, confusion_matrix(labels, logits.argmax(1)))
    assert assessment.images == 400


def test_the_figures_of_each_class_are_scikit_learns(assessment: Assessment) -> None:
    logits, labels = _answers()
    expected = classification_report(
        labels, logits.argmax(1), target_names=CLASSES, output_dict=True
    )
    assert assessment.accuracy == pytest.approx(expected["accuracy"], abs=1e-12)
    for each in assessment.classes:
        theirs = expected[each.name]
        ours = (each.precision, each.recall, each.f1, each.support)
        names = ("precision", "recall", "f1-score", "support")
        assert ours == pytest.approx(tuple(theirs[name] for name in names), abs=1e-12)


def test_a_class_that_is_neither_there_nor_called_has_figures_of_0() -> None:
    logits = torch.tensor([[3.0, 0, 0], [0, 3.0, 0]])
    absent = assess(logits, torch.tensor([0, 1]), ("a", "b", "c"), 1.0).classes[2]
    assert (absent.precision, absent.recall, absent.f1, absent.support) == (0, 0, 0, 0)


@pytest.mark.parametrize(("form", "temperature"), [("uncalibrated", 1.0), ("calibrated", 1.7)])
def test_log_loss_and_calibration_error_are_scikit_learns_and_torchmetrics(
    assessment: Assessment, form: str, temperature: float
) -> None:
    logits, labels = _answers()
    probabilities = (logits.double() / temperature).softmax(1)
    confidence: Confidence = getattr(assessment, form)
    assert confidence.log_loss == pytest.approx(log_loss(labels, probabilities), rel=1e-6)
    metric = MulticlassCalibrationError(num_classes=4, n_bins=15)
    assert confidence.ece == pytest.approx(float(metric(probabilities, labels)), abs=1e-6)


def test_the_bins_of_the_diagram_add_up_to_the_calibration_error(assessment: Assessment) -> None:
    confidence = assessment.calibrated
    gaps = np.abs(confidence.bin_confidence - confidence.bin_accuracy)
    total = np.nansum(gaps * confidence.bin_counts) / assessment.images
    assert total == pytest.approx(confidence.ece, abs=1e-6)
    assert confidence.bin_counts.sum() == assessment.images
    np.testing.assert_array_equal(np.isnan(gaps), confidence.bin_counts == 0)


def test_bins_of_a_known_case() -> None:
    # Confidences of 0.8, 0.8 (one is right), and of 1, which belongs to the last bin.
    logits = torch.tensor([[0.8, 0.2], [0.8, 0.2], [1.0, 1e-30]]).log()
    bins = assess(logits, torch.tensor([0, 1, 0]), ("a", "b"), 1.0).uncalibrated
    assert bins.bin_counts.tolist() == [0] * 12 + [2, 0, 1]
    assert bins.bin_confidence[12] == pytest.approx(0.8)
    assert bins.bin_accuracy[12] == 0.5
    assert bins.bin_accuracy[14] == 1


def test_the_top_losses_are_the_images_that_cost_the_log_loss_most(assessment: Assessment) -> None:
    logits, labels = _answers()
    probabilities = (logits.double() / TEMPERATURE).softmax(1).numpy()
    losses = -np.log(probabilities[np.arange(400), labels])
    highest = np.argsort(-losses)[:16]
    assert [top.index for top in assessment.top_losses] == highest.tolist()
    for top in assessment.top_losses:
        row = probabilities[top.index]
        assert top.loss == pytest.approx(losses[top.index])
        assert top.label == labels[top.index]
        assert top.predicted == row.argmax()
        assert top.probability == pytest.approx(row.max())


def test_the_rival_of_an_error_is_the_label_and_of_a_right_answer_the_second_choice() -> None:
    logits = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]]).log()
    wrong, right = assess(logits, torch.tensor([0, 2]), ("a", "b", "c"), 1.0).top_losses
    assert (wrong.index, wrong.label, wrong.predicted, wrong.rival) == (1, 2, 0, 2)
    assert wrong.rival_probability == pytest.approx(0.2)
    assert (right.index, right.label, right.predicted, right.rival) == (0, 0, 0, 1)
    assert right.rival_probability == pytest.approx(0.3)
