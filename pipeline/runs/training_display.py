"""Progress of a training run in the terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.progress import Progress

from pipeline.progress_bars import progress_bar
from pipeline.training.callbacks import Callback
from pipeline.training.record import Batch, Record

if TYPE_CHECKING:
    from pipeline.training.trainer import Trainer

_STEPS_BETWEEN_UPDATES_ON_GPU = 20


def print_epoch(progress: Progress, record: Record, *, what: str = "", note: str = "") -> None:
    """Print the last epoch above the bar, with `what` behind its number and `note` at the end."""
    epoch = record.epochs[-1]
    progress.console.print(
        f"epoch {epoch.epoch:3}{what}  train loss {epoch.train_loss:.4f}  "
        f"validation loss {epoch.validation_loss:.4f}  "
        f"accuracy {epoch.validation_accuracy:.2%}  {epoch.seconds:.1f} s"
        f"{'  best' if record.improved else ''}{note}",
        highlight=False,
        soft_wrap=True,
    )


class TrainingBar(Callback):
    """Bar over all steps, with a line of text for every epoch."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("training", total=None)

    def end_batch(self, trainer: "Trainer", batch: Batch) -> None:
        """Advance the bar; on a GPU only now and then, since reading the loss makes it wait."""
        if trainer.device.type == "cpu" or batch.step % _STEPS_BETWEEN_UPDATES_ON_GPU == 0:
            self._progress.update(
                self._task,
                completed=batch.step,
                total=batch.steps,
                description=f"loss {float(batch.loss):.3f}",
            )

    def end_epoch(self, trainer: "Trainer", record: Record) -> None:
        """Print the losses, the accuracy and the time of the epoch."""
        frozen = record.epochs[-1].epoch <= trainer.recipe.freeze_epochs
        print_epoch(self._progress, record, what=" (head only)" if frozen else "")


@contextmanager
def training_bar() -> Iterator[TrainingBar]:
    """Draw a bar while the context lasts."""
    with progress_bar() as progress:
        yield TrainingBar(progress)
