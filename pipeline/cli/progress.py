"""A training's progress in the terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.cli.console import console
from pipeline.training.callbacks import Batch, Callback
from pipeline.training.trainer import Record, Trainer


class TrainingBar(Callback):
    """A bar over all steps, with a line for every epoch."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("training", total=None)

    def end_batch(self, trainer: Trainer, batch: Batch) -> None:
        """Move the bar; a GPU is only asked for its loss now and then."""
        if trainer.device.type == "cpu" or batch.step % 20 == 0:
            self._progress.update(
                self._task,
                completed=batch.step,
                total=batch.steps,
                description=f"loss {float(batch.loss):.3f}",
            )

    def end_epoch(self, trainer: Trainer, record: Record) -> None:
        """Print what the epoch came to."""
        epoch = record.epochs[-1]
        frozen = " (head only)" if epoch.epoch <= trainer.recipe.freeze_epochs else ""
        self._progress.console.print(
            f"epoch {epoch.epoch:3}{frozen}  train loss {epoch.train_loss:.4f}  "
            f"validation loss {epoch.validation_loss:.4f}  "
            f"accuracy {epoch.validation_accuracy:.2%}  {epoch.seconds:.1f} s"
            f"{'  best' if record.improved else ''}",
            highlight=False,
            soft_wrap=True,
        )


@contextmanager
def training_bar() -> Iterator[TrainingBar]:
    """A bar that is drawn while the context lasts."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console) as progress:
        yield TrainingBar(progress)
