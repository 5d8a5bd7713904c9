"""Loss of a batch, by its labels or by the answers of teachers."""

import math

import torch
from torch import Tensor, nn

from pipeline.training.augmentation.augmenter import Drawn
from pipeline.training.device import autocast
from pipeline.training.distillation import Teachers


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
