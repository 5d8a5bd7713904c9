"""Loss of a batch, by its labels or by the answers of teachers, and when it counts as diverging."""

import math

import torch
from torch import Tensor, nn

from pipeline.errors import RunError
from pipeline.training.augmentation.augmenter import Drawn
from pipeline.training.device import autocast
from pipeline.training.distillation import Teachers
from pipeline.training.record import Batch

# Last step at which no loss counts as diverging, and the multiple of the loss of guessing.
_SETTLING_STEPS = 20
_DIVERGED = 4.0


class Loss:
    """Mean loss of a batch.

    Each label of a mixture counts as much as its pixels. The target of outliers is the same
    probability for every class.

    Args:
        labels: of all training images, int64 (N,), on the device.
        classes: number of classes.
        weights: of the classes, float32 (K,), on the device; None: all count the same.
        label_smoothing: probability that the targets share among all classes.
        teachers: the models to distil from, instead of learning the labels.

    """

    def __init__(
        self,
        labels: Tensor,
        *,
        classes: int,
        weights: Tensor | None,
        label_smoothing: float,
        teachers: Teachers | None,
    ) -> None:
        self._labels, self._classes, self._weights = labels, classes, weights
        self._label_smoothing, self.teachers = label_smoothing, teachers

    def __call__(self, logits: Tensor, indices: Tensor, drawn: Drawn) -> Tensor:
        """Return the loss, a scalar, of the logits (B, K) of the images at `indices`.

        `drawn` says how these were augmented.
        """
        if self.teachers is not None:
            return self._distilled(self.teachers, logits, drawn)
        losses = self._of_labels(logits, indices)
        if drawn.mixture is not None:
            own = drawn.mixture.own
            losses = own * losses + (1 - own) * self._of_labels(logits, drawn.mixture.partners)
        if drawn.outliers is not None:
            losses = torch.where(drawn.outliers, -logits.log_softmax(1).mean(1), losses)
        return losses.sum() / len(losses)

    @property
    def of_guessing(self) -> float:
        """Loss of the same probability for every class."""
        return math.log(self._classes) * (self.teachers.scale if self.teachers else 1)

    def _distilled(self, teachers: Teachers, logits: Tensor, drawn: Drawn) -> Tensor:
        with autocast(logits.device):
            answers = teachers.answer(
                drawn.images_nhwc if drawn.before_nhwc is None else drawn.before_nhwc
            )
        if drawn.outliers is not None:
            answers = torch.where(drawn.outliers[:, None], 1 / self._classes, answers)
        return teachers.losses(logits, answers).mean()

    def _of_labels(self, logits: Tensor, indices: Tensor) -> Tensor:
        return nn.functional.cross_entropy(
            logits,
            self._labels[indices.to(logits.device)],
            weight=self._weights,
            label_smoothing=self._label_smoothing,
            reduction="none",
        )


class DivergenceCheck:
    """Check that a loss stays a number, and does not end far above that of guessing.

    Args:
        of_guessing: loss of the same probability for every class.
        peak: highest learning rate of the run, for the message.

    Attributes:
        smoothed: moving average of the loss; NaN before the first step.

    """

    def __init__(self, of_guessing: float, peak: float) -> None:
        self._of_guessing, self._peak = of_guessing, peak
        self.smoothed = math.nan

    def __call__(self, batch: Batch) -> None:
        """Check a step.

        Raises:
            RunError: the loss diverges or is no number.

        """
        loss, before = float(batch.loss), self.smoothed
        self.smoothed = loss if math.isnan(before) else 0.9 * before + 0.1 * loss
        # Both must be high: a loss that has come down from a high start does not diverge.
        worst = min(loss, self.smoothed)
        diverged = batch.step > _SETTLING_STEPS and worst > _DIVERGED * self._of_guessing
        if math.isfinite(loss) and not diverged:
            return
        said = f"is {loss}"
        if diverged:
            said = f"diverges ({loss:.3g}, and guessing gives {self._of_guessing:.3g})"
        raise RunError(
            f"the loss {said} in epoch {batch.epoch}, step {batch.step}, at a rate of "
            f"{batch.learning_rate:.3g}: the peak rate {self._peak:g} is too high; try "
            f"--lr {min(self._peak, batch.learning_rate) / 4:.2g}, or let `limelight "
            "lr-find` suggest one"
        )
