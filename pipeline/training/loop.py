"""The training loop: epochs, their validation, and the callbacks that observe them."""

import time
from collections.abc import Sequence

import torch

from pipeline.data.registry import Split
from pipeline.training.callbacks import Callback
from pipeline.training.record import Epoch, Record
from pipeline.training.trainer import Trainer
from pipeline.training.weights import check_finite


def train(
    trainer: Trainer,
    validation: Split,
    callbacks: Sequence[Callback] = (),
    record: Record | None = None,
) -> Record:
    """Train to the end, and choose the epoch by `validation`.

    `record` has the epochs before a resume.

    Raises:
        RunError: the loss diverges or stops being a number.

    """
    record = record or Record()
    for callback in callbacks:
        callback.begin_training(trainer)
    try:
        while trainer.epoch < trainer.epochs and not record.stalled(trainer.recipe.patience):
            started = time.perf_counter()
            total = torch.zeros((), device=trainer.device)
            for batch in trainer.run_epoch(callbacks):
                total += batch.loss
            validation_loss, accuracy = trainer.validate(validation)
            epoch = Epoch(
                epoch=trainer.epoch,
                train_loss=float(total) / trainer.steps_per_epoch,
                validation_loss=validation_loss,
                validation_accuracy=accuracy,
                learning_rate=batch.learning_rate,
                seconds=time.perf_counter() - started,
            )
            record.epochs.append(epoch)
            if record.improved:
                record.weights = trainer.weights()
                check_finite(record.weights)
            for callback in callbacks:
                callback.end_epoch(trainer, record)
    finally:
        for callback in callbacks:
            callback.end_training(trainer)
    return record
