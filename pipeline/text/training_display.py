"""Progress of the training of a character language model in the terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import Progress

from pipeline.progress_bars import progress_bar
from pipeline.runs.training_display import print_epoch
from pipeline.text.trainer import TextRecord, TextTrainer
from pipeline.training.record import Batch


class TextBar:
    """Bar over all steps, with a line of text for every epoch."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("training", total=None)

    def end_batch(self, trainer: TextTrainer, batch: Batch) -> None:
        """Advance the bar; with jitter the number of steps is an estimate."""
        self._progress.update(
            self._task,
            completed=batch.step,
            total=max(batch.step, batch.steps),
            description=f"loss {float(batch.loss):.3f}",
        )

    def end_epoch(self, trainer: TextTrainer, record: TextRecord) -> None:
        """Print the losses, the accuracy and the time of the epoch."""
        ends = record.epochs[-1].epoch in trainer.cycle_ends
        print_epoch(self._progress, record, note="  end of cycle" if ends else "")


@contextmanager
def text_bar() -> Iterator[TextBar]:
    """Draw a bar while the context lasts."""
    with progress_bar() as progress:
        yield TextBar(progress)
