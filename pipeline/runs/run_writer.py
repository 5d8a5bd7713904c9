"""Write the files of a run folder during training, so that they always agree."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from torch import Tensor

from pipeline.atomic_files import UnwritableError, write_text
from pipeline.runs.run_folder import (
    CHECKPOINT,
    EPOCHS,
    HISTORY,
    STATE,
    epochs_as_lines,
    epochs_of_lines,
)
from pipeline.runs.tensor_files import read_tensors, write_tensors
from pipeline.training.callbacks import Callback
from pipeline.training.record import Record
from pipeline.training.weights import Weights, under


class Resumable(Protocol):
    """Trainer whose progress can be saved."""

    def state(self) -> Weights:
        """Copy everything that the rest of the run depends on."""

    def restore(self, state: Weights) -> None:
        """Continue from a `state`."""


@contextmanager
def saying_how_to_resume() -> Iterator[None]:
    """Let the error of a file that cannot be written say how to continue its run."""
    try:
        yield
    except UnwritableError as error:
        advice = (
            "the last epoch that was saved is untouched: make room, then continue the run with "
            f"--resume {error.path.parent}"
        )
        raise UnwritableError(error.path, error.reason, advice) from error


class RunWriter(Callback):
    """Callback that writes a run folder; each file is whole at every moment."""

    def __init__(self, folder: Path, watching: Mapping[str, Callback]) -> None:
        self._folder = folder
        self.watching = watching
        """The callbacks whose state is saved, by the prefix of the names in it."""

    @saying_how_to_resume()
    def end_epoch(self, trainer: Resumable, record: Record) -> None:
        """Save everything that a resume needs, then the results."""
        state = {f"trainer.{name}": value for name, value in trainer.state().items()}
        state |= {f"best.{name}": value for name, value in record.weights.items()}
        history = self._history()
        state |= {f"history.{name}": value for name, value in history.items()}
        write_tensors(self._folder / STATE, state, {"epochs": epochs_as_lines(record.epochs)})
        self._write_results(record, history)

    @saying_how_to_resume()
    def resume(self, trainer: Resumable, into: type[Record] = Record) -> Record:
        """Restore `trainer` and the watching callbacks from the saved state, and a record.

        Raises:
            RunError: the state cannot be read, or belongs to another run.

        """
        state, metadata = read_tensors(self._folder / STATE)
        trainer.restore(under("trainer", state))
        history = under("history", state)
        for name, callback in self.watching.items():
            callback.restore(under(name, history) if name else history)
        epochs = epochs_of_lines(metadata["epochs"])
        record = into(epochs=epochs, weights=under("best", state))
        self._write_results(record, history)
        return record

    @saying_how_to_resume()
    def finish(self, record: Record) -> None:
        """Write the results, and delete the state."""
        self._write_results(record, self._history())
        (self._folder / STATE).unlink(missing_ok=True)

    def _history(self) -> dict[str, Tensor]:
        return {
            f"{name}.{key}" if name else key: value.contiguous()
            for name, callback in self.watching.items()
            for key, value in callback.state().items()
        }

    def _write_results(self, record: Record, history: dict[str, Tensor]) -> None:
        metadata = {
            key: json.dumps(value)
            for callback in self.watching.values()
            for key, value in callback.metadata().items()
        }
        write_tensors(self._folder / HISTORY, history, metadata)
        best = {"epoch": str(record.best.epoch)}
        write_tensors(self._folder / CHECKPOINT, record.weights, best)
        write_text(self._folder / EPOCHS, epochs_as_lines(record.epochs))
