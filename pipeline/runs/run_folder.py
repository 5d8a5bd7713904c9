"""A run folder: `config.json`, `epochs.jsonl`, `checkpoint.safetensors`, `history.safetensors`.

During training there is also `state.safetensors`, from which a run can be resumed. All other files
except `config.json` are written from it, so that they agree after an interruption.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import RunError
from pipeline.training.record import Epoch

CONFIG, EPOCHS, CHECKPOINT = "config.json", "epochs.jsonl", "checkpoint.safetensors"
HISTORY, STATE, INITIAL = "history.safetensors", "state.safetensors", "initial.safetensors"
TEACHERS = "teachers.safetensors"


def is_finished(folder: Path) -> bool:
    """Tell whether a run has finished its last epoch."""
    return (folder / CHECKPOINT).is_file() and not (folder / STATE).is_file()


def read_epochs(folder: Path) -> list[Epoch]:
    """Read the finished epochs of a run; none if there is no run.

    Raises:
        RunError: they cannot be read.

    """
    file = folder / EPOCHS
    if not file.is_file():
        return []
    try:
        return epochs_of_lines(file.read_text())
    except (ValueError, TypeError, OSError) as error:
        raise RunError(f"{folder} cannot be read: {error}") from error


def epochs_of_lines(text: str) -> list[Epoch]:
    """Parse the content of `epochs.jsonl`."""
    return [Epoch(**json.loads(line)) for line in text.splitlines()]


def epochs_as_lines(epochs: Sequence[Epoch]) -> str:
    """Write the content of `epochs.jsonl`."""
    return "".join(json.dumps(epoch.as_json()) + "\n" for epoch in epochs)
