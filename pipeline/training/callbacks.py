"""Callback interface of the trainer: callbacks observe a run and do not change it."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pydantic import JsonValue

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.training.trainer import Record, Trainer


@dataclass(frozen=True, kw_only=True, slots=True)
class Epoch:
    """Results of one epoch; a line of `epochs.jsonl`."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_accuracy: float
    learning_rate: float
    seconds: float

    @property
    def rank(self) -> tuple[float, float]:
        """Sort key, higher is better: validation accuracy, then validation loss."""
        return self.validation_accuracy, -self.validation_loss

    def as_json(self) -> dict[str, float]:
        """Return the fields by name, as in `epochs.jsonl`."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """The step that was just taken."""

    step: int
    """Number of the step, from 1."""
    steps: int
    """Number of steps in the whole run."""
    epoch: int
    loss: "Tensor"
    """Mean over the batch and all processes: a scalar on the trainer's device."""
    learning_rate: float
    """Highest rate of all layer groups."""
    momentum: float


class Callback:
    """Base class: does nothing at any event. Callbacks are called in order."""

    def begin_training(self, trainer: "Trainer") -> None:
        """Prepare, before the first batch of a run or after a resume."""

    def begin_batch(self, trainer: "Trainer") -> None:
        """Prepare, before the forward pass of the step `trainer.step` + 1."""

    def end_batch(self, trainer: "Trainer", batch: Batch) -> None:
        """Observe a step, after the update of the weights."""

    def end_epoch(self, trainer: "Trainer", record: "Record") -> None:
        """Observe an epoch, which was validated and is the last of `record`."""

    def end_training(self, trainer: "Trainer") -> None:
        """Clean up, after the last epoch or a failure."""

    def state(self) -> "dict[str, Tensor]":
        """Return what a resumed run needs; it is saved at the end of each epoch."""
        return {}

    def metadata(self) -> dict[str, JsonValue]:
        """Return what a reader of the saved tensors needs to know."""
        return {}

    def restore(self, state: "dict[str, Tensor]") -> None:
        """Continue from a `state`."""
