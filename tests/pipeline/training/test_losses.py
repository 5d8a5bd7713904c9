"""The loss of a batch, and when it stops a run."""

import math
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import RunError
from pipeline.training.augmentation.augmenter import Drawn
from pipeline.training.divergence import DivergenceCheck
from pipeline.training.losses import Loss
from pipeline.training.record import Batch


def loss_of(labels: Tensor, *, weights: Tensor | None = None) -> Loss:
    return Loss(labels, classes=10, weights=weights, label_smoothing=0.0, teachers=None)


def check_all(losses: Iterable[float], *, every: int = 1) -> float:
    """Check the losses of a run that guesses among ten classes; return the moving average."""
    check = DivergenceCheck(math.log(10), peak=0.4)
    for number, loss in enumerate(losses, 1):
        check(
            Batch(
                step=number * every,
                steps=100,
                epoch=4,
                loss=torch.tensor(loss),
                learning_rate=0.1,
                momentum=0.9,
            )
        )
    return check.smoothed


def test_class_weight_of_two_equals_repeated_images() -> None:
    """Compare a class weight of 2 with two copies of the class, up to the mean."""
    torch.manual_seed(0)
    logits, labels = torch.randn(4, 10), torch.tensor([0, 1, 1, 2])
    weights = torch.ones(10)
    weights[1] = 2.0
    repeated = torch.tensor([0, 1, 1, 2, 2, 3])
    expected = nn.functional.cross_entropy(logits[repeated], labels[repeated], reduction="sum")
    loss = loss_of(labels, weights=weights)(logits, torch.arange(4), Drawn(torch.empty(0)))
    torch.testing.assert_close(loss, expected / 4)


def test_target_of_an_outlier_is_the_same_for_every_class() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(3, 10), torch.tensor([4, 1, 7])
    drawn = Drawn(torch.empty(0), outliers=torch.tensor([False, True, False]))
    each = nn.functional.cross_entropy(logits, labels, reduction="none")
    uniform = nn.functional.cross_entropy(logits[1], torch.full((10,), 0.1))
    loss = loss_of(labels)(logits, torch.arange(3), drawn)
    torch.testing.assert_close(loss, (each[0] + uniform + each[2]) / 3)


def test_loss_of_guessing_is_that_of_equal_probabilities() -> None:
    loss = loss_of(torch.tensor([3]))
    found = loss(torch.zeros(1, 10), torch.arange(1), Drawn(torch.empty(0)))
    assert loss.of_guessing == pytest.approx(float(found))


def test_growing_finite_loss_stops_the_run() -> None:
    losses = [2.3] * 30 + [2.3 * 1.1**step for step in range(60)]
    with pytest.raises(RunError, match=r"diverges \(1\d.*, and guessing gives 2\.3\).*--lr 0\.025"):
        check_all(losses)


def test_loss_that_falls_from_a_high_start_does_not_stop_the_run() -> None:
    assert check_all([1000.0] * 10 + [2.3] * 100) < 3


def test_single_high_loss_does_not_stop_a_run_that_reads_few_losses() -> None:
    """On a GPU, the loss of the first step is not read."""
    assert math.isfinite(check_all([2.0, 0.5, 0.3, 12.0], every=20))


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_loss_that_is_no_number_stops_the_run(loss: float) -> None:
    with pytest.raises(RunError, match=rf"the loss is {loss} in epoch 4, step 2, .*rate 0\.4 is"):
        check_all([2.3, loss])
