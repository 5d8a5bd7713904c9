"""The files of a run folder, written as training goes so that they agree at every moment."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from pipeline.errors import RunError
from pipeline.runs.atomic_files import write_text
from pipeline.runs.tensor_files import read_tensors, write_tensors
from pipeline.training.callbacks import Callback, Epoch
from pipeline.training.trainer import Record, Trainer
from pipeline.training.weights import under

CONFIG, EPOCHS, CHECKPOINT = "config.json", "epochs.jsonl", "checkpoint.safetensors"
HISTORY, STATE, INITIAL = "history.safetensors", "state.safetensors", "initial.safetensors"
TEACHERS = "teachers.safetensors"


class RunWriter(Callback):
    """Writes a run folder as training goes; each file is whole at every moment."""

    def __init__(self, folder: Path, watching: Mapping[str, Callback]) -> None:
        self._folder = folder
        self.watching = watching
        """The callbacks whose state is saved, by the prefix of its names."""

    def end_epoch(self, trainer: Trainer, record: Record) -> None:
        """Save everything that a resume needs, then the files that others read."""
        state = {f"trainer.{name}": value for name, value in trainer.state().items()}
        state |= {f"best.{name}": value for name, value in record.weights.items()}
        history = self._history()
        state |= {f"history.{name}": value for name, value in history.items()}
        write_tensors(self._folder / STATE, state, {"epochs": _as_lines(record.epochs)})
        self._write_results(record, history)

    def resume(self, trainer: Trainer) -> Record:
        """Bring `trainer` and the watching callbacks to where the saved state is.

        Raises:
            RunError: the state cannot be read, or is another training's.

        """
        state, metadata = read_tensors(self._folder / STATE)
        trainer.restore(under("trainer", state))
        history = under("history", state)
        for name, callback in self.watching.items():
            callback.restore(under(name, history) if name else history)
        epochs = _of_lines(metadata["epochs"])
        record = Record(epochs=epochs, weights=under("best", state))
        self._write_results(record, history)
        return record

    def finish(self, record: Record) -> None:
        """Leave the results only."""
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
        write_text(self._folder / EPOCHS, _as_lines(record.epochs))


def read_epochs(folder: Path) -> list[Epoch]:
    """The epochs that a run has behind it; none where there is no run.

    Raises:
        RunError: they cannot be read.

    """
    file = folder / EPOCHS
    if not file.is_file():
        return []
    try:
        return _of_lines(file.read_text())
    except (ValueError, TypeError, OSError) as error:
        raise RunError(f"{folder} cannot be read: {error}") from error


def _of_lines(text: str) -> list[Epoch]:
    return [Epoch(**json.loads(line)) for line in text.splitlines()]


def _as_lines(epochs: Sequence[Epoch]) -> str:
    return "".join(json.dumps(epoch.as_json()) + "\n" for epoch in epochs)
